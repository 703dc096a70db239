"""Ctrl-C and SIGTERM: the step is finished and saved, the workers end, and the run goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data._utils import signal_handling

from minigpt4.common.errors import Interrupted
from minigpt4.common.logger import JsonLines
from minigpt4.runners.checkpoints import LATEST
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.attempts import before_call, eventful, left_where_stopped
from tests.support.runs import train

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="Windows has other signals"),
    pytest.mark.usefixtures("undrawn"),
]


def test_training_survives_a_signal_to_a_worker_that_starts(shapes, tmp_path, monkeypatch) -> None:
    """Before it can leave it to its parent; its death would end the run in the middle of a step."""
    begin = signal_handling._set_worker_signal_handlers

    def begin_and_be_told_to_end() -> None:
        begin()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", begin_and_be_told_to_end)
    train(eventful(shapes, tmp_path / "job", num_workers=2, max_epoch=1))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def run(shapes: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Begin a run, or go on with it -> what it leaves that does not depend on when it was stopped."""
    train(eventful(shapes, folder, **settings))
    return left_where_stopped(folder)


def ask_to_stop() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("batch", "step", "workers"), [(1, 2, 0), (3, 4, 2), (5, 5, 0), (15, 15, 0)])
def test_stop_within_an_update_finishes_it(
    shapes, tmp_path, monkeypatch, undisturbed, batch, step, workers
) -> None:
    """Updates take steps 1-2, 3-4, 5 of each epoch. The validation after the fifth is put off."""
    job = tmp_path / "job"
    if workers:
        undisturbed = run(shapes, tmp_path / "undisturbed", num_workers=workers)
    with monkeypatch.context() as patch:
        before_call(patch, "train_step", batch, ask_to_stop)
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {step}; ") as stopped:
            run(shapes, job, num_workers=workers)
    assert stopped.value.exit_code == 143
    assert f"{job / LATEST} is saved" in str(stopped.value) and "--resume auto" in str(stopped.value)
    assert not active_children()
    checkpoint = read_checkpoint(job / LATEST)
    assert checkpoint["step"] == step
    assert checkpoint["progress"]["owes_validation"] == (step % 5 == 0)
    assert run(shapes, job, num_workers=workers) == undisturbed


def test_stop_while_torch_compiles_is_an_interruption(shapes, tmp_path, monkeypatch) -> None:
    """A Ctrl-C in a terminal ends the C++ compiler at once, and torch takes that for an error in the code."""

    def interrupt_compiler() -> None:
        ask_to_stop()
        raise TorchDynamoException("C++ compile error")

    before_call(monkeypatch, "train_step", 1, interrupt_compiler)
    with pytest.raises(Interrupted, match="stopped by SIGTERM while torch compiled the model") as stopped:
        run(shapes, tmp_path / "job")
    assert stopped.value.exit_code == 143


