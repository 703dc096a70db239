"""MiniGPT-v2's finetuning on all data sets at once: the original's YAML loads unchanged, ours agrees."""

from itertools import islice
from pathlib import Path

import pytest

from minigpt4.common.config import plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.mixing import TrainStream
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks import setup_task
from tests.support import ROOT, published
from tests.support.runs import load

ORIGINAL = ROOT / "tests/original_configs/minigptv2_finetune.yaml"
OURS = ROOT / "train_configs/minigptv2_finetune.yaml"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny copies of all data sets."""
    for name in published.WRITERS:
        published.write(name, tmp_path)
    monkeypatch.setenv("MINIGPT4_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", [ORIGINAL, OURS], ids=["original", "ours"])
def test_all_data_sets_are_built(data: Path, path: Path) -> None:
    cfg = load(path)
    datasets = build_datasets(plain(cfg.datasets_cfg))
    assert {*datasets} == {*published.WRITERS}
    for builder, splits in datasets.values():
        assert [*splits] == ["train"]
        assert builder.vis_processor("train").image_size == cfg.model_cfg.image_size == 448
    ratios = {name: builder.sample_ratio for name, (builder, _) in datasets.items()}
    assert (sum(ratios.values()), ratios["llava_reason"], ratios["ok_vqa"]) == (730, 80, 8)
    sizes = {name: builder.batch_size for name, (builder, _) in datasets.items()}
    assert (sizes["unnatural_instruction"], sizes["gqa"], sizes["llava_detail"]) == (1, 6, 4)


def test_ours_has_the_originals_values() -> None:
    """But for the output folder, the device, and the tracker."""
    ours, theirs = load(OURS), load(ORIGINAL)
    assert plain(ours.datasets_cfg) == plain(theirs.datasets_cfg)
    assert plain(ours.model_cfg) == plain(theirs.model_cfg)
    settings, wanted = (vars(parse(RunSettings, cfg.run_cfg, "run")) for cfg in (ours, theirs))
    others = {"output_dir", "device", "distributed", "wandb_log", "job_name"}
    assert {key for key in wanted if settings[key] != wanted[key]} <= others


def test_batches_come_from_all_data_sets_in_proportion(data: Path) -> None:
    """The mixed stream draws text-only batches and boxes as well, and skips nothing."""
    datasets = build_datasets(plain(load(OURS, "datasets.gqa.sample_ratio=0").datasets_cfg))
    options = {"max_bad_fraction": 0.0, "rank": 0, "world_size": 1, "workers": 0, "pin_memory": False}
    state = {"drawn": 0, "loaders": {}}
    with TrainStream.of(datasets, ["train"], seed=0, state=state, **options) as stream:
        batches = list(islice(stream, 120))
        assert not stream.bad()
    questions = [dialogue.turns[0].text for batch in batches for dialogue in batch.dialogues]
    for mark in ("[caption]", "[vqa]", "[refer]", "[identify]", "[grounding]", "[detection]"):
        assert any(mark in question for question in questions), mark
    assert any(batch.images is None for batch in batches)
    assert max(len(dialogue.turns) for batch in batches for dialogue in batch.dialogues) == 4
    assert not any("is it red?" in question for question in questions)  # GQA's


def test_what_is_to_be_set_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIGPT4_DATA", raising=False)
    cfg = load(OURS)
    key = (
        r"^datasets\.multitask_conversation\.build_info\.image_path is '/path/to/coco/images': please set it"
    )
    with pytest.raises(ConfigError, match=key):
        setup_task(cfg).build_datasets(cfg)
