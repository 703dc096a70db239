"""The plugin for lmms-eval, with a stand-in for it; and, where it is installed, that the scores agree."""

import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks.lmms_eval.make_data import write
from minigpt4.common.errors import ConfigError
from minigpt4.serving import load
from tests.support import ROOT

CONFIG = ROOT / "eval_configs/minigpt4_tiny_gemma_eval.yaml"
PYTHON = Path(os.environ.get("LMMS_EVAL_PYTHON") or ROOT / ".venv-lmms-eval/bin/python")
TASKS = ROOT / "benchmarks/lmms_eval"
EXAMPLES = ROOT / "minigpt4/assets/tiny/examples"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the plugin, beside as much of lmms-eval as it needs."""

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}

    def manifest(model_id: str, chat_class_path: str) -> Namespace:
        return Namespace(model_id=model_id, chat_class_path=chat_class_path)

    for name, members in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": manifest},
    }.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "minigpt4.serving.lmms_eval_model", raising=False)
    return importlib.import_module("minigpt4.serving.lmms_eval_model")


def request(number: int, **wanted: Any) -> Any:
    """As lmms-eval hands one to a chat model."""

    def messages(row: dict[str, Any]) -> list[dict[str, Any]]:
        parts = [{"type": "image", "url": row["image"]}, {"type": "text", "text": row["question"]}]
        return [{"role": "user", "content": parts}]

    return SimpleNamespace(args=("", messages, {"until": ["\n"], **wanted}, number, "task", "test"))


def test_a_request_is_answered_as_in_a_greedy_chat(plugin) -> None:
    questions = ["Is there a star?", "Describe this image.", "How many shapes are there?"]
    pictures = [Image.open(path) for path in sorted(EXAMPLES.glob("*.png"))[:3]]
    rows = [{"image": one, "question": two} for one, two in zip(pictures, questions, strict=True)]
    # A batch may differ from single replies in rounding.
    model = plugin.LmmsEvalModel(str(CONFIG), batch_size="2", device="cpu", max_batch_size=None)
    model.task_dict = {"task": {"test": rows}}
    asked = [request(n, max_new_tokens=20, temperature=0) for n in range(3)]
    wanted = [
        load(CONFIG, "cpu").chat(row["question"], row["image"], temperature=0, repetition_penalty=1.0)
        for row in rows
    ]
    assert model.generate_until(asked) == wanted
    (short,) = model.generate_until([request(1, max_new_tokens=1)])
    assert len(short) < len(wanted[1]) and wanted[1].startswith(short)
    with pytest.raises(NotImplementedError, match="a part of type video"):
        model._message({"role": "user", "content": [{"type": "video", "url": "x"}]})


@pytest.mark.parametrize("size", ["auto", "0", "-1", None])
def test_a_batch_size_that_is_no_number_is_refused(plugin, size) -> None:
    with pytest.raises(ConfigError, match="a whole number"):
        plugin.LmmsEvalModel(str(CONFIG), batch_size=size)


def test_options_reach_the_model(plugin, monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr(plugin, "load", lambda *args: loaded.append(args))
    options = "model.llm_precision=fp32 model.max_txt_len=9"
    plugin.LmmsEvalModel("mine.yaml", ckpt="a.pth", device="cpu", options=options)
    assert loaded == [("mine.yaml", "cpu", [*options.split(), "model.ckpt=a.pth"])]


def test_the_entry_point_names_the_plugin(plugin) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    entry = f'[project.entry-points."lmms_eval.models"]\nminigpt4 = "{plugin.__name__}:MANIFEST"\n'
    assert entry in project and plugin.MANIFEST.model_id == "minigpt4"
    assert plugin.MANIFEST.chat_class_path == f"{plugin.__name__}.LmmsEvalModel"
    assert not plugin.LmmsEvalModel.is_simple


@pytest.mark.integration
@pytest.mark.skipif(not PYTHON.exists(), reason="lmms-eval is not installed: make lmms-eval")
def test_lmms_eval_and_evaluate_give_the_same_score(tmp_path: Path) -> None:
    write(tmp_path / "output/tiny_scenes", 24, seed=2)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    asked = ["--model", "minigpt4", "--model_args", f"cfg_path={CONFIG}", "--batch_size", "8"]
    asked += ["--tasks", "tiny_scenes", "--include_path", str(TASKS), "--output_path", str(tmp_path / "said")]
    subprocess.run([PYTHON, "-m", "lmms_eval", *asked], cwd=tmp_path, env=environment, check=True)
    (results,) = (tmp_path / "said").rglob("*results.json")
    score = json.loads(results.read_text())["results"]["tiny_scenes"]["exact_match,none"]
    ours = ["--cfg-path", str(TASKS / "tiny_scenes_eval.yaml"), "--out", str(tmp_path / "report.json")]
    subprocess.run([sys.executable, str(ROOT / "evaluate.py"), *ours], cwd=tmp_path, check=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["jsonl_test_accuracy"] == pytest.approx(score) and score > 0.7
