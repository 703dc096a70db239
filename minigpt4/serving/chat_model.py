"""A model that answers: what the page, the command line and the server ask."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from minigpt4.common.errors import DataError
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.serving.engine import Engine
from minigpt4.serving.messages import Content, Message, to_dialogue
from minigpt4.serving.pictures import ImageLike, Picture
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.replies import Reply
from minigpt4.serving.session import ChatSession

# A question of `ChatModel.batch`.
Question = Content | tuple[Content, Sequence[ImageLike]]
# What is asked about images that come without a word.
DESCRIBE = "Describe this image."


class ChatModel:
    """Answers questions about images. Any number of threads may ask; they take turns, token by token.

    Args:
        model: in evaluation mode.
        processor: makes image tensors of pictures.
        limits: `keep_caches`, `keep_images`: as of `Engine`.

    Attributes:
        defaults: the settings that a question may change.
    """

    def __init__(self, model: MiniGPTBase, processor: ImageProcessor, **limits: int) -> None:
        self.model, self.processor = model, processor
        self.defaults = GenerationSettings()
        self.engine = Engine(model, **limits)

    @overload
    def chat(
        self,
        question: Content,
        images: Sequence[ImageLike] = (),
        stream: Literal[False] = False,
        **settings: Any,
    ) -> str: ...
    @overload
    def chat(
        self, question: Content, images: Sequence[ImageLike] = (), *, stream: Literal[True], **settings: Any
    ) -> Reply: ...
    def chat(
        self, question: Content, images: Sequence[ImageLike] = (), stream: bool = False, **settings: Any
    ) -> str | Reply:
        """Answer one question.

        Args:
            question: a text, which follows the images; or texts and images in their order (where a path is a
                `Path`, and a str is a text). Images without a word are described.
            images: paths, files' bytes, PIL images, uint8 arrays [H, W, 3] or [H, W], or tensors [3, H, W].
            stream: return the reply's pieces as they come, and not the whole text.
            settings: fields of GenerationSettings.

        Raises:
            ConfigError: naming a setting that is out of bounds.
            DataError: for an empty question, an image that cannot be read, or a question that is too long.
            TypeError: for a setting that there is not.
        """
        reply = self.reply([self.message("user", question, images)], **settings)
        return reply if stream else reply.wait()

    def start_chat(self, system: str | None = None) -> ChatSession:
        """A dialogue that remembers what was said.

        Args:
            system: what stands before the first turn; None: what the model's template has there.
        """
        return ChatSession(self, system)

    def batch(self, questions: Sequence[Question], batch_size: int = 8, **settings: Any) -> list[str]:
        """Answer many questions: what `chat` answers to each, faster.

        Args:
            questions: each as `chat` takes it, a text; or a pair (text, images).
            batch_size: how many are answered side by side.
            settings: for all of them, as in `chat`.
        """
        chosen = self.settings(**settings)
        answers: list[str] = []
        for start in range(0, len(questions), batch_size):
            dialogues = [[self._asked(question)] for question in questions[start : start + batch_size]]
            answers += [reply.text for reply in self.replies(dialogues, [chosen] * len(dialogues))]
        return answers

    def _asked(self, question: Question) -> Message:
        content, images = question if isinstance(question, tuple) else (question, ())
        return self.message("user", content, images)

    def settings(self, **changes: Any) -> GenerationSettings:
        """The default settings with some changed. Raises ConfigError and TypeError."""
        return GenerationSettings(**{**vars(self.defaults), **changes})

    def message(
        self, role: Literal["system", "user", "assistant"], content: Content, images: Sequence[ImageLike] = ()
    ) -> Message:
        """What one side says, its images made ready.

        Args:
            role: whose it is.
            content: a text, or texts and images in their order.
            images: what stands before it.

        Raises:
            DataError: for an image that cannot be read.
        """
        shown = [Picture.of(image, self.processor) for image in images]
        parts = [content] if isinstance(content, str) else content
        ready = [part if isinstance(part, str) else Picture.of(part, self.processor) for part in parts]
        return Message(role, (*shown, *ready))

    def reply(self, messages: Sequence[Message], **settings: Any) -> Reply:
        """The reply to a dialogue, which is generated as it is read.

        Args:
            messages: perhaps a system text, then user and assistant in turn, the user last. Where there is no
                system text, the template's stands before them.
            settings: as in `chat`.

        Raises:
            ConfigError, DataError, TypeError: as `chat`, before anything is generated.
        """
        chosen = self.settings(**settings)
        return self.engine.reply(self.prompt(messages, chosen), chosen)

    def replies(
        self, dialogues: Sequence[Sequence[Message]], settings: Sequence[GenerationSettings]
    ) -> list[Reply]:
        """The finished replies to several dialogues, generated side by side; each has its own settings.

        Raises:
            DataError: as `reply`, for the first dialogue that cannot be used.
        """
        pairs = zip(dialogues, settings, strict=True)
        return self.engine.replies([self.prompt(*pair) for pair in pairs], settings)

    def warm_up(self) -> None:
        """Generate a short reply, so that whatever is compiled or set up at first use is ready."""
        size = self.processor.image_size
        nothing = np.zeros((size, size, 3), np.uint8)
        self.chat(DESCRIBE, images=[nothing], min_new_tokens=4, max_new_tokens=4)

    def prompt(self, messages: Sequence[Message], settings: GenerationSettings | None = None) -> Prompt:
        """What the model is given for its next reply. Raises DataError."""
        if not messages or messages[-1].role != "user":
            raise DataError("the last message must be the user's")
        system = self.model.template.system
        if messages[0].role != "system" and system:
            messages = [Message("system", (system,)), *messages]
        dialogue = to_dialogue(messages, DESCRIBE)
        pictures = [picture for message in messages for picture in message.images]
        room = self.engine.room(settings or self.defaults)
        return Prompt.of(self.model, dialogue, pictures, room, self.engine.longest)
