"""One small training run, to be executed in every way there is; and several ranks that do so in one start.

`torchrun --nproc-per-node 2 -m tests.support.modes FILE` does the jobs of a JSON file one after another:
starting costs ten seconds, a job a fraction of one.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch.distributed.tensor import DTensor

from minigpt4.common import launch
from minigpt4.common.config import Config
from minigpt4.common.errors import Interrupted
from minigpt4.common.logger import setup_logger
from minigpt4.common.registry import registry
from minigpt4.runners.engine import Engine
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks import ImageTextPretrainTask, setup_task
from minigpt4.tasks.records import Record
from tests.support import GOLDEN, ROOT
from tests.support.golden import golden_model_config
from tests.support.shards import encoded, picture

UPDATES, TOGETHER = 6, 8  # updates of the weights, samples in each
SIDE = 56  # of the pictures, as the golden encoder wants them
WORDS = ["a", "big", "red", "dog", "cat", "house", "stands", "beside", "on", "under", "the", "hill", "and"]


# The golden MiniGPT-v2; without dropout, for which ranks draw differently.
LORA = {
    **{"arch": "minigpt_v2", "has_qformer": False, "end_sym": "</s>"},
    **{"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
    "ckpt": str(GOLDEN / "minigptv2_checkpoint.pth"),
}
EVALUATED = {"valid_splits": ["val"], "test_splits": ["test"]}  # for `write_config`
# The loss of each update, and the norm of its gradient before clipping: recorded from one process with
# batches of 8, eager, in float32. Every way to execute the run must come to these.
LOSSES = [8.541412, 7.932146, 7.779011, 7.734995, 7.541407, 7.273405]
NORMS = [6.109091, 3.22037, 5.513772, 3.239981, 2.833092, 7.675431]


def write_data(folder: Path) -> None:
    """Pictures without loss and captions of 1, 2 or 14 words: 80 to train on, 7 to validate, 11 to test."""
    rng = random.Random(9)
    for split, count in (("train", 80), ("val", 7), ("test", 11)):
        lines = []
        for number in range(count):
            name = f"{split}_{number}.png"
            (folder / name).write_bytes(encoded(picture(len(lines), size=SIDE), "PNG"))
            caption = " ".join(rng.choices(WORDS, k=rng.choice((1, 2, 14))))
            lines.append(json.dumps({"image": name, "caption": caption, "id": name}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def write_config(
    folder: Path,
    name: str,
    *,
    ranks: int = 1,
    accumulated: int = 1,
    epochs: int = 2,
    model: Mapping[str, Any] | None = None,
    **run: Any,
) -> Path:
    """The YAML of a run that makes the same updates however it is executed; it writes to `folder/name`."""
    processor = {"train": {"name": "blip2_image_train", "image_size": SIDE}}
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "val", "test")}
    settings = {
        "task": "image_text_pretrain",
        "max_epoch": epochs,
        "iters_per_epoch": UPDATES // 2 * accumulated,
        "accum_grad_iters": accumulated,
        "lr_sched": "linear_warmup_step_lr",  # constant here
        "init_lr": 0.01,
        "amp": False,
        "device": "cpu",
        "num_workers": 0,
        "log_freq": accumulated,
        "output_dir": str(folder / name),
    }
    content = {
        "model": golden_model_config(llm_sanity_check=False, **(model or {})),
        "datasets": {
            "jsonl": {
                "batch_size": TOGETHER // ranks // accumulated,
                "build_info": {"ann_path": files},
                "vis_processor": processor,
            }
        },
        "run": settings | run,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def config_of(path: Path) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=[]))


def train(path: Path) -> RunnerBase:
    """Run a YAML to its end in this process."""
    cfg = config_of(path)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device=cfg.run_cfg.device, datasets=datasets)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    runner.train()
    return runner


def updates_of(folder: Path) -> list[dict[str, Any]]:
    """The log's lines on training, one an update."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def assert_golden(updates: Sequence[Mapping[str, Any]], first: int = 0) -> None:
    """They are the golden ones from number `first` on, each once and in order."""
    assert [update["loss"] for update in updates] == pytest.approx(LOSSES[first:], rel=1e-5)
    assert [update["grad_norm"] for update in updates] == pytest.approx(NORMS[first:], rel=1e-4)


def checkpoint(folder: Path, name: str = "checkpoint_latest.pth") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


TORCHRUN = (
    *("torch.distributed.run", "--nproc-per-node", "2"),
    *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
)


@contextmanager
def launched(*command: str) -> Iterator[subprocess.Popen]:
    """`python -m` something, with all that it says on its standard output. It is gone at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # a launcher ends its ranks
        process.communicate()


class Runs(NamedTuple):
    """What `run_everything` leaves: each run's output in `folder`, what two ranks said, their exit code."""

    folder: Path
    said: str
    code: int


