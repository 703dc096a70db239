"""One cache, a run for each language model, one comparison; what is done is not done again."""

import importlib
import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands import COMMANDS, sweep
from minigpt4.commands.sweep_report import read_runs
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.caching import config, load

COLUMNS = ["language model", "bits per byte", "loss per token", "others' pictures", "exact match"]


def arguments(path: Path, *llms: str, options: tuple[str, ...] = ()) -> Namespace:
    out = path.parent / "sweep"
    return Namespace(
        cfg_path=path, llm=llms, out=out, limit=2, solved=False, options=list(options), debug=False
    )


@pytest.fixture
def path(tmp_path) -> Path:
    write_split(tmp_path / "shapes", "test", 4, seed=0, samples_per_shard=4)
    shards = str(tmp_path / "shapes/00000.tar")
    model = {"arch": "minigpt4", "model_type": "tiny_llama", "llm_precision": "fp32", "vit_precision": "fp32"}
    return config(tmp_path / "shapes.yaml", {"train": shards, "test": shards}, model)


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, ...]]:
    """The commands that are run, in this process."""
    commands = []

    def start(*words: str) -> int:
        commands.append(words)
        monkeypatch.setattr(sys, "argv", [f"minigpt4 {words[0]}", *words[1:]])
        try:
            importlib.import_module(COMMANDS[words[0]]).main()
        except SystemExit as end:
            return 0 if end.code is None else end.code if isinstance(end.code, int) else 1
        return 0

    monkeypatch.setattr(sweep, "start", start)
    return commands


def test_language_models_are_trained_over_one_cache_and_compared(path, started, tmp_path) -> None:
    options = ("run.max_epoch=1", "run.iters_per_epoch=1", "run.test_splits=[]")
    args = arguments(path, "tiny_llama", "tiny_gemma", options=options)
    sweep.sweep(args)
    assert [words[0] for words in started] == ["cache-features", *["train", "evaluate"] * 2]
    sweep.sweep(args)
    assert [words[0] for words in started[5:]] == ["cache-features"]

    for limit, then in (
        (None, "with --limit 2, this is without"),
        (3, "with --limit 2, this is with --limit 3"),
    ):
        with pytest.raises(ConfigError, match=then):
            sweep.sweep(Namespace(**vars(args) | {"limit": limit}))

    content = yaml.safe_load((args.out / "tiny_gemma/config.yaml").read_text())
    assert content["model"]["llama_model"] == "pkg://minigpt4/assets/tiny/gemma"
    assert list(content["datasets"]) == ["cached_features"]

    runs = read_runs(args.out)
    assert [run.name for run in runs] == ["tiny_gemma", "tiny_llama"]
    for run in runs:
        records = json.loads((args.out / run.name / "evaluation.json").read_text())["records"]
        nats = sum(record["loss"] * record["tokens"] for record in records)
        size = sum(len(record["truth"]) for record in records)
        assert len(records) == 2 and run.bits_per_byte == pytest.approx(nats / size / math.log(2))
        assert run.metrics["loss"] != run.others["loss"] and run.images == 4 and run.memory > 10**8
    heading, _, *rows = (args.out / "sweep.md").read_text().splitlines()
    assert [cell.strip() for cell in heading.split("|")][1:6] == COLUMNS and len(rows) == 2
    assert (args.out / "sweep.png").stat().st_size > 10_000


