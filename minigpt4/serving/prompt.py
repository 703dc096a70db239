"""A dialogue as the ids, embeddings and names of its tokens.

Shapes: P tokens per image, T tokens, D the language model's width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count

from minigpt4.common.errors import DataError
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import IMAGE_ID
from minigpt4.serving.pictures import Picture


@dataclass(frozen=True)
class Prompt:
    """What a model is given for one reply.

    Attributes:
        dialogue: after turns were left out.
        pictures: of its image places, in order.
        tokens: a name for each token that is the same where the language model reads the same: the id of a
            text
            token, and (key, place) for one of an image.
        left_out: turns that had no room.
    """

    dialogue: Dialogue
    pictures: tuple[Picture, ...]
    tokens: tuple[Hashable, ...]
    left_out: int

    @classmethod
    def of(cls, model: MiniGPTBase, dialogue: Dialogue, pictures: Sequence[Picture], room: int) -> "Prompt":
        """A dialogue in at most `room` tokens: whole turns are left out of its middle, the oldest first.

        What stays: the system text, the first turn with an image, and the last turn.

        Raises:
            DataError: if that alone is too long.
        """
        pictures, left_out = list(pictures), 0
        while not (ids := _ids(model, dialogue, room)):
            place = _oldest_to_drop(dialogue)
            if place is None:
                raise DataError(
                    f"the question is too long: with its image it may have {room} tokens "
                    f"(model.max_context_len is {model.max_context_len})"
                )
            turns = dialogue.turns
            before = sum(turn.images for turn in turns[:place])
            del pictures[before : before + turns[place].images]
            dialogue = Dialogue(turns[:place] + turns[place + 2 :])
            left_out += 1
        per_image, number = model.prompts.image_tokens, count()
        tokens = []
        for one in ids:
            if one == IMAGE_ID:
                image, place = divmod(next(number), per_image)
                tokens.append((pictures[image].key, place))
            else:
                tokens.append(one)
        return cls(dialogue, tuple(pictures), tuple(tokens), left_out)


def _ids(model: MiniGPTBase, dialogue: Dialogue, room: int) -> list[int] | None:
    """None where there is no room for them."""
    try:
        ids = model.prompts.ids(dialogue)[0]
    except DataError:  # longer than max_context_len
        return None
    return ids if len(ids) <= room else None


def _oldest_to_drop(dialogue: Dialogue) -> int | None:
    """The place of the oldest question that may go; the first with an image may not, nor the last."""
    shown = False
    for place, turn in enumerate(dialogue.turns[:-1]):
        if turn.role == "user":
            if shown or not turn.images:
                return place
            shown = True
    return None
