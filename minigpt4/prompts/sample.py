"""One sample of a data set, and a batch of them: what datasets give, and models, tasks and runners take.

Shapes: B samples, n images of a sample, N of the whole batch in order, P tokens per image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, pairwise
from typing import Any

import torch

from minigpt4.common.errors import DataError
from minigpt4.common.formatting import writable
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images and what is said about them.

    Attributes:
        dialogue: every answer in it is learned; evaluation asks for the last one.
        image: [3, H, W], or several [n, 3, H, W]; uint8, or normalised floats. None for text alone.
        features: in the place of `image`: cached tokens [P, width] or [n, P, width].
        image_id: for records and logs.
        group: evaluation reports each group by itself.
        size: (height, width) of the image before it was resized; boxes are given in it.
        references: every right answer, where an evaluation knows several; empty: the dialogue's alone.
        cluster: the same for samples about the same image, which do not count as independent where an
            evaluation says how sure it is; empty: `image_id`.
        candidates: the answers that an evaluation lets the model choose from; empty: any.

    Raises:
        ValueError: for another type or shape, or another number of images than the dialogue has places for.
    """

    dialogue: Dialogue
    image: torch.Tensor | None = None
    features: torch.Tensor | None = None
    image_id: str = ""
    group: str = ""
    size: tuple[int, int] | None = None
    references: tuple[str, ...] = ()
    cluster: str = ""
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.dialogue, Dialogue):
            raise ValueError(f"dialogue is a {type(self.dialogue).__name__}, it must be a Dialogue")
        for name in ("image_id", "group", "cluster"):  # of what others wrote; reports hold them
            object.__setattr__(self, name, writable(getattr(self, name)))
        if self.image is not None and self.features is not None:
            raise ValueError("image and features are both given, one stands in the place of the other")
        _check_tensor("image", self.image, 3, "[3, H, W] or [n, 3, H, W], uint8 or normalised floats")
        _check_tensor("features", self.features, 2, "[P, width] or [n, P, width], floats")
        count = 0 if self.images is None else len(self.images)
        if count != self.dialogue.images:
            raise ValueError(f"the dialogue has places for {self.dialogue.images} images, {count} were given")

    @property
    def images(self) -> torch.Tensor | None:
        """[n, 3, H, W], or features [n, P, width]."""
        one, dimensions = (self.image, 3) if self.features is None else (self.features, 2)
        return one[None] if one is not None and one.ndim == dimensions else one


# Lists of a batch with one item per sample.
_OF_A_SAMPLE = ("dialogues", "image_ids", "groups", "sizes", "references", "clusters", "candidates")


