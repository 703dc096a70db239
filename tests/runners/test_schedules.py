"""Learning-rate schedules: which settings they are given, and one from outside of the package."""

import json
from pathlib import Path

import pytest
import torch

from minigpt4.common import optims
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.runners import schedules
from tests.support.runs import run_config, train

# What a user writes to have a schedule of their own: this file, and `run.lr_sched: my_schedule:InverseRoot`.
INVERSE_ROOT = """
class InverseRoot:
    def __init__(self, optimizer, init_lr, iters_per_epoch, lr_decay_rate, floor=0.001):
        self.optimizer, self.init_lr, self.iters_per_epoch = optimizer, init_lr, iters_per_epoch
        self.floor = floor + lr_decay_rate

    def step(self, cur_epoch, cur_step):
        rate = self.floor + self.init_lr / (1 + cur_epoch * self.iters_per_epoch + cur_step) ** 0.5
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate


class Demanding(InverseRoot):
    def __init__(self, optimizer, init_lr, half_life):
        pass
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_schedule.py").write_text(INVERSE_ROOT)
    monkeypatch.syspath_prepend(tmp_path)


def test_make_schedule_takes_one_file_outside_of_the_package(outside, shards: Path, tmp_path: Path) -> None:
    run = {"lr_sched": "my_schedule:InverseRoot", "lr_decay_rate": 0.25, "log_freq": 1}
    train(run_config(shards, tmp_path / "job", **run))
    log = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in log] == pytest.approx([0.251 + 0.01 / n**0.5 for n in range(1, 9)])


def test_make_schedule_refuses_what_no_key_gives(outside, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.lr_sched: my_schedule:Demanding wants 'half_life'"):
        train(run_config(shards, tmp_path / "job", lr_sched="my_schedule:Demanding"))


def test_optims_is_the_original_s_import_path() -> None:
    assert optims.LinearWarmupStepLRScheduler is schedules.LinearWarmupStepLRScheduler
    assert optims.LinearWarmupCosineLRScheduler is schedules.LinearWarmupCosineLRScheduler


def rates(name: str, epochs: int, iters: int, **arguments) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = registry.get_lr_scheduler_class(name)(optimizer, epochs, iters, **arguments)
    seen = []
    for epoch in range(epochs):
        for step in range(iters):
            returned = scheduler.step(cur_epoch=epoch, cur_step=step)
            seen.append(optimizer.param_groups[0]["lr"])
            assert returned == seen[-1]
    return seen


@pytest.mark.parametrize("kind", ["cosine", "step"])
def test_schedules_have_the_originals_rates(reference, kind) -> None:
    arguments = dict(reference["schedule_args"][kind])
    epochs, iters = arguments.pop("max_epoch"), arguments.pop("iters_per_epoch")
    expected = reference["schedules"][kind]
    assert len(expected) == epochs * iters
    assert rates(f"linear_warmup_{kind}_lr", epochs, iters, **arguments) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["linear_warmup_cosine_lr", "linear_warmup_step_lr"])
def test_schedule_warm_up_longer_than_an_epoch_goes_on(name) -> None:
    seen = rates(name, 3, 4, min_lr=0.0, init_lr=1.0, warmup_steps=8, warmup_start_lr=0.0)
    assert seen[:8] == pytest.approx([n / 8 for n in range(8)])
    assert seen[8] > 0.2
    assert seen[8:] == sorted(seen[8:], reverse=True)
