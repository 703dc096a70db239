"""Two runs never write to one folder; what a dead one has left does not stand in the way."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt4.common.errors import CheckpointError, ConfigError, TrainingError
from minigpt4.common.lock import Held, Lock
from minigpt4.runners import runner_base
from minigpt4.weights.checkpoint import read_checkpoint, save_checkpoint
from tests.support import ROOT
from tests.support.runs import losses, run_config, train

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT: dict[str, Any] = {"max_epoch": 1, "iters_per_epoch": 2, "log_freq": 1}


@pytest.mark.integration
@pytest.mark.slow
def test_of_two_runs_that_start_together_the_second_is_refused(shapes: Path, tmp_path: Path) -> None:
    """Whichever that is. The earlier run in the folder is kept by the other."""
    job = tmp_path / "job"
    train(run_config(shapes, job, **SHORT))
    cfg = run_config(shapes, job, **SHORT | {"max_epoch": 40, "resume_ckpt_path": None})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(cfg.to_dict()))
    command = [sys.executable, str(ROOT / "train.py"), "--cfg-path", str(path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    errors = [process.communicate()[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 1]
    refused, other = codes.index(1), started[codes.index(0)]
    assert f"another run writes to {job} (process {other.pid} on " in errors[refused].splitlines()[-1]
    lines = [json.loads(line) for line in (job / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 81))
    assert len(losses(tmp_path / "job.1")) == 2 and not (tmp_path / "job.2").exists()
    assert not [*tmp_path.rglob(".*")]


def test_run_holds_its_folder_until_it_ends(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    seen = []

    def watched(self: Any, *args: Any) -> None:
        with pytest.raises(Held):
            Lock(tmp_path / "job" / ".lock").acquire()
        seen.append(1)
        steps(self, *args)

    steps = runner_base.RunnerBase._train_steps
    monkeypatch.setattr(runner_base.RunnerBase, "_train_steps", watched)
    for _ in range(2):  # the second moves the first out of the way
        train(run_config(shapes, tmp_path / "job", **SHORT))
    assert len(seen) == 2 and not [*tmp_path.rglob(".lock")]


def test_run_in_a_folder_that_is_in_use_leaves_it_alone(shapes: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    with Lock(job / ".lock"), pytest.raises(ConfigError, match=r"^run\.output_dir: another run writes to"):
        train(run_config(shapes, job, **SHORT))
    assert list(job.iterdir()) == []


def test_run_goes_on_with_a_damaged_log(shapes: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    train(run_config(shapes, job, **SHORT))
    path = job / "log.jsonl"
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, b'{"step": ', second, b""]))
    (job / "skipped.jsonl").write_bytes(b"\xff\n")
    (job / "tracker_id.txt").write_bytes(b"\xff")
    report, _ = train(run_config(shapes, job, **SHORT | {"max_epoch": 2, "resume_ckpt_path": "auto"}))
    assert report["steps"] == 4 and len(losses(job)) == 4
    assert (job / "log.jsonl.damaged").read_bytes() == b'{"step": \n'


def test_run_names_a_file_of_its_own_that_it_cannot_write(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "job" / "report.json").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"^run\.output_dir: .*report\.json: Is a directory"):
        train(run_config(shapes, tmp_path / "job", **SHORT))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("progress", []),
            ("progress", {"window": {"loss": "x"}}),
            ("sampler", {}),
            ("sampler", []),
            ("rng", []),
        ),
        *(("optimizer", {}), ("optimizer", []), ("step", "1"), ("config", None), ("config", [])),
        *(("sampler", [{"drawn": "x", "loaders": {}}]), ("sampler", [{"drawn": 1, "loaders": []}])),
        ("rng", [{"torch": None}]),
    ],
)
def test_run_refuses_a_checkpoint_of_another_make(
    shapes: Path, tmp_path: Path, checkpoint: Path, key: str, value: Any
) -> None:
    save_checkpoint(read_checkpoint(checkpoint) | {key: value}, tmp_path / "odd.pth")
    cfg = run_config(shapes, tmp_path / "job", **SHORT, resume_ckpt_path=str(tmp_path / "odd.pth"))
    with pytest.raises((ConfigError, CheckpointError), match=r"odd\.pth"):
        train(cfg)


@pytest.fixture(scope="module")
def checkpoint(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = tmp_path_factory.mktemp("first") / "job"
    train(run_config(shapes, job, **SHORT))
    return job / "checkpoint_0.pth"