@dataclass
class Batch:
    """Samples side by side; images are not padded.

    Attributes:
        dialogues: B.
        images: of all samples in order, [N, 3, H, W] or features [N, P, width]; None without any.
        image_counts: n of each sample.
        image_ids, groups, sizes, references, clusters, candidates: of each sample, as in `Sample`.
        bad: reason -> how many samples were skipped since the batch before.
        skipped: of each of these, which it was, and the reason.
        reader: where the reader of the data set stands after this batch; only the loader looks at it.
        tokens: what the model's `prepare` makes of the dialogues.
    """

    dialogues: list[Dialogue]
    images: torch.Tensor | None
    image_counts: list[int]
    image_ids: list[str]
    groups: list[str]
    sizes: list[tuple[int, int] | None]
    references: list[tuple[str, ...]]
    clusters: list[str]
    candidates: list[tuple[str, ...]]
    bad: dict[str, int] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()
    reader: Any = None
    tokens: TokenBatch | None = None

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        *,
        bad: Mapping[str, int] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
        reader: Any = None,
    ) -> "Batch":
        """Collate samples. Raises DataError if their images differ in shape or type."""
        seen = [sample.images for sample in samples if sample.images is not None]
        kinds = {(str(images.dtype), *images.shape[1:]) for images in seen}
        if len(kinds) > 1:
            shown = " and ".join(f"{dtype[6:]} {list(shape)}" for dtype, *shape in sorted(kinds))
            raise DataError(f"the images of a batch must be alike, found {shown}")
        return cls(
            dialogues=[sample.dialogue for sample in samples],
            images=torch.cat(seen) if seen else None,
            image_counts=[0 if sample.images is None else len(sample.images) for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            groups=[sample.group for sample in samples],
            sizes=[sample.size for sample in samples],
            references=[sample.references for sample in samples],
            clusters=[sample.cluster or sample.image_id for sample in samples],
            candidates=[sample.candidates for sample in samples],
            bad=dict(bad or {}),
            skipped=skipped,
            reader=reader,
        )

    @classmethod
    def from_mapping(cls, samples: Mapping[str, Any]) -> "Batch":
        """A batch in the original's form.

        Args:
            samples: `answer`, a list of str, and `image` [B, 3, H, W] or [B, n, 3, H, W], of which `length`
                are real where it is given. Optionally `instruction_input` (whole prompts, with
                `<Img><ImageHere></Img>` where an image goes), or dialogues in `conv_q` and `conv_a`: lists of
                turns, or texts joined by `connect_sym`. Also `image_id` and `group`.
        """
        answers = samples["answer"]
        images, counts = _real_images(samples.get("image"), samples.get("length"), len(answers))
        names = [str(one) for one in samples.get("image_id", [""] * len(answers))]
        return cls(
            dialogues=_dialogues(samples),
            images=images,
            image_counts=counts,
            image_ids=names,
            groups=list(samples.get("group", [""] * len(answers))),
            sizes=[None] * len(answers),
            references=[()] * len(answers),
            clusters=names,
            candidates=[()] * len(answers),
        )

    def __len__(self) -> int:
        return len(self.dialogues)

    @property
    def answers(self) -> list[str]:
        """The last answer of each dialogue."""
        return [dialogue.answer or "" for dialogue in self.dialogues]

    def images_of(self, row: int) -> torch.Tensor | None:
        """The images of one sample, [n, ...]; None without any."""
        first, last = list(pairwise(accumulate(self.image_counts, initial=0)))[row]
        return None if self.images is None or first == last else self.images[first:last]

    def rows(self, rows: Sequence[int], images_from: Sequence[int] | None = None) -> "Batch":
        """Some of its samples, in this order, without their tokens.

        Args:
            rows: numbers of samples.
            images_from: the samples that their images are taken from; None: their own.
        """
        sources = rows if images_from is None else images_from
        seen = [images for row in sources if (images := self.images_of(row)) is not None]
        picked = {name: [getattr(self, name)[row] for row in rows] for name in _OF_A_SAMPLE}
        return replace(
            self,
            **picked,
            images=torch.cat(seen) if seen else None,
            image_counts=[self.image_counts[row] for row in sources],
            tokens=None,
        )

    def pin_memory(self) -> "Batch":
        images = None if self.images is None else self.images.pin_memory()
        return replace(self, images=images, tokens=self.tokens and self.tokens.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """Tensors on the device, without waiting for the copy."""
        images = None if self.images is None else self.images.to(device, non_blocking=True)
        return replace(self, images=images, tokens=self.tokens and self.tokens.to(device))

    def tensors(self) -> list[torch.Tensor]:
        """All tensors in it."""
        tokens = [getattr(self.tokens, one.name) for one in fields(self.tokens)] if self.tokens else []
        return tokens if self.images is None else [self.images, *tokens]


def _check_tensor(name: str, given: Any, dimensions: int, right: str) -> None:
    if given is None:
        return
    if not isinstance(given, torch.Tensor):
        raise ValueError(f"{name} is a {type(given).__name__}, it must be a tensor {right}")
    pixels = dimensions == 3
    fits = given.ndim in (dimensions, dimensions + 1) and len(given) > 0
    fits = fits and (not pixels or given.shape[-3] == 3)
    if not fits or not (given.is_floating_point() or (pixels and given.dtype == torch.uint8)):
        raise ValueError(f"{name} is {str(given.dtype)[6:]} {list(given.shape)}, it must be {right}")


def _real_images(
    image: torch.Tensor | None, length: Sequence[int] | None, count: int
) -> tuple[torch.Tensor | None, list[int]]:
    """The original's padded images -> [N, 3, H, W], and how many each sample has."""
    if image is None:
        return None, [0] * count
    if image.ndim == 4:
        return image, [1] * len(image)
    counts = [image.shape[1]] * len(image) if length is None else [int(one) for one in length]
    return torch.cat([row[:real] for row, real in zip(image, counts, strict=True)]), counts


def _dialogues(samples: Mapping[str, Any]) -> list[Dialogue]:
    answers = samples["answer"]
    if "instruction_input" in samples:
        return [Dialogue.prompted(*pair) for pair in zip(samples["instruction_input"], answers, strict=True)]
    if "conv_q" not in samples:
        return [Dialogue.caption(answer) for answer in answers]
    questions, replies = samples["conv_q"], samples["conv_a"]
    if "connect_sym" in samples:
        marks = samples["connect_sym"]
        questions = [text.split(mark) for text, mark in zip(questions, marks, strict=True)]
        replies = [text.split(mark) for text, mark in zip(replies, marks, strict=True)]
    return [Dialogue.of(zip(q, a, strict=True)) for q, a in zip(questions, replies, strict=True)]
