"""An adapter goes out as a folder that peft reads, and comes in from one that peft wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from minigpt4.common.errors import UserError
from minigpt4.models.lora import Lora
from minigpt4.models.lora_folder import CONFIG, read_adapter, write_adapter
from tests.support import GOLDEN
from tests.support.golden import build_golden_v2

IDS = torch.arange(3, 40)[None]


def stock() -> Any:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "llm", dtype=torch.float32)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The golden adapter, written."""
    tensors = torch.load(GOLDEN / "minigptv2_checkpoint.pth", weights_only=True)["model"]
    write_adapter(tmp_path / "adapter", tensors, Lora(4, 8, 0.05), "some/llama")
    return tmp_path / "adapter"


@torch.no_grad()
def test_a_written_adapter_does_the_same_on_the_stock_language_model(folder) -> None:
    adapted = PeftModel.from_pretrained(stock(), folder).eval()
    ours = build_golden_v2().eval().llama_model
    torch.testing.assert_close(adapted(IDS).logits, ours(IDS).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(adapted(IDS).logits, stock()(IDS).logits, atol=1e-3)
    said = json.loads((folder / CONFIG).read_text())
    keys = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
    assert [said[key] for key in keys] == ["LORA", "CAUSAL_LM", 4, 8, ["q_proj", "v_proj"], "some/llama"]


@torch.no_grad()
def test_an_adapter_that_peft_wrote_comes_in(tmp_path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    wrapped: Any = get_peft_model(stock(), config).eval()
    wrapped.save_pretrained(tmp_path)
    targets = {"lora_target_modules": ["q_proj", "o_proj"], "lora_adapter": str(tmp_path)}
    model = build_golden_v2(ckpt=None, **targets).eval()
    torch.testing.assert_close(model.llama_model(IDS).logits, wrapped(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"lora_r": 8}, "model.lora_r 4 8"),
        ({"lora_alpha": 16}, "model.lora_alpha 8 16"),
        ({"lora_target_modules": ["q_proj"]}, "model.lora_target_modules q_proj, v_proj"),
        ({"lora_r": 0}, "model.lora_r: 4 model.lora_alpha: 8 model.lora_target_modules: q_proj, v_proj"),
        ({"lora_adapter": "/no/where"}, "model.lora_adapter /no/where"),
    ],
)
def test_an_adapter_that_does_not_fit_names_the_keys(folder, keys, facts) -> None:
    with pytest.raises(UserError) as error:
        build_golden_v2(**{"ckpt": None, "lora_adapter": str(folder)} | keys)
    assert all(fact in str(error.value) for fact in ["lora_adapter", *facts.split()])


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"lora_alpha": "8"}, "lora_alpha is not a whole number"),
        ({"a key of tomorrow": 1}, "a key of tomorrow"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(folder, said, fact) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(UserError, match=rf"model\.lora_adapter: .*{CONFIG}.*{fact}"):
        read_adapter(folder)
