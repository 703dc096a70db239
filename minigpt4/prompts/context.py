"""Shortens dialogues that do not fit into the context by dropping whole turns."""

import math
from dataclasses import dataclass, replace

from minigpt4.common.errors import BadSample, BadText, DataError, reading
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Sample


@dataclass(frozen=True)
class Shortened:
    """A shortened dialogue.

    Attributes:
        dialogue: the turns that are kept, perhaps all.
        images: indices of the images that are kept, in order.
        left_out: dropped turns (a question and its answer each).
    """

    dialogue: Dialogue
    images: tuple[int, ...]
    left_out: int = 0


def shortened(
    prompts: PromptEncoder,
    dialogue: Dialogue,
    room: int | None = None,
    *,
    learn_all: bool = False,
    share: float = 0.0,
) -> Shortened:
    """Fit a dialogue's prompt, up to the last answer, into `room` tokens.

    The oldest turns are dropped first. BOS, the system text, the first turn with an image and the last turn
    are kept.

    Args:
        prompts: tokenises the turns.
        dialogue: a caption, whose request is the model's, is not changed.
        room: in tokens, including images; None for `model.max_context_len`.
        learn_all: as for `PromptEncoder.ids`.
        share: what is dropped is rounded up to a multiple of this share of `room`: as the dialogue grows, the
            same turns are dropped until the next multiple, and its beginning stays the same.

    Raises:
        BadText: if what must be kept is too long.
    """
    room = prompts.max_context_len if room is None else min(room, prompts.max_context_len)
    images, left_out, step = tuple(range(dialogue.images)), 0, max(int(share * room), 1)
    while not dialogue.is_caption and (excess := _excess(prompts, dialogue, room, learn_all)) > 0:
        lengths = prompts.lengths(dialogue, learn_all=learn_all)
        excess = math.ceil(excess / step) * step
        goes: set[int] = set()
        for place in _may_go(dialogue):
            if excess > 0:
                goes |= {place, place + 1}
                excess -= lengths[place] + lengths[place + 1]
        if not goes:
            raise BadText(
                f"prompt longer than {room} tokens (model.max_context_len is {prompts.max_context_len})"
            )
        places = [place for place, turn in enumerate(dialogue.turns) for _ in range(turn.images)]
        images = tuple(image for image, place in zip(images, places, strict=True) if place not in goes)
        dialogue = Dialogue(tuple(turn for place, turn in enumerate(dialogue.turns) if place not in goes))
        left_out += len(goes) // 2
    return Shortened(dialogue, images, left_out)


def fitted(prompts: PromptEncoder, sample: Sample, *, learn_all: bool) -> Sample:
    """Fit a sample into the context: a dialogue that is too long loses whole turns.

    Args:
        prompts: the model's.
        sample: with an image for each placeholder.
        learn_all: as for `PromptEncoder.ids`.

    Raises:
        BadSample: if what must be kept is too long, or there is no answer.
        DataError: if the tokenizer fails.
    """
    with reading("the dialogue", DataError, failed="{} cannot be tokenised"):
        short = shortened(prompts, sample.dialogue, learn_all=learn_all)
        _, targets = prompts.ids(short.dialogue.requested(prompts.requests[0]), learn_all=learn_all)
    if not targets:
        raise BadSample("no answer")
    if not short.left_out:
        return sample
    images = None if sample.images is None or not short.images else sample.images[list(short.images)]
    kind = "image" if sample.features is None else "features"
    return replace(sample, dialogue=short.dialogue, **{kind: images})


def _excess(prompts: PromptEncoder, dialogue: Dialogue, room: int, learn_all: bool) -> int:
    """How many tokens a prompt is too long by; 0 or less if it fits."""
    text = "".join(text for _, text in prompts.texts(dialogue))
    # An ASCII character is at most one token, and a tokenizer may add a space before each piece of text.
    most = len(text) + (prompts.image_tokens + 1) * dialogue.images + len(dialogue.turns) + 1
    if text.isascii() and most <= room:
        return 0
    lengths = prompts.lengths(dialogue, learn_all=learn_all)
    return sum(lengths if dialogue.answer is None else lengths[:-1]) - room


def _may_go(dialogue: Dialogue) -> list[int]:
    """Indices of the questions that may be dropped with their answers, the oldest first."""
    asked = [place for place, turn in enumerate(dialogue.turns) if turn.role == "user"]
    shown = [place for place in asked if dialogue.turns[place].images]
    return [place for place in asked[:-1] if place not in shown[:1]]
