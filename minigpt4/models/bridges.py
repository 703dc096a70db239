"""What stands between the encoder and the projection: it makes fewer or wider tokens.

Shapes: N images; P tokens per image.
"""

import torch
from torch import nn

from minigpt4.common.errors import ConfigError


class Bridge(nn.Module):
    """Encoder tokens [N, prefix + patches, width of the encoder] -> image tokens [N, P, width].

    Attributes:
        count: P.
        width: of the tokens it makes.
        frozen: whether nothing in it is trained.
    """

    count: int
    width: int
    frozen: bool = True

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, which are compiled one by one."""
        return []


class JoinedPatches(Bridge):
    """Neighbouring patches in raster order, joined to one wider token, as where there is no Q-Former.

    Args:
        patches: how many the encoder makes of an image.
        width: of each.
        together: how many make one token.
        prefix_tokens: how many tokens before the patches are left out.

    Raises:
        ConfigError: if the patches cannot be shared out evenly.
    """

    def __init__(self, patches: int, width: int, together: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        if patches % together:
            raise ConfigError(
                f"model.patches_per_token is {together}, which does not divide the encoder's {patches} tokens"
            )
        self.together, self.prefix_tokens = together, prefix_tokens
        self.count, self.width = patches // together, width * together

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, self.prefix_tokens :].reshape(len(tokens), self.count, self.width)
