"""Talking with a model about pictures.

Shapes: P tokens per image, T tokens per prompt, D the language model's width.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from minigpt4.common.errors import BadText, DataError
from minigpt4.conversation.messages import Conversation
from minigpt4.conversation.streaming import ReplyStream
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.processors.pictures import open_picture
from minigpt4.prompts.context import shortened
from minigpt4.prompts.dialogue import check_text
from minigpt4.prompts.reply_end import ReplyReader, read_reply
from minigpt4.prompts.templates import IMAGE_TURN, without_places

log = logging.getLogger(__name__)


class Chat:
    """The original's chat, for code written for it. One `Chat` serves any number of conversations.

    A dialogue is a `Conversation(model.template)` and a list of its images, in order.

    Args:
        model: a MiniGPT4.
        vis_processor: makes an image tensor of a picture.
        device: as in the original; the model puts images where it is itself.
        stopping_criteria: more reasons to stop than the model's end ids and the template's end symbol.
    """

    def __init__(
        self,
        model: MiniGPTBase,
        vis_processor: ImageProcessor | Callable[[Image.Image], torch.Tensor],
        device: str | torch.device | None = None,
        stopping_criteria: list[StoppingCriteria] | None = None,
    ) -> None:
        self.model = model
        self.vis_processor = vis_processor
        self.device = model.device if device is None else torch.device(device)
        self.stopping_criteria = StoppingCriteriaList([*(stopping_criteria or []), *model.text_stops()])

    def upload_img(
        self,
        image: Image.Image | str | Path | torch.Tensor,
        conv: Conversation,
        img_list: list[Any],
    ) -> str:
        """Put an image into the dialogue; `encode_img` reads it.

        Args:
            image: a picture, a path, or a tensor [3, H, W] (uint8, or normalised floats).
        """
        self._say(IMAGE_TURN, conv)
        img_list.append(image)
        return "Received."

    def encode_img(self, img_list: list[Any]) -> None:
        """Replace each image in the list by its embeddings [1, P, D], unless it is embedded already."""
        for place, image in enumerate(img_list):
            if not _is_embedded(image):
                img_list[place] = self._embed_image(image)

    @torch.no_grad()
    def _embed_image(self, image: Image.Image | str | Path | torch.Tensor) -> torch.Tensor:
        if isinstance(image, (str, Path)):
            image = open_picture(image)
        if not isinstance(image, torch.Tensor):
            # uint8 is normalised by the model, with its own encoder's statistics.
            process = self.vis_processor
            process = process.to_batch if isinstance(process, ImageProcessor) else process
            image = process(image)
        return self.model.encode_img(image.reshape(1, *image.shape[-3:]))[0]

    def ask(self, text: str, conv: Conversation) -> None:
        """Add a question; it follows the image or the question that has not been answered yet.

        Raises:
            DataError: for text that a tokenizer cannot be given.
        """
        try:
            check_text(text)
        except BadText as error:
            raise DataError(f"please ask something else: {error}") from error
        self._say(without_places(text), conv)

    def _say(self, text: str, conv: Conversation) -> None:
        user = conv.roles[0]
        _drop_unanswered(conv)
        if conv.messages and conv.messages[-1][0] == user:
            before = conv.messages[-1][1]
            conv.messages[-1][1] = f"{before.rstrip()} {text}"
        else:
            conv.append_message(user, text)

    @torch.no_grad()
    def answer_prepare(
        self,
        conv: Conversation,
        img_list: list[Any],
        max_new_tokens: int = 300,
        num_beams: int = 1,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.05,
        length_penalty: float = 1,
        temperature: float = 1.0,
        max_length: int = 2000,
    ) -> dict[str, Any]:
        """Open the reply in `conv` and return the arguments of `model_generate`.

        Args:
            max_new_tokens, min_length: length of the reply in tokens.
            temperature: 0 (or close to it) is greedy decoding.
            max_length: of prompt and reply together; as above `max_context_len`, old turns are dropped.

        Raises:
            DataError: if the first image and the last question are too long by themselves.
        """
        self.encode_img(img_list)
        _drop_unanswered(conv)
        asked = conv.copy()
        asked.append_message(conv.roles[1], None)
        room = min(self.model.max_context_len, max_length - max_new_tokens)
        try:
            short = shortened(self.model.prompts, asked.dialogue(), room)
        except BadText as error:
            raise DataError(f"the question is too long: {error}") from error
        if short.left_out:
            log.info("the chat is longer than %d tokens: dropped %d old turns", room, short.left_out)
        embeds = self.model.get_context_emb(short.dialogue, [img_list[number] for number in short.images])
        conv.append_message(conv.roles[1], None)
        sample = temperature >= GenerationSettings.GREEDY_BELOW
        return {
            "inputs_embeds": embeds,
            "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_length,
            "num_beams": num_beams,
            "do_sample": sample,
            "repetition_penalty": float(repetition_penalty),
            "length_penalty": float(length_penalty),
            "stopping_criteria": StoppingCriteriaList(self.stopping_criteria),
            "eos_token_id": self.model.stop_ids,
            **({"top_p": float(top_p), "temperature": float(temperature)} if sample else {}),
        }

    def model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The language model's `generate`: [1, T] ids of the reply."""
        return self.model.language.generate(*args, **kwargs)

    def answer(self, conv: Conversation, img_list: list[Any], **settings: Any) -> tuple[str, np.ndarray]:
        """The reply as text and as ids; it is added to `conv`. For `settings` see `answer_prepare`."""
        arguments = self.answer_prepare(conv, img_list, **settings)
        ids = self.model_generate(**arguments)[0]
        text = self._read(ids.tolist())
        conv.messages[-1][1] = without_places(text)
        return text, ids.cpu().numpy()

    def stream_answer(self, conv: Conversation, img_list: list[Any], **settings: Any) -> Iterator[str]:
        """The reply piece by piece, as it is generated; `conv` holds what was read of it.

        Some pieces are empty: one comes per step, and closing the iterator between two of them stops
        the generation. With several beams the whole reply is in one piece, because which beam wins is
        not known earlier. For `settings` see `answer_prepare`.
        """
        arguments = self.answer_prepare(conv, img_list, **settings)
        return self._stream(arguments, conv.messages[-1])

    def _stream(self, arguments: dict[str, Any], message: list[str | None]) -> Iterator[str]:
        model = self.model
        stream = ReplyStream(ReplyReader(model.llama_tokenizer, model.stop_ids, model.end_text))
        arguments["stopping_criteria"].append(stream)
        thread = threading.Thread(target=self._fill, args=(stream, arguments), daemon=True)
        thread.start()
        text = ""
        try:
            for piece in stream:
                if piece:
                    text += piece
                    message[1] = without_places(text)
                yield piece
            message[1] = without_places(text)
        finally:
            stream.closed.set()
            thread.join()

    def _fill(self, stream: ReplyStream, arguments: dict[str, Any]) -> None:
        """Runs in its own thread; whatever goes wrong is handed to the reader of the stream."""
        try:
            if arguments["num_beams"] == 1:
                self.model_generate(**arguments, streamer=stream)
            else:
                stream.put(self.model_generate(**arguments))
                stream.end()
        except BaseException as error:
            stream.fail(error)

    def _read(self, ids: list[int]) -> str:
        return read_reply(self.model.llama_tokenizer, ids, self.model.stop_ids, self.model.end_text)


def _is_embedded(image: Any) -> bool:
    """Embeddings are [1, P, D], images [3, H, W] or [1, 3, H, W]."""
    return isinstance(image, torch.Tensor) and image.ndim == 3 and len(image) == 1


def _drop_unanswered(conv: Conversation) -> None:
    """Remove a reply that was opened but never generated."""
    if conv.messages and conv.messages[-1] == [conv.roles[1], None]:
        conv.messages.pop()
