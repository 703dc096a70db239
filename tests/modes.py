"""One small training run, to be executed in every way there is; and several ranks that do so in one start.

`torchrun --nproc-per-node 2 -m tests.modes FILE` does the jobs of a JSON file one after another: starting
costs ten seconds, a job a fraction of one.
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
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from minigpt4.common.config import Config
from minigpt4.common.errors import Interrupted
from minigpt4.common.logger import setup_logger
from minigpt4.common.registry import registry
from minigpt4.runners.engine import Engine
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks import ImageTextPretrainTask, setup_task
from tests.conftest import golden_model_config
from tests.shards import encoded, picture

ROOT = Path(__file__).parent.parent
UPDATES, TOGETHER = 6, 8  # updates of the weights, samples in each
SIDE = 56  # of the pictures, as the golden encoder wants them
WORDS = ["a", "big", "red", "dog", "cat", "house", "stands", "beside", "on", "under", "the", "hill", "and"]


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
    AcceleratorState._reset_state(reset_partial_state=True)
    cfg = config_of(path)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device=cfg.run_cfg.device, datasets=datasets)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    runner.train()
    return runner


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_golden(folder: Path, updates: int = UPDATES) -> None:
    """The log tells of the golden updates, each once and in order."""
    lines = [line for line in log_of(folder) if "loss" in line][:updates]
    assert [line["loss"] for line in lines] == pytest.approx(LOSSES[:updates], rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(NORMS[:updates], rel=1e-4)


def losses(folder: Path) -> list[float]:
    """One an update."""
    return [line["loss"] for line in log_of(folder) if "loss" in line]


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


def run_jobs(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Two ranks do the jobs -> exit code, and what they said.

    Args:
        folder: for the file of jobs.
        jobs: dicts with `config`; also `at` and `what`, which happens to rank 1 before that update: it is
            sent a SIGTERM (`stop`), or raises (`raise`).
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps([{**job, "config": str(job["config"])} for job in jobs]))
    with launched(*TORCHRUN, "-m", "tests.modes", str(file)) as process:
        said, _ = process.communicate(timeout=300)
    return process.returncode, said


@contextmanager
def watched(job: Mapping[str, Any]) -> Iterator[dict[str, list[list[str]]]]:
    """Collect the ids that this rank trains on, a list an update, and those that it evaluates."""
    update, evaluate = Engine.update, ImageTextPretrainTask.evaluate
    seen: dict[str, list[list[str]]] = {"trained": [], "evaluated": []}

    def watch_update(engine: Engine, group: Any, *rest: Any) -> Any:
        seen["trained"].append(group.keys)
        if engine.accelerator.process_index == 1 and len(seen["trained"]) == job.get("at"):
            if job["what"] == "raise":
                raise RuntimeError("rank 1 fell over")
            os.kill(os.getpid(), signal.SIGTERM)
        return update(engine, group, *rest)

    def watch_evaluate(*arguments: Any, **how: Any) -> list[dict[str, Any]]:
        records = evaluate(*arguments, **how)
        seen["evaluated"].append([record["image_id"] for record in records])
        return records

    Engine.update, ImageTextPretrainTask.evaluate = watch_update, watch_evaluate
    try:
        yield seen
    finally:
        Engine.update, ImageTextPretrainTask.evaluate = update, evaluate


def main() -> None:
    """Do the jobs; what each rank saw of one lies in `CONFIG.RANK.json`."""
    setup_logger()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        path, end = Path(job["config"]), "finished"
        with watched(job) as seen:
            try:
                train(path)
            except Interrupted as stop:
                end = str(stop)
        group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        report = seen | {"end": end, "timeout": group.options._timeout.total_seconds()}
        rank = torch.distributed.get_rank()
        path.with_suffix(f".{rank}.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
