"""A dialogue as the ids, embeddings and names of its tokens.

Shapes: P tokens per image, T tokens, D the language model's width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count

from minigpt4.common.errors import BadText, TooLong
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.context import Shortened, shortened
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import IMAGE_ID, PromptEncoder
from minigpt4.serving.pictures import Picture

# Of the room: turns are dropped in such shares, so that the keys and values of the others can be used again
# for many turns. Dropping one turn at each turn would have nearly all computed anew each time.
DROPPED_SHARE = 0.25


@dataclass(frozen=True)
class Prompt:
    """The model's input for one reply.

    Attributes:
        dialogue: after dropping turns.
        pictures: the images of the dialogue, in order.
        tokens: a hashable name for each token, for prefix caching: the id of a text token, (key, place) of an
            image token.
        left_out: turns that did not fit.
    """

    dialogue: Dialogue
    pictures: tuple[Picture, ...]
    tokens: tuple[Hashable, ...]
    left_out: int

    @classmethod
    def of(
        cls,
        model: MiniGPTBase,
        dialogue: Dialogue,
        pictures: Sequence[Picture],
        room: int,
        longest: int,
    ) -> "Prompt":
        """Fit a dialogue into `room` tokens by dropping whole turns, the oldest first.

        The system text, the first turn with an image and the last turn are kept. They may take `longest`
        tokens, which shortens the reply.

        Raises:
            TooLong: if they do not fit.
        """
        try:
            short = _fitted(model.prompts, dialogue, room, longest)
        except BadText as error:
            raise TooLong(f"the question is too long: {error}", longest) from error
        pictures = [pictures[number] for number in short.images]
        ids = model.prompts.ids(short.dialogue)[0]
        per_image, number = model.prompts.image_tokens, count()
        tokens = []
        for one in ids:
            if one == IMAGE_ID:
                image, place = divmod(next(number), per_image)
                tokens.append((pictures[image].key, place))
            else:
                tokens.append(one)
        return cls(short.dialogue, tuple(pictures), tuple(tokens), short.left_out)


def _fitted(prompts: PromptEncoder, dialogue: Dialogue, room: int, longest: int) -> Shortened:
    try:
        return shortened(prompts, dialogue, room, share=DROPPED_SHARE)
    except BadText:
        return shortened(prompts, dialogue, longest)
