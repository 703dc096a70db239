"""The files that docs/extending.md shows work as they stand there, from outside the package."""

import copy
import json
import re
import sys
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.prompts.dialogue import Dialogue
from tests.support import ROOT
from tests.support.golden import golden_model_config
from tests.support.questions import check_task
from tests.support.runs import load, losses, train
from tests.support.shards import encoded, picture, read, sample, sorted_out, write_shard

TEXT = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
YAML = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
LONGEST = {"birds": 25, "talks": 30, "word_overlap": 45, "inverse_root": 25, "clip_encoder": 40, "alpaca": 40}


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the page, in a folder on the path."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def the_yaml(section: str, key: str, value: Any) -> dict:
    """The page's block that says this, or holds it."""
    (found,) = [one for one in YAML if says(one.get(section, {}).get(key), value)]
    return copy.deepcopy(found)


def says(found: Any, wanted: Any) -> bool:
    return wanted.items() <= found.items() if isinstance(found, dict) else found == wanted


def test_files_are_short() -> None:
    assert FILES.keys() == LONGEST.keys()
    for name, text in FILES.items():
        assert len(text.splitlines()) <= LONGEST[name], name


def test_task_trains_validates_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "word_overlap:WordOverlapTask"
    assert the_yaml("run", "task", name)
    check_task(tmp_path, name, "overlap", monkeypatch)


def train_two_steps(folder: Path, name: str, files: dict[str, str]) -> tuple[list[float], Datasets]:
    """By the page's YAML, with a tiny model and its own `files` -> the losses, and the data sets."""
    section = the_yaml("datasets", name, {"builder": f"{name}:{name.capitalize()}Builder"})["datasets"][name]
    section["vis_processor"]["train"]["image_size"] = 56
    section["build_info"] = files
    model = golden_model_config(model_type="pretrain_llama2")
    del model["ckpt"]
    run = {"task": "image_text_pretrain", "max_epoch": 1, "iters_per_epoch": 2, "init_lr": 0.01}
    run |= {"log_freq": 1, "num_workers": 0, "device": "cpu", "output_dir": str(folder / "out")}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"model": model, "datasets": {name: section}, "run": run}))
    _, runner = train(load(path))
    return losses(folder / "out"), runner.datasets


def test_map_style_data_set_trains(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(number, size=10 + number)))
    entries = [{"file": f"{number}.jpg", "species": f"species {number}"} for number in range(3)]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    files = {"image_path": str(tmp_path), "ann_path": str(tmp_path / "train.json")}
    seen, datasets = train_two_steps(tmp_path, "birds", files)
    assert len(seen) == 2 and all(loss > 0 for loss in seen)
    stream = datasets["birds"][1]["train"]
    samples = list(islice(read(stream, training=True), 60))
    asked = {sample.dialogue.turns[0].text for sample in samples}
    assert asked == {
        "<Img><ImageHere></Img> Which bird is this?",
        "<Img><ImageHere></Img> What is this bird called?",
    }
    assert {sample.size for sample in samples} == {(10, 10), (11, 11), (12, 12)}


def test_shards_with_other_texts_train(tmp_path: Path) -> None:
    talk = {"conversation": [["What is this?", "A dog."], ["Where?", "Here."]]}
    members = [member for key in "abcdef" for member in sample(key, meta=talk)]
    members += sample("x", meta={}) + sample("y", meta={"conversation": [["What is this?"]]})
    shard = write_shard(tmp_path / "0.tar", members)
    seen, datasets = train_two_steps(tmp_path, "talks", {"storage": shard})
    assert len(seen) == 2 and all(loss > 0 for loss in seen)
    samples, bad = sorted_out(datasets["talks"][1]["train"])
    assert samples[0].dialogue == Dialogue.of(
        [("<Img><ImageHere></Img> What is this?", "A dog."), ("Where?", "Here.")]
    )
    assert samples[0].size == (8, 8)
    assert bad == {"no conversation": 1, "ValueError: not enough values to unpack (expected 2, got 1)": 1}


def test_schedule_sets_the_rate() -> None:
    name = "inverse_root:InverseRoot"
    assert the_yaml("run", "lr_sched", name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    schedule = registry.get_lr_scheduler_class(name)(optimizer, 1.0, 8, 4)
    rates = [schedule.step(epoch, step) for epoch in (0, 1) for step in range(8)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, (4 / 5) ** 0.5])
    assert rates[15] == optimizer.param_groups[0]["lr"] == 0.5


def test_encoder_is_the_one_that_the_models_tests_use(tmp_path: Path) -> None:
    """tests/models/test_encoders.py builds, loads and trains it."""
    name = "clip_encoder:ClipEncoder"
    assert FILES["clip_encoder"] == (ROOT / "tests/support/clip_encoder.py").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(the_yaml("model", "vit_model", name)))
    cfg = Config(Namespace(cfg_path=str(path), options=[])).model_cfg
    sources = {s.key: s.value for s in registry.get_model_class("minigpt4").weight_sources(cfg)}
    assert sources["model.vit_weights"] == "openai/clip-vit-base-patch32"
    assert "model.q_former_model" not in sources


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
