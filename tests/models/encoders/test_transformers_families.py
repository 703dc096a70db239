"""Vision transformers of transformers behind one short file outside the package."""

import re
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from minigpt4.models.encoders.build import build_encoder
from tests.support.transformers_encoder import PREFIX_TOKENS

ENCODER = "tests.support.transformers_encoder:TransformersEncoder"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


@pytest.mark.parametrize("model_type", PREFIX_TOKENS)
@torch.no_grad()
def test_transformers_family_gives_the_librarys_tokens(model_type: str, tmp_path: Path) -> None:
    """All of them; and what changes with a corner of the picture is that corner's patch."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip("not in this version of transformers")
    kwargs = SIZES | ({} if model_type.startswith("dinov2") else {"intermediate_size": 64})
    torch.manual_seed(0)
    theirs = AutoModel.from_config(CONFIG_MAPPING[model_type](image_size=56, **kwargs)).eval()
    theirs.save_pretrained(tmp_path)
    kwargs |= {"model_type": model_type}
    ours = build_encoder(ENCODER, 56, weights=str(tmp_path), kwargs=kwargs).eval()
    picture = torch.randn(1, 3, 56, 56)
    other = picture.clone()
    other[:, :, :14, 42:] = 5
    tokens, prefix = ours(picture), PREFIX_TOKENS[model_type]
    assert torch.equal(tokens, theirs(pixel_values=picture).last_hidden_state)
    assert (tokens.shape, ours.patches) == ((1, prefix + 16, 32), 16)
    change = (tokens - ours(other))[0].norm(dim=-1)
    assert change.argmax() == prefix + 3


def test_transformers_families_are_documented() -> None:
    rows = re.findall(r"^\| (\d) \| (`.*`) \|$", Path("docs/encoders.md").read_text(), re.M)
    documented = {name: int(count) for count, names in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert documented == PREFIX_TOKENS
