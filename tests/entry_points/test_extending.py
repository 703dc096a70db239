"""The files that docs/extending.md shows work as they stand there, from outside the package."""

import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from tests.support import ROOT
from tests.support.golden import golden_model_config
from tests.support.questions import check_task

TEXT = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
YAML = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
LONGEST = {"word_overlap": 45, "inverse_root": 25, "alpaca": 40}


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the page, in a folder on the path."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def the_yaml(section: str, key: str, value: str) -> dict:
    """The page's block that says this."""
    (found,) = [one for one in YAML if one.get(section, {}).get(key) == value]
    return found


def test_files_are_short() -> None:
    assert FILES.keys() == LONGEST.keys()
    for name, text in FILES.items():
        assert len(text.splitlines()) <= LONGEST[name], name


def test_task_trains_validates_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "word_overlap:WordOverlapTask"
    assert the_yaml("run", "task", name)
    check_task(tmp_path, name, "overlap", monkeypatch)


def test_schedule_sets_the_rate() -> None:
    name = "inverse_root:InverseRoot"
    assert the_yaml("run", "lr_sched", name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    schedule = registry.get_lr_scheduler_class(name)(optimizer, 1.0, 8, 4)
    rates = [schedule.step(epoch, step) for epoch in (0, 1) for step in range(8)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, (4 / 5) ** 0.5])
    assert rates[15] == optimizer.param_groups[0]["lr"] == 0.5


def test_family_writes_and_trains_its_turns(tmp_path: Path) -> None:
    """On a tiny LLaMA."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(the_yaml("model", "llm_backbone", "alpaca:AlpacaBackbone")))
    here = golden_model_config(prompt_path="pkg://minigpt4/prompts/caption.txt")
    tiny = {key: here[key] for key in ("image_size", "vit_weights", "num_query_token", "q_former_model")}
    tiny |= {key: here[key] for key in ("llama_model", "prompt_path")}
    tiny |= {f"vit_kwargs.{key}": value for key, value in here["vit_kwargs"].items()}
    tiny |= {f"q_former_kwargs.{key}": value for key, value in here["q_former_kwargs"].items()}
    options = [f"model.{key}={value}" for key, value in tiny.items()]
    config = Config(Namespace(cfg_path=str(path), options=options))
    model = registry.get_model_class("minigpt4").from_config(config.model_cfg, device="cpu")
    assert model.template.turn("what is this?") == "### Instruction:\nwhat is this?\n\n### Response:\n"
    assert model.stop_ids == [2] and model.max_txt_len == 160
    image = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    model({"image": image, "answer": ["a dog"]})["loss"].backward()
    assert model.llama_proj.weight.grad.abs().sum() > 0


def test_yaml_of_a_language_model_with_a_chat_template_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(the_yaml("model", "llama_model", "Qwen/Qwen2.5-1.5B-Instruct")))
    cfg = Config(Namespace(cfg_path=str(path), options=[])).model_cfg
    sources = {s.key: s.value for s in registry.get_model_class("minigpt4").weight_sources(cfg)}
    assert sources["model.llama_model"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert sources["model.vit_weights"].endswith("eva_vit_g.pth")
    assert cfg.llm_backbone == "auto"
