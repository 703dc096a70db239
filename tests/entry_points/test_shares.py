"""evaluate and cache-features in shares: together they make what one process makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt4.commands import cache_features, evaluate
from minigpt4.common.lock import Lock
from minigpt4.tasks.base_task import BaseTask
from tests.support.caching import cache, config, draw_shards
from tests.support.golden import golden_model_config


@pytest.fixture(scope="module")
def on_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a run on shards; the split `train` has 30 samples in three shards, `test` has six."""
    folder = tmp_path_factory.mktemp("shares")
    return config(folder / "shards.yaml", draw_shards(folder), golden_model_config(llm_sanity_check=False))


@pytest.fixture
def run(monkeypatch, on_shards: Path) -> Any:
    """Runs a command; its exit code or message."""

    def call(command: Any, *words: Any) -> Any:
        monkeypatch.setattr("sys.argv", ["minigpt4", "--cfg-path", str(on_shards), *map(str, words)])
        try:
            command.main()
        except SystemExit as end:
            return end.code
        return 0

    return call


@pytest.mark.parametrize("asked", [("--limit", 11, "--batch-size", 2), ("--shuffled", "--batch-size", 4)])
def test_evaluate_in_shares_is_the_report_of_one_process(run, tmp_path, monkeypatch, asked, capsys) -> None:
    words = ("--device", "cpu", "--options", "run.test_splits=[test,train]", *asked)
    assert run(evaluate, "--out", tmp_path / "whole.json", *words) == 0
    whole = capsys.readouterr().out
    out = tmp_path / "report.json"
    in_shares = ("--out", out, "--num-shards", 3, *words)
    for index in (2, 0):
        assert run(evaluate, *in_shares, "--shard-index", index) == 0
    assert capsys.readouterr().out == "" and not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
        assert "report.json.parts: 1 of 3 parts are missing: 1" in run(evaluate, *in_shares, "--merge")
        assert run(evaluate, *in_shares, "--shard-index", 0) == 0  # it is there
        other = run(evaluate, *in_shares, "--shard-index", 0, "--limit", 3)
        assert "00000-of-00003.json was made with another config or other arguments" in other
        with Lock(tmp_path / "report.json.parts" / ".00001-of-00003.json.lock"):
            assert "00001-of-00003.json is being computed by" in run(evaluate, *in_shares, "--shard-index", 1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")  # --array=1-3
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert run(evaluate, "--out", out, *words) == 0
    assert json.loads(out.read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert capsys.readouterr().out == whole
    # With other samples' pictures, there is nothing to be shown beside them.
    shown = () if "--shuffled" in asked else ("png", "predictions.jsonl", "predictions.md")
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("report", "whole") for kind in ("json", "md", *shown)
    }


def test_evaluate_refuses_a_damaged_part(run, tmp_path) -> None:
    words = ("--device", "cpu", "--limit", 2, "--out", tmp_path / "a.json", "--num-shards", 2)
    assert run(evaluate, *words, "--shard-index", 0) == 0
    for content in (b"{", b"[]", b'{"splits": [[[{"x": 1}]]], "made": {}}', b"\xff"):
        (tmp_path / "a.json.parts" / "00001-of-00002.json").write_bytes(content)
        assert "00001-of-00002.json is not part of a report" in run(evaluate, *words, "--merge")


def test_evaluate_in_shares_needs_a_file(run) -> None:
    message = run(evaluate, "--num-shards", 2, "--shard-index", 0)
    assert message == "error: --out is missing: the 2 shares are merged into it"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cache_features_in_shares_is_the_cache_of_one_process(run, on_shards, tmp_path, monkeypatch) -> None:
    """Of two train shards and the test shard of two shares; what another process writes is left to it."""
    whole = cache(on_shards, tmp_path / "whole")
    out = tmp_path / "cache"
    words = ("--out", out, "--devices", "cpu", "--num-shards", 2)
    assert run(cache_features, *words, "--shard-index", 1) == 0
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    message = run(cache_features, *words, "--merge")
    assert message.startswith(f"error: --out: {out}: 2 of 4 shards are missing: cc_sbu/")
    missing = message.rpartition("missing: ")[2].split(", ")
    held = out / missing[0]
    held.parent.mkdir(parents=True, exist_ok=True)
    with Lock(held.with_name(f".{held.name}.lock")):
        assert run(cache_features, *words, "--shard-index", 0) == 0
    assert not held.exists() and (out / missing[1]).exists()
    assert run(cache_features, *words, "--shard-index", 0) == 0
    assert contents(out) == contents(whole)
    monkeypatch.setattr(cache_features, "run_on_device", lambda *_: pytest.fail("work is done again"))
    assert run(cache_features, *words, "--merge") == 0
    assert contents(out) == contents(whole)
