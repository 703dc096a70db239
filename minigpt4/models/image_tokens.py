"""What an image becomes before the projection."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenShape:
    """The tokens of one image.

    Attributes:
        count: P, tokens per image.
        width: of each.
        vit_width: of the encoder that made them.
    """

    count: int
    width: int
    vit_width: int