def test_a_solved_projection_is_made_once_for_each_language_model(path, started, monkeypatch) -> None:
    args = Namespace(**vars(arguments(path, "tiny_llama")) | {"solved": True})
    monkeypatch.setattr(sweep, "start", lambda *words: started.append(words) or int(words[0] == "train"))
    folder = args.out / "tiny_llama"
    with pytest.raises(SystemExit, match="tiny_llama"):
        sweep.sweep(args)
    assert [words[0] for words in started] == ["cache-features", "solve-projection", "train"]
    assert started[1][3:] == ("--out", f"{folder}/solved.pth", "--options", "model.ckpt=null")
    (folder / "solved.pth").touch()
    with pytest.raises(SystemExit, match="tiny_llama"):
        sweep.sweep(args)
    assert [words[0] for words in started[3:]] == ["cache-features", "train"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["ckpt"] == f"{folder}/solved.pth"
    with pytest.raises(ConfigError, match=r"model\.ckpt"):  # was begun from there
        sweep.sweep(Namespace(**vars(args) | {"solved": False}))

    (folder / "report.json").write_text("{}")  # trained: what it began with is not needed any more
    (folder / "checkpoint_latest.pth").touch()
    (folder / "solved.pth").unlink()
    sweep.sweep(args)
    assert [words[0] for words in started[5:]] == ["cache-features", "evaluate"]


def test_training_begins_with_what_was_solved(path, started) -> None:
    options = ("run.max_epoch=1", "run.iters_per_epoch=1", "run.test_splits=[]", "run.init_lr=1e-6")
    args = Namespace(**vars(arguments(path, "tiny_llama", options=options)) | {"solved": True})
    sweep.sweep(args)
    assert [words[0] for words in started] == ["cache-features", "solve-projection", "train", "evaluate"]
    folder = args.out / "tiny_llama"
    begun, trained = (
        read_checkpoint(folder / name)["model"]["llama_proj.weight"]
        for name in ("solved.pth", "checkpoint_latest.pth")
    )
    assert 0 < (trained - begun).abs().max() < 1e-5


def test_an_interrupted_run_goes_on_and_a_failed_one_is_named(path, started, monkeypatch) -> None:
    args, codes = arguments(path, "tiny_llama", "tiny_gemma"), iter([0, 1, 130])
    monkeypatch.setattr(sweep, "start", lambda *words: started.append(words) or next(codes))
    with pytest.raises(SystemExit) as stopped:
        sweep.sweep(args)
    assert stopped.value.code == 130 and len(started) == 3

    folder = args.out / "tiny_gemma"
    (folder / "report.json").write_text("{}")  # trained, but not evaluated
    (folder / "checkpoint_latest.pth").touch()
    codes = iter([0, 1, 1])
    with pytest.raises(SystemExit, match="tiny_llama, tiny_gemma"):
        sweep.sweep(args)
    _, train, evaluate = started[3:]
    assert train == ("train", "--cfg-path", str(args.out / "tiny_llama/config.yaml"), "--resume", "auto")
    assert evaluate[0] == "evaluate" and evaluate[-1] == f"model.ckpt={folder}/checkpoint_latest.pth"
    assert not (args.out / "sweep.md").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm": ["tiny_llama", "a/tiny_llama"]}, "tiny_llama"),
        ({"llm": ["a/Some model", "b/some*model.gguf"]}, "that of a/Some model"),
        ({"llm": ["/a/features"]}, "the cache"),
        ({"llm": ["/a/sweep.md"]}, "the comparison"),
        ({"llm": ["/nothing/there"]}, "/nothing/there"),
        ({"limit": 0}, "--limit"),
        ({"solved": True, "options": ["model.ckpt=/a/start.pth"]}, "/a/start.pth"),
        ({"options": ["datasets.laion.batch_size=1"]}, "one data set"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(path, started, change, message) -> None:
    args = arguments(path, "tiny_llama")
    with pytest.raises(ConfigError, match=message):
        sweep.sweep(Namespace(**vars(args) | change))
    assert not started and not list(args.out.glob("nothing/*"))


def test_a_damaged_report_is_named(path, tmp_path) -> None:
    args = arguments(path, "tiny_llama")
    report = args.out / "tiny_llama" / "evaluation.json"
    report.parent.mkdir(parents=True)
    for content in ("", "[]", '{"limit": 2'):
        report.write_text(content)
        with pytest.raises(ConfigError, match=f"{report} is damaged"):
            sweep.sweep(args)
    report.write_text("{}")
    report.with_name("report.json").write_text("{}")
    with pytest.raises(DataError, match=f"{report.parent} cannot be used"):
        read_runs(args.out)


def test_a_run_with_other_settings_is_not_taken_for_this_one(path, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "start", lambda *_: 130)
    with pytest.raises(SystemExit):
        sweep.sweep(arguments(path, "tiny_llama"))
    with pytest.raises(ConfigError, match=r"run\.init_lr: 0\.01 then, 0\.5 from here on"):
        sweep.sweep(arguments(path, "tiny_llama", options=("run.init_lr=0.5",)))


def test_a_model_type_gives_its_language_model_alone(path) -> None:
    cfg = load(path)
    own = sweep.language_of("smollm2", cfg)
    assert own["llm_backbone"] == "chatml" and own["prompt_path"] and "vit_model" not in own
    assert "llm_precision" not in own  # the YAML says it
    assert sweep.language_of("org/name", cfg) == {**sweep.BARE, "llama_model": "org/name"}
    own = sweep.language_of("smollm2", load(path, "model.llm_backbone=plain"))
    assert "llm_backbone" not in own
