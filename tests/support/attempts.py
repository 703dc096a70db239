"""Runs that have all that could be lost between two steps, ways to end them, and what is left to compare.

`python -m tests.support.attempts` forks off processes that do what train.py does: it has imported
everything already. It reads a line of JSON for each, and answers with one.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import OmegaConf

from dataset.shapes.make_shards import write_split
from minigpt4.common import cli
from minigpt4.common.config import Config
from minigpt4.common.logger import JsonLines
from minigpt4.runners.checkpoints import BEST, LATEST, CheckpointFolder
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.runs import mixed_config

# Python's audit events of what changes a folder; each comes before the change.
CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.truncate", "os.mkdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def write_shapes(folder: Path) -> Path:
    """The shards that `eventful` names."""
    write_split(folder / "train", "train", 40, seed=0, samples_per_shard=20)
    write_split(folder / "test", "test", 6, seed=0, samples_per_shard=6)
    write_split(folder / "more", "train", 30, seed=1, samples_per_shard=10)
    return folder


def eventful(shards: Path, output: Path, **run: Any) -> Config:
    """The config of a run whose every step depends on all that a checkpoint must hold.

    Two datasets, of which one has a shard missing, and prompts that are drawn; a Q-Former that is trained,
    with dropout; Adam, a warm-up; updates of two steps in epochs of five; validations, which tell the best.
    """
    settings = {
        **{"max_epoch": 3, "iters_per_epoch": 5, "accum_grad_iters": 2, "num_workers": 0},
        **{"warmup_steps": 7, "warmup_lr": 0.001, "log_freq": 1, "valid_splits": ["test"]},
        **{"save_every": 2, "keep": 2, "resume_ckpt_path": "auto"},
    }
    cfg = mixed_config(shards, output, **settings | run)
    # What takes longest in such a run is to write answers.
    cfg.config.model |= {"freeze_qformer": False, "llm_sanity_check": False, "max_txt_len": 12}
    cfg.config.datasets.laion.build_info.storage.test = cfg.config.datasets.cc_sbu.build_info.storage.test
    return cfg


def left_behind(folder: Path) -> dict[str, Any]:
    """All that a run leaves in its folder but times, to be compared: tensors bit by bit."""
    left: dict[str, Any] = {"files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))}
    for path in folder.glob("*.pth"):
        checkpoint = read_checkpoint(path)
        del checkpoint["config"]
        for counted in (checkpoint["progress"], checkpoint["progress"]["window"]):
            del counted["seconds"]
        left[path.name] = _comparable(checkpoint)
    for path in folder.glob("*.jsonl"):
        left[path.name] = [
            {key: value for key, value in record.items() if not key.endswith("_per_second")}
            for record in JsonLines(path).read()
        ]
    if (folder / "report.json").exists():
        left["report"] = json.loads((folder / "report.json").read_text())
        del left["report"]["train_seconds"], left["report"]["peak_memory"]
    return left


def left_where_stopped(folder: Path) -> dict[str, Any]:
    """Of that, what does not depend on when a run was stopped."""
    left = left_behind(folder)
    return {name: left[name] for name in (LATEST, BEST, "log.jsonl", "report")}


def before_call(monkeypatch: Any, method: str, number: int, do: Callable[[], Any]) -> None:
    """Have something happen before the so-manieth call of a method of the task or of the checkpoints."""
    owner = CheckpointFolder if method == "save" else ImageTextPretrainTask
    call, calls = getattr(owner, method), count(1)

    def called(*args: Any, **arguments: Any) -> Any:
        if next(calls) == number:
            do()
        return call(*args, **arguments)

    monkeypatch.setattr(owner, method, called)


def _comparable(value: Any) -> Any:
    if torch.is_tensor(value):
        bits = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(bits).hexdigest()[:12]]
    if isinstance(value, dict):
        return {key: _comparable(one) for key, one in value.items()}
    return [_comparable(one) for one in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class End:
    """How an attempt ended.

    Attributes:
        code: its exit code, or less a signal's number.
        seconds: that it took.
        said: all that it wrote to the console.
    """

    code: int
    seconds: float
    said: str


class Attempts:
    """Forks off attempts, between `with` and its end."""

    def __enter__(self) -> "Attempts":
        # A kernel's other threads would not live through a fork, and it would wait for them.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.support.attempts"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def __call__(self, cfg: Config, **how: Any) -> End:
        """Run train.py to its end, of whatever kind.

        Args:
            cfg: the whole configuration.
            how: `number` of a signal that is sent after `seconds`; or `change`: it dies as by SIGKILL before
                the so-manieth change of the output folder.
        """
        output = Path(cfg.run_cfg.output_dir)
        path = output.with_suffix(".yaml")
        OmegaConf.save(cfg.config, path)
        print(json.dumps({"config": str(path)} | how), file=self.process.stdin, flush=True)
        code, seconds = self.process.stdout.readline().split()
        return End(int(code), float(seconds), path.with_suffix(".txt").read_text())


def main() -> None:
    """Fork off an attempt for each line, and answer with how it ended."""
    from minigpt4.commands import train
    from minigpt4.datasets.datasets import shard_order
    from minigpt4.runners.reporting import plots
    from minigpt4.runners.reporting import reporter as report

    shard_order.SHUFFLE_BUFFER = 8  # smaller than a shard: the position in it must be found again
    # Three quarters of the time would go into drawing; that these files are written at all is enough.
    report.draw_loss = plots.draw_samples = lambda drawn, path, *more: path.write_bytes(b"a picture")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            attempt(train.train, request)
        begun = time.monotonic()
        # To its workers too, as a terminal and a cluster send them.
        timer = threading.Timer(request.get("seconds", 0), _send, (-child, request.get("number", 0)))
        timer.start()
        _, status = os.waitpid(child, 0)
        timer.cancel()
        timer.join()
        _send(-child, signal.SIGKILL)  # its workers would need seconds to see that it is gone
        print(os.waitstatus_to_exitcode(status), time.monotonic() - begun, flush=True)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def attempt(command: Callable[[argparse.Namespace], None], request: dict[str, Any]) -> NoReturn:
    """What the process that was forked off does: what `python train.py` would."""
    os.setsid()
    path = Path(request["config"])
    console = os.open(path.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(console, stream)
    code: Any = 1
    try:
        if "change" in request:
            die_before_change(path.with_suffix("").resolve(), request["change"])
        cli.run(command, argparse.Namespace(cfg_path=str(path), options=[], resume=None))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


def die_before_change(folder: Path, number: int) -> None:
    """Have this process die before the so-manieth time that it changes something in the folder.

    Beside Python's own events, parts of a checkpoint that are written count, and each fsync.
    """
    left = number

    def come_nearer() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and (event != "open" or arguments[2] & WRITING):
            place = arguments[0]
            if isinstance(place, str | Path) and str(place).startswith(str(folder)):
                come_nearer()

    sys.addaudithook(hear)
    save, fsync = torch.save, os.fsync
    torch.save = lambda state, file: save(state, Counted(file, come_nearer))
    os.fsync = lambda descriptor: (come_nearer(), fsync(descriptor))


class Counted:
    """A file that tells before the first, and then before each hundredth piece that is written."""

    def __init__(self, file: Any, tell: Callable[[], None]) -> None:
        self.file = file
        self.tell = tell
        self.pieces = 0

    def write(self, data: bytes) -> int:
        if self.pieces % 100 == 0:
            self.file.flush()
            self.tell()
        self.pieces += 1
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


if __name__ == "__main__":
    main()
