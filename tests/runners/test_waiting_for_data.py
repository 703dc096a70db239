"""Data that does not come: a request to stop is heard, and a worker that died or hangs is named."""

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from minigpt4.commands import train as train_script
from minigpt4.common import cli
from minigpt4.common.errors import DataError, Interrupted
from minigpt4.datasets import loader
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.mixing import TrainStream
from minigpt4.prompts.sample import Batch
from minigpt4.runners.checkpoints import LATEST
from minigpt4.runners.run_checkpoints import START_OF_DATA
from minigpt4.tasks import setup_task
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.attempts import eventful, left_where_stopped
from tests.support.runs import losses, run_config, train

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="Windows has other signals"),
    pytest.mark.usefixtures("undrawn"),
]


def before_batch(
    monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], None], *, training: bool = True
) -> None:
    """Have something happen in the process that reads before the so-manieth batch that it reads."""
    read, numbers = BatchStream.__iter__, count(1)

    def watched(self: BatchStream) -> Iterator[Batch]:
        for batch in read(self):
            if self.reading.training is training and next(numbers) == number:
                do()
            yield batch

    monkeypatch.setattr(BatchStream, "__iter__", watched)


def ask_and_block(process: int) -> None:
    """As if somebody lost patience with data that never comes."""
    os.kill(process, signal.SIGTERM)
    while True:
        time.sleep(0.01)


def left(shapes: Path, folder: Path) -> dict[str, Any]:
    """Start a run, or resume it -> what it leaves that does not depend on when it was stopped."""
    train(eventful(shapes, folder))
    return left_where_stopped(folder)


@pytest.mark.parametrize(("batch", "step"), [(2, 0), (4, 2), (5, 4), (6, 5)])
def test_stop_while_data_is_awaited_saves_what_was_trained(
    shapes, tmp_path, monkeypatch, undisturbed, batch, step
) -> None:
    """Updates take steps 1-2, 3-4, 5 of each epoch: what was drawn for one that never came is drawn again."""
    job = tmp_path / "job"
    with monkeypatch.context() as patch:
        before_batch(patch, batch, lambda: ask_and_block(os.getpid()))
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {step}; ") as stopped:
            left(shapes, job)
    assert stopped.value.exit_code == 143
    assert (job / LATEST).exists() is (step > 0)
    if step:
        assert read_checkpoint(job / LATEST)["step"] == step
    assert left(shapes, job) == undisturbed


def test_stop_of_train_while_its_workers_hang_exits_with_143(shapes, tmp_path, monkeypatch) -> None:
    cfg = run_config(shapes, tmp_path / "job", num_workers=1, log_freq=1)
    OmegaConf.save(cfg.config, tmp_path / "job.yaml")
    monkeypatch.setattr("minigpt4.common.logger.setup_logger", lambda **_: None)  # it is this process's
    before_batch(monkeypatch, 5, lambda: ask_and_block(os.getppid()))
    with pytest.raises(SystemExit) as end:
        cli.run(
            train_script.train, argparse.Namespace(cfg_path=tmp_path / "job.yaml", options=[], resume=None)
        )
    assert end.value.code == 143
    trained = len(losses(tmp_path / "job"))
    assert 0 < trained <= 4 and read_checkpoint(tmp_path / "job" / LATEST)["step"] == trained
    assert not active_children()


def test_stop_while_a_validation_waits_owes_it(shapes, tmp_path, monkeypatch, undisturbed) -> None:
    job = tmp_path / "job"
    with monkeypatch.context() as patch:
        before_batch(patch, 1, lambda: ask_and_block(os.getpid()), training=False)
        with pytest.raises(Interrupted, match="after step 5; "):
            left(shapes, job)
    assert read_checkpoint(job / LATEST)["progress"]["owes_validation"]
    assert left(shapes, job) == undisturbed


def test_train_stream_names_a_worker_that_died(shapes, tmp_path, monkeypatch) -> None:
    before_batch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"^training data: worker \d+ was killed by SIGKILL\. ") as error:
        train(run_config(shapes, tmp_path / "job", num_workers=1))
    assert "run.num_workers: 0" in str(error.value)
    assert not active_children()


def test_train_loader_names_a_worker_that_hangs_and_waits(shapes, tmp_path, monkeypatch) -> None:
    train(run_config(shapes, tmp_path / "undisturbed", num_workers=1))
    told, logged = tmp_path / "told", []

    def tell(message: str, *facts: Any) -> None:
        logged.append((message % facts, facts))
        told.touch()

    def hang() -> None:
        while not told.exists():
            time.sleep(0.01)

    monkeypatch.setattr(loader.log, "error", tell)
    monkeypatch.setattr(loader, "SECONDS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(loader, "SECONDS_WITHOUT_DATA", 2)
    before_batch(monkeypatch, 2, hang)
    train(run_config(shapes, tmp_path / "job", num_workers=1))
    message, (name, seconds, workers) = logged[0]
    assert (name, seconds, len(workers)) == ("training data", 2, 1)
    assert message.startswith("training data: no batch for 2 s; ")
    assert losses(tmp_path / "job") == losses(tmp_path / "undisturbed")


def test_train_stream_starts_its_workers_before_it_is_waited_for(shapes, tmp_path) -> None:
    """A request to stop may interrupt the wait for a batch, but nothing that is half started."""
    cfg = run_config(shapes, tmp_path / "job", num_workers=2)
    datasets = setup_task(cfg).build_datasets(cfg)
    reading = {"max_bad_fraction": 0.5, "rank": 0, "world_size": 1, "workers": 2, "pin_memory": False}
    with TrainStream.of(datasets, ["train"], 0, START_OF_DATA, **reading) as stream:
        workers = stream.loader.workers
        assert [worker.is_alive() for worker in workers] == [True, True]
    assert [worker.is_alive() for worker in workers] == [False, False]
