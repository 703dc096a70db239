"""Checkpoints that are not what a run wrote: resuming from them ends in one line that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError
from tests.support.runs import run_config, train

SHORT = {"max_epoch": 2, "iters_per_epoch": 2, "test_splits": []}


@pytest.fixture(scope="module")
def checkpoint(shards, tmp_path_factory) -> Path:
    """Of a run that was stopped after its first epoch."""
    output = tmp_path_factory.mktemp("run") / "job"
    train(run_config(shards, output, **SHORT | {"max_epoch": 1}))
    return output / "checkpoint_0.pth"


def first_moments(content: dict) -> dict:
    return content["optimizer"]["state"][0]


HUGE = torch.zeros(1).expand(10**9, 10**6)
DAMAGES: dict[str, Callable[[dict], Any]] = {
    "step": lambda c: c.update(step="3"),
    "negative step": lambda c: c.update(step=-1),
    "progress": lambda c: c.update(progress=[1]),
    "images": lambda c: c["progress"].update(images="many"),
    "window": lambda c: c["progress"].update(window=3),
    "rng": lambda c: c.update(rng=[{"python": 1, "torch": torch.zeros(3), "cuda": None}]),
    "no generators": lambda c: c.update(rng=[]),
    "sampler": lambda c: c.update(sampler=None),
    "drawn": lambda c: c["sampler"][0].update(drawn="x"),
    "optimizer": lambda c: c.update(optimizer=5),
    "groups": lambda c: c["optimizer"].update(param_groups=[]),
    "moments": lambda c: first_moments(c).update(exp_avg=torch.zeros(3)),
    "huge moments": lambda c: first_moments(c).update(exp_avg=HUGE),
    "sparse moments": lambda c: first_moments(c).update(exp_avg=torch.eye(3).to_sparse()),
    "meta": lambda c: c.update(meta="x"),
    "template": lambda c: c["meta"].update(template=[1], prompted=True),
    "integers": lambda c: c["model"].update({k: v.to(torch.int8) for k, v in c["model"].items()}),
    "complex": lambda c: c["model"].update({k: v.to(torch.cfloat) for k, v in c["model"].items()}),
    "huge": lambda c: c["model"].update(dict.fromkeys(c["model"], HUGE)),
    "numbered": lambda c: c.update(model=dict(enumerate(c["model"].values()))),
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_resumed(shards, checkpoint, tmp_path, damage) -> None:
    content = torch.load(checkpoint, weights_only=True)
    DAMAGES[damage](content)
    path = tmp_path / "damaged.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        train(run_config(shards, tmp_path / "job", **SHORT, resume_ckpt_path=str(path)))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "job" / "log.jsonl").exists()
