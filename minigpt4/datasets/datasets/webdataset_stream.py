"""Image-text pairs from webdataset shards."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from minigpt4.common.errors import BadSample
from minigpt4.datasets.datasets.shard_order import ShardPart, read_epochs
from minigpt4.datasets.datasets.shard_reader import RawSample, read_shard
from minigpt4.datasets.stream import UNUSABLE, Reading, SampleStream, Skipped, clean_caption
from minigpt4.processors.pictures import IMAGE_SUFFIXES, decode_picture
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


def caption_dialogue(raw: RawSample, rng: random.Random | None = None, *, key: str | None = None) -> Dialogue:
    """The caption of a sample, from its JSON or else from a text file.

    Args:
        raw: the sample.
        rng: nothing is drawn.
        key: the field of the JSON, or the suffix of the text file; None takes the field `caption`, else the
            file `.txt`.

    Raises:
        BadSample: if there is none.
    """
    caption = raw.fields.get(key or "caption")
    caption = raw.text(key or "txt") if caption is None else caption
    if caption is None:
        raise BadSample("no caption")
    return Dialogue.caption(clean_caption(caption))


def decode_image(raw: RawSample) -> np.ndarray:
    """The image of a sample: uint8 pixels [H, W, 3]. Raises BadSample."""
    data = next((raw.files[suffix] for suffix in IMAGE_SUFFIXES if suffix in raw.files), None)
    if data is None:
        dotted = any("." in suffix and suffix.endswith(IMAGE_SUFFIXES) for suffix in raw.files)
        raise BadSample("no image (a key ends at the first dot of a name)" if dotted else "no image")
    return decode_picture(data)


class WebdatasetStream(SampleStream):
    """The samples of webdataset shards, one image each.

    In training, each epoch has a new order, and samples are shuffled (see `shard_order`).

    Args:
        shards: paths, URLs and `pipe:` commands, as `expand_shards` gives them.
        image_transform: pixels [H, W, 3] -> tensor [3, H, W].
        text_processor: caption -> caption; other texts stay as they are.
        dialogue: what is said about a sample's image, with `<Img><ImageHere></Img>` where the image goes.
            It gets the sample and a generator for what it draws, and may raise BadSample.
    """

    UNIT = "shard"

    def __init__(
        self,
        shards: list[str],
        image_transform: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        dialogue: Callable[[RawSample, random.Random], Dialogue] = caption_dialogue,
    ) -> None:
        self.shards = shards
        self.image_transform = image_transform
        self.text_processor = text_processor
        self.dialogue = dialogue

    @property
    def size(self) -> int:
        return len(self.shards)

    def read(self, reading: Reading) -> Iterator[tuple[Sample | Skipped, tuple | None]]:
        """As `SampleStream.read`; a position is a `ReaderPosition` as a bare tuple."""
        if not reading.training:
            for shard in self.shards[reading.reader :: reading.readers]:
                yield from ((self._sample(item, 0, reading), None) for item in read_shard(shard))
            return
        for item, after in read_epochs(self._read_part, len(self.shards), reading):
            yield self._sample(item, after.epoch, reading), tuple(after)

    def _read_part(self, part: ShardPart) -> Iterator[RawSample | Skipped]:
        """Every `parts`-th sample of a shard; what is wrong with all of it belongs to the first part."""
        number = 0
        for item in read_shard(self.shards[part.shard]):
            if isinstance(item, Skipped):
                if part.part == 0:
                    yield item
                continue
            if number % part.parts == part.part:
                yield item
            number += 1

    def load_image(self, raw: RawSample) -> dict[str, Any]:
        """What the model sees of a sample: `image`, or `features`, and `size` of a `Sample`.

        Subclasses whose shards hold something other than images override this.

        Raises:
            BadSample: if there is none, or it is broken.
        """
        pixels = decode_image(raw)
        return {"image": self.image_transform(pixels), "size": pixels.shape[:2]}

    def _sample(self, raw: RawSample | Skipped, epoch: int, reading: Reading) -> Sample | Skipped:
        if isinstance(raw, Skipped):
            return raw
        try:
            dialogue = self.dialogue(raw, reading.rng(epoch, raw.key))
            if dialogue.is_caption and len(dialogue.turns) == 1:
                dialogue = Dialogue.caption(clean_caption(dialogue.answer, self.text_processor))
            group = str(raw.fields.get("group", ""))
            return Sample(
                dialogue=dialogue,
                image_id=raw.key,
                group=group,
                candidates=self._candidates(raw, dialogue),
                **self.load_image(raw),
            )
        except UNUSABLE as error:
            return Skipped.because(error, str(raw))

    def _candidates(self, raw: RawSample, dialogue: Dialogue) -> tuple[str, ...]:
        """The field `candidates`: answers to choose from, captions as the caption itself is read."""
        texts = raw.fields.get("candidates") or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadSample("candidates are not a list of texts")
        if dialogue.is_caption:
            texts = [clean_caption(text, self.text_processor) for text in texts]
        if texts and dialogue.answer not in texts:
            raise BadSample("the answer is not among the candidates")
        return tuple(texts)
