"""The original's evaluation scripts: their helpers, their flags, and the reports that they leave."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from minigpt4.common.eval_utils import computeIoU, eval_parser, init_model, prepare_texts
from minigpt4.compat.evaluation import _for_evaluate
from minigpt4.conversation.conversation import CONV_VISION_minigptv2
from tests.support import ROOT
from tests.support.benchmarks import write_benchmarks
from tests.support.golden import golden_model_config


def test_compute_iou_counts_both_edges() -> None:
    """Of 10 and 10 pixels, 5 are common: 0 to 9 and 5 to 14, on one line."""
    assert computeIoU([0, 0, 9, 0], [5, 0, 14, 0]) == pytest.approx(5 / 15)
    assert computeIoU([0, 0, 9, 9], [0, 0, 9, 9]) == 1.0
    assert computeIoU([0, 0, 9, 9], [20, 20, 29, 29]) == 0.0


def test_prepare_texts_writes_the_original_prompts() -> None:
    conversation = CONV_VISION_minigptv2.copy()
    texts = prepare_texts(["[vqa] what?", "why"], conversation)
    assert texts[0] == "<s>[INST] <Img><ImageHere></Img> [vqa] what? [/INST]"
    assert len(texts) == 2 and conversation.messages == []


def test_eval_parser_has_the_original_flags() -> None:
    args = eval_parser().parse_args(["--cfg-path", "x.yaml", "--lora_r", "8", "--options", "a.b=c"])
    assert vars(args) == {
        **{"cfg_path": "x.yaml", "name": "A2", "ckpt": None, "eval_opt": "all", "max_new_tokens": 10},
        **{"batch_size": 32, "lora_r": 8, "lora_alpha": None, "options": ["a.b=c"]},
    }


def config(folder: Path) -> Path:
    vis = {"train": {"name": "blip2_image_eval", "image_size": 56}}
    content = {
        "model": golden_model_config(llm_sanity_check=False),
        "datasets": {"cc_sbu_align": {"vis_processor": vis}},
        "evaluation_datasets": write_benchmarks(folder),
    }
    (folder / "eval.yaml").write_text(yaml.safe_dump(content))
    return folder / "eval.yaml"


@pytest.mark.integration
def test_init_model_builds_model_and_processor(tmp_path: Path) -> None:
    model, processor = init_model(Namespace(cfg_path=config(tmp_path), options=None, ckpt=None))
    assert not model.training and processor.image_size == 56


@pytest.mark.integration
@pytest.mark.parametrize(
    ("script", "dataset", "records"), [("eval_ref", "refcoco,refcocog", 6), ("eval_vqa", "okvqa", 3)]
)
def test_eval_scripts_take_the_original_flags(tmp_path: Path, monkeypatch, script, dataset, records) -> None:
    path, out = config(tmp_path), tmp_path / "answers.json"
    split = "val" if script == "eval_ref" else "test"
    words = [
        "--dataset",
        dataset,
        "--split",
        split,
        "--resample",
        "--max_new_tokens",
        "2",
        "--batch_size",
        "2",
    ]
    argv = [script, "--cfg-path", str(path), *words, "--save_path", str(out), "--options", "run.device=cpu"]
    monkeypatch.setattr("sys.argv", argv)
    place = ROOT / "eval_scripts" / f"{script}.py"
    source = place.read_text().replace("__main__", "called")
    exec(compile(source, str(place), "exec"), {"__name__": "called"})
    report = json.loads(out.read_text())
    assert report["samples"] == records and report["datasets"] == dataset.split(",")


def test_flags_become_those_of_evaluate() -> None:
    args = Namespace(
        **{"cfg_path": "x", "options": ["run.seed", "3"], "ckpt": "a.pth", "lora_r": 4, "lora_alpha": None},
        **{"dataset": ["gqa"], "split": None, "res": 100.0, "img_path": "/i", "eval_file_path": None},
        **{"max_new_tokens": 5, "batch_size": None, "save_path": None},
    )
    made = _for_evaluate(args)
    assert made.options == [
        *("run.seed=3", "model.ckpt=a.pth", "model.lora_r=4"),
        *("evaluation_datasets.gqa.img_path=/i", "evaluation_datasets.gqa.max_new_tokens=5"),
    ]