def run_everything(folder: Path) -> Runs:
    """One process, and then two ranks in one start, of which the last run is the end."""
    write_data(folder)
    _do({"config": str(write_config(folder, "alone", **EVALUATED)), "what": "", "at": 0})
    after = {name: str(folder / name / "checkpoint_0.pth") for name in ("alone", "two", "sharded")}
    stopped = {"output_dir": str(folder / "stopped"), "resume_ckpt_path": "auto"}
    shard = {"device_map": "shard"}
    jobs = [
        _job(folder, "two", **EVALUATED),
        _job(folder, "two_accumulated", accumulated=2),
        _job(folder, "sharded", model=shard, **EVALUATED),
        _job(folder, "sharded_accumulated", accumulated=2, model=shard | {"llm_grad_checkpoint": True}),
        _job(folder, "stopped", "stop", 3),
        _job(folder, "stopped_goes_on", **stopped),
        _job(folder, "evaluating", "stop_evaluating", 1, valid_splits=["val"]),
        _job(folder, "sharded_after_two", model=shard, resume_ckpt_path=after["two"]),
        _job(folder, "two_after_sharded", resume_ckpt_path=after["sharded"]),
        _job(folder, "two_after_alone", resume_ckpt_path=after["alone"]),
        _job(folder, "lora_two", model=LORA),
        _job(folder, "lora_sharded", model=LORA | shard | {"llm_grad_checkpoint": True}),
        _job(folder, "fallen", "raise", 3),
    ]
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    with launched(*TORCHRUN, "-m", "tests.support.modes", str(file)) as process:
        said, _ = process.communicate(timeout=300)
    return Runs(folder, said, process.returncode)


def _job(folder: Path, name: str, what: str = "", at: int = 0, **how: Any) -> dict[str, Any]:
    """A run of two ranks. Something may happen to rank 1, before the so-manieth update or evaluation.

    Args:
        folder, name, how: as for `write_config`.
        what: it is sent a SIGTERM (`stop`, `stop_evaluating`), or raises (`raise`).
        at: from 1.
    """
    return {"config": str(write_config(folder, name, ranks=2, **how)), "what": what, "at": at}


def _do(job: Mapping[str, Any]) -> None:
    """Do a job; what this rank saw of it lies in `CONFIG.RANK.json`."""
    path = Path(job["config"])
    with _watched(job) as seen:
        try:
            train(path)
        except Interrupted as stop:
            seen["end"] = str(stop)
    path.with_suffix(f".{launch.rank()}.json").write_text(json.dumps(seen))


@contextmanager
def _watched(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Collect what this rank sees.

    Yields:
        `trained`: the ids of each update; `captions`: of each evaluation, by id; `held`: which share of the
        language model's layers; `waits`: seconds, for the other ranks; `end`: why it was stopped.
    """
    update, evaluate = Engine.update, ImageTextPretrainTask.evaluate
    seen: dict[str, Any] = {"trained": [], "captions": [], "held": 0, "waits": 0, "end": ""}

    def happens(event: str, number: int) -> bool:
        return (event, number) == (job["what"], job["at"]) and launch.rank() == 1

    def watch_update(engine: Engine, micro_batches: Any, *rest: Any) -> Any:
        seen["trained"].append(micro_batches.keys)
        seen.update(held=_share_of_layers(engine.bare_model), waits=_seconds_of_patience())
        if happens("raise", len(seen["trained"])):
            raise RuntimeError("rank 1 fell over")
        if happens("stop", len(seen["trained"])):
            os.kill(os.getpid(), signal.SIGTERM)
        return update(engine, micro_batches, *rest)

    def watch_evaluate(*arguments: Any) -> list[Record]:
        if happens("stop_evaluating", len(seen["captions"]) + 1):
            os.kill(os.getpid(), signal.SIGTERM)
        records = evaluate(*arguments)
        seen["captions"].append({record.image_id: record.prediction for record in records})
        return records

    Engine.update, ImageTextPretrainTask.evaluate = watch_update, watch_evaluate
    try:
        yield seen
    finally:
        Engine.update, ImageTextPretrainTask.evaluate = update, evaluate


def _share_of_layers(model: Any) -> float:
    """Of the numbers in the language model's layers, those that this rank keeps."""
    held = [p.to_local() if isinstance(p, DTensor) else p for p in _layers(model)]
    return sum(p.numel() for p in held) / sum(p.numel() for p in _layers(model))


def _seconds_of_patience() -> float:
    """How long this rank would wait for the others."""
    if not torch.distributed.is_initialized():
        return 0
    backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    return backend.options._timeout.total_seconds()


def _layers(model: Any) -> Iterator[torch.nn.Parameter]:
    return model.llama_model.get_decoder().layers.parameters()


def seen_by(runs: Runs, name: str) -> list[dict[str, Any]]:
    """What each rank saw of a run."""
    return [json.loads(path.read_text()) for path in sorted(runs.folder.glob(f"{name}.?.json"))]


def main() -> None:
    """Do the jobs of a file."""
    setup_logger()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        _do(job)


if __name__ == "__main__":
    main()
