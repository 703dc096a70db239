"""MiniGPT-v2's parity with the original code: values recorded from it, LoRA under the names of peft 0.2."""

from typing import Any

import pytest
import torch

from minigpt4.models.minigpt_base import MiniGPTBase
from tests.support import GOLDEN
from tests.support.golden import build_golden_v2

PROMPT = "<Img><ImageHere></Img> what is this"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return torch.load(GOLDEN / "minigptv2_io.pt", weights_only=True)


@pytest.fixture(scope="module")
def model() -> MiniGPTBase:
    return build_golden_v2().eval()


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@torch.no_grad()
def test_image_embeddings(model, golden) -> None:
    embeds, mask = model.encode_img(golden["image"])
    close(embeds, golden["image_embeds"], atol=5e-6)
    assert mask.shape == (2, 4)


@torch.no_grad()
def test_loss_of_a_conversation(model, golden) -> None:
    close(model(golden["conversation"] | {"answer": ["", ""]})["loss"], golden["loss_conversation"])


@torch.no_grad()
def test_loss_of_single_turns_with_task_identifiers(model, golden) -> None:
    """`[vqa]` and `[refer]` are text; `chat_template` puts the template around `instruction_input`."""
    close(model(golden["single"])["loss"], golden["loss_single"])
    close(model(golden["single"], reduction="none")["loss"], golden["loss_none"])


@torch.no_grad()
def test_the_adapter_is_part_of_the_loss(model, golden) -> None:
    untrained = build_golden_v2(ckpt=None).eval()
    untrained.llama_proj.load_state_dict(model.llama_proj.state_dict())
    assert abs(untrained(golden["single"])["loss"] - golden["loss_single"]) > 0.01


def test_checkpoint_keys_are_those_of_the_original(model) -> None:
    saved = torch.load(GOLDEN / "minigptv2_checkpoint.pth", weights_only=True)["model"]
    own = model.trainable_state_dict()
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[key], value) for key, value in saved.items())
