"""Trackers: what is told arrives in their files, and none of them can end a run or is imported unasked."""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigpt4.common.errors import ConfigError
from minigpt4.runners.reporting import tracking
from minigpt4.runners.reporting.tracking import Trackers, check_trackers
from tests.support import ROOT

INSTALLED = [name for name in tracking.TRACKERS if importlib.util.find_spec(name)]
CONFIG = {"run": {"init_lr": 0.01, "train_splits": ["train"]}, "model": {"arch": "minigpt4"}}
RED = (255, 0, 0)

# A run that is interrupted after step 4, and goes on from a checkpoint of step 2; without a login.
INTERRUPTED_RUN = """
import json, logging, sys
from pathlib import Path
from minigpt4.common.logger import setup_logger
from minigpt4.runners.reporting.tracking import Trackers

folder, names, config = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
setup_logger()
for start, stop in ((0, 4), (2, 5)):
    trackers = Trackers(names, folder, config=config, job_name="a job", step=start)
    for step in range(start + 1, stop + 1):
        trackers.log({"train/loss": 8 / step + start, "train/lr": 0.5}, step)
    trackers.log({"valid/loss": 7.5 + start}, stop)
    trackers.log_image("valid/samples", folder / "samples.png", stop)
    trackers.close()
"""


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        name not in INSTALLED, reason=f"{name} is not installed (pip install '.[track]')"
    )


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The interrupted run's folder, and what it said."""
    folder = tmp_path_factory.mktemp("tracked")
    Image.new("RGB", (30, 20), RED).save(folder / "samples.png")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_", "NETRC"))}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_RUN, str(folder), json.dumps(INSTALLED), json.dumps(CONFIG)],
        env=clean | {"HOME": str(folder), "USERPROFILE": str(folder), "TRACKIO_DIR": str(folder / "trackio")},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


@needs("tensorboard")
def test_tensorboard_shows_a_resumed_run_once(tracked: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked[0] / "tensorboard"))
    events.Reload()
    # Steps 3 and 4 are those of the second try.
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({1: 8, 2: 4, 3: 8 / 3 + 2, 4: 4, 5: 3.6})
    assert [(e.step, e.value) for e in events.Scalars("valid/loss")] == [(5, 9.5)]
    (image,) = events.Images("valid/samples")
    assert (image.step, image.width, image.height) == (5, 30, 20)
    assert (
        '"arch": "minigpt4"' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    )


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: LevelDB's log format behind a head of 7 bytes, a protobuf a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no room for a piece's head in this block
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield Record.FromString(record)
            record = b""


@needs("wandb")
def test_wandb_without_a_login_keeps_both_parts_of_a_run(tracked: tuple[Path, str]) -> None:
    folder, said = tracked
    run_id = (folder / "tracker_id.txt").read_text().strip()
    parts = sorted((folder / "wandb").glob(f"offline-run-*-{run_id}*"))
    told = []
    for part in parts:
        records = list(wandb_records(part / f"run-{run_id}.wandb"))
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (run.project, run.display_name, run.run_id) == ("minigptv", "a job", run_id)
        config = {u.key: json.loads(u.value_json) for u in run.config.update}
        assert (config["run"], config["model"]) == (CONFIG["run"], CONFIG["model"])
        for record in records:
            items = {i.key: json.loads(i.value_json) for i in record.history.item if not i.nested_key}
            items |= {i.nested_key[0]: json.loads(i.value_json) for i in record.history.item if i.nested_key}
            if items:
                told.append((items["_step"], items["train/loss"], items.get("valid/loss")))
        (picture,) = (part / "files" / "media" / "images" / "valid").glob("samples_*.png")
        assert tuple(np.asarray(Image.open(picture))[0, 0]) == RED
    assert told == [
        *((1, 8, None), (2, 4, None), (3, pytest.approx(8 / 3), None), (4, 2, 7.5)),
        *((3, pytest.approx(8 / 3 + 2), None), (4, 4, None), (5, 3.6, 9.5)),
    ]
    assert f"wandb login; wandb sync {folder}/wandb/offline-run-*-{run_id}*" in said


