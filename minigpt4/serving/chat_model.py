"""A model with its image processor, ready for inference."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from minigpt4.common.errors import ConfigError, DataError, nearest
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.processors.video import VideoReader
from minigpt4.serving.engine import Engine
from minigpt4.serving.messages import Content, Message, to_dialogue
from minigpt4.serving.pictures import ImageLike, Picture, listed
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.replies import Reply
from minigpt4.serving.session import ChatSession
from minigpt4.serving.videos import SeenVideo, VideoFile, VideoLike, listed_videos

# A question of `ChatModel.batch`.
Question = Content | tuple[Content, Sequence[ImageLike]]
# The question for images without one.
DESCRIBE = "Describe this image."


class ChatModel:
    """Answers questions about images. Thread-safe: concurrent replies are interleaved token by token.

    Args:
        model: in evaluation mode.
        processor: turns pictures into image tensors.
        video: which frames of a video are looked at.
        limits: `keep_caches`, `keep_images`, `record` of `Engine`.

    Attributes:
        defaults: the settings of replies; each call may override some.
    """

    def __init__(
        self,
        model: MiniGPTBase,
        processor: ImageProcessor,
        video: VideoReader | None = None,
        **limits: Any,
    ) -> None:
        self.model, self.processor, self.video = model, processor, video or VideoReader()
        self.defaults = GenerationSettings()
        self.engine = Engine(model, **limits)

    @overload
    def chat(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        stream: Literal[False] = False,
        videos: VideoLike | Sequence[VideoLike] = ...,
        **settings: Any,
    ) -> str: ...
    @overload
    def chat(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        *,
        stream: Literal[True],
        videos: VideoLike | Sequence[VideoLike] = ...,
        **settings: Any,
    ) -> Reply: ...
    def chat(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        stream: bool = False,
        videos: VideoLike | Sequence[VideoLike] = (),
        **settings: Any,
    ) -> str | Reply:
        """Answer one question.

        Args:
            question: a text, which follows the images; or a list of texts, images and videos in order (where
                a `Path` is an image, a `VideoFile` a video, and a str is text). Without words, what is shown
                is described.
            images: paths, files' bytes, PIL images, uint8 arrays [H, W, 3] or [H, W], or tensors [3, H, W].
            stream: return a `Reply`, which streams the text, instead of the whole text.
            videos: paths, files' bytes, or `VideoFile(path, subtitles)`; they follow the images.
            settings: fields of GenerationSettings.

        Raises:
            ConfigError: naming a setting that is unknown or out of bounds.
            DataError: for an empty question, an image that cannot be read, or a question that is too long.
        """
        reply = self.reply([self.message("user", question, images, videos)], **settings)
        return reply if stream else reply.wait()

    def start_chat(self, system: str | None = None) -> ChatSession:
        """A dialogue, which keeps its history.

        Args:
            system: the system text; None for the template's.
        """
        return ChatSession(self, system)

    def batch(self, questions: Sequence[Question], batch_size: int = 8, **settings: Any) -> list[str]:
        """Answer many questions in batches; each as `chat` would.

        Args:
            questions: each a question as for `chat`, or a pair (question, images).
            batch_size: questions per batch.
            settings: for all of them, as for `chat`.
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
        """The defaults with changes. Raises ConfigError."""
        for name in changes.keys() - vars(self.defaults).keys():
            known = list(vars(self.defaults))
            raise ConfigError(f"unknown setting {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        return GenerationSettings(**{**vars(self.defaults), **changes})

    def message(
        self,
        role: Literal["system", "user", "assistant"],
        content: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        videos: VideoLike | Sequence[VideoLike] = (),
    ) -> Message:
        """A message, with its images and videos read and preprocessed.

        Args:
            role: of the sender.
            content: a text, or texts, images and videos in order.
            images, videos: one or several, which come before it.

        Raises:
            DataError: for an image or a video that cannot be read.
        """
        shown = [Picture.of(image, self.processor) for image in listed(images)]
        seen = [SeenVideo.of(video, self.video, self.processor) for video in listed_videos(videos)]
        parts = [content] if isinstance(content, str) else content
        return Message(role, (*shown, *seen, *map(self._part, parts)))

    def _part(self, part: ImageLike | VideoFile | SeenVideo) -> str | Picture | SeenVideo:
        if isinstance(part, VideoFile | SeenVideo):
            return SeenVideo.of(part, self.video, self.processor)
        return part if isinstance(part, str) else Picture.of(part, self.processor)

    def reply(self, messages: Sequence[Message], **settings: Any) -> Reply:
        """The reply to a dialogue; it is generated while it is read.

        Args:
            messages: an optional system text, then user and assistant alternating, the user last. Without a
                system text, the template's is used.
            settings: as for `chat`.

        Raises:
            ConfigError, DataError: as for `chat`, before anything is generated.
        """
        chosen = self.settings(**settings)
        return self.engine.reply(self.prompt(messages, chosen), chosen)

    def replies(
        self, dialogues: Sequence[Sequence[Message]], settings: Sequence[GenerationSettings]
    ) -> list[Reply]:
        """The finished replies to several dialogues in one batch, each with its own settings.

        Raises:
            DataError: for the first invalid dialogue.
        """
        pairs = zip(dialogues, settings, strict=True)
        return self.engine.replies([self.prompt(*pair) for pair in pairs], settings)

    def warm_up(self) -> None:
        """Generate a short reply, so that compilation and lazy initialisation are done."""
        size = self.processor.image_size
        blank = np.zeros((size, size, 3), np.uint8)
        self.chat(DESCRIBE, images=[blank], min_new_tokens=4, max_new_tokens=4)

    def prompt(self, messages: Sequence[Message], settings: GenerationSettings | None = None) -> Prompt:
        """The model's input for its next reply. Raises DataError."""
        if not messages or messages[-1].role != "user":
            raise DataError("the last message must be the user's")
        system = self.model.template.system
        if messages[0].role != "system" and system:
            messages = [Message("system", (system,)), *messages]
        dialogue = to_dialogue(messages, DESCRIBE)
        pictures = [picture for message in messages for picture in message.images]
        room = self.engine.room(settings or self.defaults)
        return Prompt.of(self.model, dialogue, pictures, room, self.engine.longest)