def test_stop_within_a_validation_owes_it(shapes, tmp_path, monkeypatch, undisturbed) -> None:
    """And where the owed one was told, but a power cut came before it was saved, it is told once."""
    job = tmp_path / "job"
    with monkeypatch.context() as patch:
        before_call(patch, "evaluate", 2, ask_to_stop)
        with pytest.raises(Interrupted, match="after step 5"):
            run(shapes, job)
    assert read_checkpoint(job / LATEST)["progress"]["owes_validation"]
    assert "valid_loss" not in (job / "log.jsonl").read_text()

    def power_cut() -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        before_call(patch, "save", 1, power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(shapes, job)
    assert "valid_loss" in (job / "log.jsonl").read_text()
    assert run(shapes, job) == undisturbed


def test_stop_before_and_after_training(shapes, tmp_path, monkeypatch) -> None:
    """While it captions `test_splits`: two calls before, two in each of two validations, two after."""
    settings = {"max_epoch": 2, "test_splits": ["test"]}
    expected = run(shapes, tmp_path / "undisturbed", **settings)
    job = tmp_path / "job"
    with monkeypatch.context() as patch:
        before_call(patch, "evaluate", 1, ask_to_stop)
        with pytest.raises(Interrupted, match=r"after step 0; .* nothing to save"):
            run(shapes, job, **settings)
    assert not list(job.glob("*.pth"))
    with monkeypatch.context() as patch:
        before_call(patch, "evaluate", 8, ask_to_stop)
        with pytest.raises(Interrupted, match="after step 10"):
            run(shapes, job, **settings)
    assert not (job / "report.json").exists()
    assert run(shapes, job, **settings) == expected
    # And one that has come to its end has nothing to do.
    assert run(shapes, job, **settings) == expected
    before_call(monkeypatch, "evaluate", 1, ask_to_stop)
    with pytest.raises(Interrupted, match="there is nothing to save"):
        run(shapes, job, **settings, evaluate=True)


def test_stop_within_an_answer_does_not_wait_for_it(shapes, tmp_path, monkeypatch) -> None:
    answered = []

    def be_told_while_it_answers() -> None:
        ask_to_stop()
        answered.append(True)

    before_call(monkeypatch, "predict", 1, be_told_while_it_answers)
    with pytest.raises(Interrupted, match=r"after step 0; .* nothing to save") as stopped:
        run(shapes, tmp_path / "job", num_workers=2, test_splits=["test"])
    assert stopped.value.exit_code == 143 and not answered
    assert not active_children()


class Job:
    """`python train.py` in a session of its own, as a terminal or a cluster starts it."""

    def __init__(self, shapes: Path, folder: Path) -> None:
        self.folder = folder
        path = folder.with_suffix(".yaml")
        cfg = eventful(shapes, folder, num_workers=2, max_epoch=1000, valid_splits=[])
        OmegaConf.save(cfg.config, path)
        self.process = subprocess.Popen(
            [sys.executable, "train.py", "--cfg-path", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def wait_for_training(self) -> list[psutil.Process]:
        """Until a checkpoint is there -> the workers, which read both data sets."""
        while not (self.folder / LATEST).exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.1)
        workers = psutil.Process(self.process.pid).children(recursive=True)
        assert len(workers) == 2
        return workers

    def check_what_is_saved(self) -> None:
        """The checkpoint is of the last step that was logged."""
        last = JsonLines(self.folder / "log.jsonl").read()[-1]
        assert read_checkpoint(self.folder / LATEST)["step"] == last["step"]
        assert not list(self.folder.rglob(".*.part"))


@pytest.fixture
def job(shapes, tmp_path) -> Iterator[Job]:
    started = Job(shapes, tmp_path / "job")
    yield started
    started.process.kill()
    started.process.wait()


def gone(workers: list[psutil.Process]) -> bool:
    """Whether they end; a parent that was killed cannot bury them."""
    _, alive = psutil.wait_procs(workers, timeout=60)
    return all(worker.status() == psutil.STATUS_ZOMBIE for worker in alive)


@pytest.mark.slow
def test_stop_by_sigterm_to_train_py(job) -> None:
    workers = job.wait_for_training()
    job.process.terminate()
    said, _ = job.process.communicate()
    assert job.process.returncode == 143
    assert "stopped by SIGTERM after step " in said and "--resume auto" in said
    assert "Traceback" not in said and "rror" not in said
    assert not any(worker.is_running() for worker in workers)
    job.check_what_is_saved()


def test_stop_by_ctrl_c_to_train_py_and_its_workers(job) -> None:
    """The terminal sends it to the workers too, and to the `tee` that all words go to."""
    workers = job.wait_for_training()
    job.process.stdout.close()
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.process.wait() == 130
    assert not any(worker.is_running() for worker in workers)
    job.check_what_is_saved()


def test_kill_of_a_run_ends_its_workers(job) -> None:
    workers = job.wait_for_training()
    job.process.kill()
    job.process.wait()
    assert gone(workers)
