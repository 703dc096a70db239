"""Learning-rate schedules: which settings they are given, and one from outside of the package."""

import json
from pathlib import Path

import pytest

from minigpt4.common import optims
from minigpt4.common.errors import ConfigError
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


def test_optims_is_still_the_original_s_import_path() -> None:
    assert optims.LinearWarmupStepLRScheduler is schedules.LinearWarmupStepLRScheduler
    assert optims.LinearWarmupCosineLRScheduler is schedules.LinearWarmupCosineLRScheduler