@needs("trackio")
def test_trackio_resumes_the_run_of_that_name(tracked: tuple[Path, str]) -> None:
    folder, _ = tracked
    run_id = (folder / "tracker_id.txt").read_text().strip()
    with sqlite3.connect(folder / "trackio" / "minigptv.db") as database:
        rows = database.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
        configs = database.execute("select config from configs").fetchall()
    assert len({row[0] for row in rows}) == 1
    assert {row[1] for row in rows} == {f"a job-{run_id}"}
    told = [(step, json.loads(metrics)) for _, _, step, metrics in rows]
    assert [step for step, values in told if "train/loss" in values] == [1, 2, 3, 4, 3, 4, 5]
    assert (5, {"train/loss": 3.6, "train/lr": 0.5}) in told
    assert [(step, v["valid/loss"]) for step, v in told if "valid/loss" in v] == [(4, 7.5), (5, 9.5)]
    pictures = [values["valid/samples"]["file_path"] for _, values in told if "valid/samples" in values]
    assert len(pictures) == 2
    assert tuple(np.asarray(Image.open(folder / "trackio" / "media" / pictures[1]))[0, 0]) == RED
    assert json.loads(configs[-1][0])["model"] == CONFIG["model"]


def test_trackers_are_not_imported_unused(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
sys.modules["wandb"] = None  # timm imports it wherever it is installed; it is not asked here
import timm
del sys.modules["wandb"]
import minigpt4.runners, minigpt4.tasks, minigpt4.datasets.builders, minigpt4.models
from minigpt4.runners.reporting.tracking import check_trackers, Trackers
check_trackers(sys.argv[2:])
trackers = Trackers([], Path(sys.argv[1]), config={})
trackers.log({"loss": 1.0}, 1)
trackers.close()
print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorboard", "wandb", "trackio"}))
print("torch.utils.tensorboard" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *INSTALLED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout.splitlines()) == (0, ["[]", "False"]), run.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_trackers_refuses_unknown_and_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"'wandbb'; did you mean 'wandb'\? \(known: tensorboard, wandb, trackio\)"
    ):
        check_trackers(["wandbb"])
    monkeypatch.setattr(tracking, "TRACKERS", ("not_installed",))
    with pytest.raises(ConfigError, match=r"not_installed is not installed: pip install '\.\[track\]'"):
        check_trackers(["not_installed"])
    # What wandb leaves in the folder where it works, in the folder where train.py is.
    (tmp_path / "not_installed").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not_installed is not installed"):
        check_trackers(["not_installed"])


class Notes:
    """A tracker that keeps what it is given, and loses its network at a step, or before it starts."""

    name = "notes"

    def __init__(self, fails_at: int = 1000) -> None:
        self.fails_at = fails_at
        self.told: list[Any] = []

    def start(self) -> None:
        if self.fails_at == 0:
            raise TimeoutError("90 s")

    def log(self, values: dict[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ConnectionError("no route to host")
        self.told.append((step, values))

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.told.append((step, {name: image.shape for name, image in values.items()}))

    def finish(self) -> None:
        self.told.append("closed")


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, **notes: Notes) -> Trackers:
    def start(name: str, *_: Any) -> Notes:
        notes[name].start()
        return notes[name]

    monkeypatch.setattr(tracking, "_start", start)
    return Trackers(list(notes), folder, config={})


def test_trackers_leave_out_one_that_fails_and_warn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (30, 20), RED).save(tmp_path / "samples.png")
    absent, failing, working = Notes(fails_at=0), Notes(fails_at=2), Notes()
    trackers = started(monkeypatch, tmp_path, trackio=absent, wandb=failing, tensorboard=working)
    for step in (1, 2, 3):
        trackers.log({"loss": 1.0}, step)
    trackers.log_image("samples", tmp_path / "samples.png", 3)
    trackers.close()
    losses = [(step, {"loss": 1.0}) for step in (1, 2, 3)]
    assert (absent.told, failing.told) == ([], losses[:1])
    assert working.told == [*losses, (3, {"samples": (1, 20, 30, 3)}), "closed"]
    assert [record.getMessage() for record in caplog.records] == [
        "trackio fails, the run goes on without it (TimeoutError: 90 s)",
        "wandb fails, the run goes on without it (ConnectionError: no route to host)",
    ]
