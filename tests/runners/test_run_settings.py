"""Every key of `run:` does something, and what it cannot do is refused before anything is loaded."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from accelerate.state import PartialState

from minigpt4.common.errors import ConfigError, DataError, TrainingError
from minigpt4.common.registry import registry
from minigpt4.common.schema import parse, without_effect
from minigpt4.runners import engine, runner_base
from minigpt4.runners.reporting import reporter as report
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks import setup_task
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.tasks.records import Limits, Record
from tests.support.attempts import eventful, left_behind
from tests.support.runs import run_config, train

pytestmark = pytest.mark.usefixtures("undrawn")

NEEDED = {
    "task": "image_text_pretrain",
    "max_epoch": 1,
    "iters_per_epoch": 1,
    "init_lr": 1e-4,
    "output_dir": "o",
}
TYPES = get_type_hints(RunSettings)
SHOWN: set[str] = set()


def settings(**changes: Any) -> RunSettings:
    return parse(RunSettings, NEEDED | changes, "run")


def shows(*keys: str) -> Callable[[Callable], Callable]:
    """Notes that a test shows what these keys do."""
    SHOWN.update(keys)
    return lambda test: test


def seen(shapes: Path, folder: Path, **run: Any) -> dict[str, Any]:
    """A run of two epochs of two steps, unless told otherwise, by what can be seen of it."""
    short = {"iters_per_epoch": 2, "log_freq": 1, "resume_ckpt_path": None}
    cfg = run_config(shapes, folder, **short | run)
    cfg.config.model.llm_sanity_check = False
    train(cfg)
    left = left_behind(folder)
    lines = [line for line in left["log.jsonl"] if "loss" in line]
    return {
        "steps": lines[-1]["step"],
        "lines": [line["step"] for line in lines],
        "rates": [line["lr"] for line in lines],
        "losses": [line["loss"] for line in lines],
        "validations": [line["step"] for line in left["log.jsonl"] if "valid_loss" in line],
        "weights": left["checkpoint_latest.pth"]["model"],
        "order": left["checkpoint_latest.pth"]["sampler"][0]["loaders"]["cc_sbu.train"]["order"],
        "checkpoints": [name for name in left["files"] if name.endswith(".pth")],
        "captioned": left["report"].get("samples"),
    }


WARM = {"warmup_steps": 3, "warmup_lr": 0.001}
STEPWISE = {"lr_sched": "linear_warmup_step_lr", "lr_decay_rate": 0.5}
VALID = {"valid_splits": ["test"]}
# key -> the other settings, the value that is changed, and what changes with it.
EFFECTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "max_epoch": ({}, 3, "steps"),
    "iters_per_epoch": ({}, 3, "steps"),
    "init_lr": ({}, 0.02, "rates"),
    "min_lr": ({}, 0.005, "rates"),
    "warmup_lr": (WARM, 0.002, "rates"),
    "warmup_steps": (WARM, 2, "rates"),
    "lr_sched": (STEPWISE, "linear_warmup_cosine_lr", "rates"),
    "lr_decay_rate": (STEPWISE, 0.25, "rates"),
    "weight_decay": ({}, 0.5, "weights"),
    "beta2": ({}, 0.5, "weights"),
    "grad_clip": ({}, 0.01, "weights"),
    "accum_grad_iters": ({}, 2, "lines"),
    "seed": ({}, 7, "losses"),
    "num_workers": ({}, 2, "order"),
    "sort_window": ({}, 2, "order"),
    "log_freq": ({}, 2, "lines"),
    "train_splits": ({}, ["train", "test"], "losses"),
    "valid_splits": ({}, ["test"], "validations"),
    "valid_every": (VALID, 1, "validations"),
    "test_splits": ({}, ["test"], "captioned"),
    "save_every": ({}, 1, "checkpoints"),
    "save_minutes": ({"save_minutes": 0}, 1e-9, "checkpoints"),
    "keep": ({}, 1, "checkpoints"),
}


@pytest.fixture(scope="module")
def befores(shapes, tmp_path_factory) -> Callable[..., dict[str, Any]]:
    """What is seen without the change, once for all keys that share the other settings."""
    known: dict[str, dict[str, Any]] = {}

    def before(others: dict[str, Any]) -> dict[str, Any]:
        if str(others) not in known:
            known[str(others)] = seen(shapes, tmp_path_factory.mktemp("before") / "job", **others)
        return known[str(others)]

    return before


@pytest.mark.parametrize("key", EFFECTS)
def test_run_key_changes_what_it_is_for(shapes, tmp_path, befores, key) -> None:
    others, value, what = EFFECTS[key]
    after = seen(shapes, tmp_path / "after", **others | {key: value})
    assert befores(others)[what] != after[what]


def make_runner(shapes: Path, folder: Path, **run: Any) -> runner_base.RunnerBase:
    cfg = run_config(shapes, folder, **run)
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cpu")
    return runner_base.RunnerBase(
        cfg=cfg, job_id="as the original calls it", task=task, model=model, datasets=task.build_datasets(cfg)
    )


@shows("task", "runner", "lr_sched")
@pytest.mark.parametrize(
    ("key", "known"),
    [("task", "image_text_pretrain"), ("runner", "runner_base"), ("lr_sched", "linear_warmup_cosine_lr")],
)
def test_run_key_of_a_registered_name_is_looked_up(key, known) -> None:
    kind = "lr_scheduler" if key == "lr_sched" else key
    look_up = getattr(registry, f"get_{kind}_class")
    assert look_up(getattr(settings(), key)) is look_up(known)
    with pytest.raises(ConfigError, match=f"did you mean '{known}'"):
        look_up(known[:-1])


@shows("output_dir", "resume_ckpt_path")
def test_output_dir_and_resume_say_where_a_run_is(shapes, tmp_path) -> None:
    whole = seen(shapes, tmp_path / "whole")
    seen(shapes, tmp_path / "job", max_epoch=1)
    goes_on = seen(shapes, tmp_path / "job", resume_ckpt_path=str(tmp_path / "job" / "checkpoint_0.pth"))
    assert goes_on["lines"] == whole["lines"] and not (tmp_path / "job.1").exists()
    anew = seen(shapes, tmp_path / "job")
    assert anew == whole and (tmp_path / "job.1").exists()


@shows("evaluate", "batch_size_eval")
def test_evaluate_does_not_train(shapes, tmp_path, monkeypatch) -> None:
    sizes = []
    evaluate = ImageTextPretrainTask.evaluate

    def watched(self, model: Any, batches: Any, limits: Limits) -> list[Record]:
        def noted() -> Iterator[dict[str, Any]]:
            for batch in batches:
                sizes.append(len(batch.answers))
                yield batch

        return evaluate(self, model, noted(), limits)

    monkeypatch.setattr(ImageTextPretrainTask, "evaluate", watched)
    cfg = run_config(shapes, tmp_path / "job", evaluate=True, test_splits=["test"], batch_size_eval=4)
    metrics, runner = train(cfg)
    assert metrics["samples"] == 6 and sizes == [4, 2]
    assert runner.state.step == 0 and not (tmp_path / "job").exists()


@shows("max_bad_fraction")
def test_max_bad_fraction_ends_a_run(shapes, tmp_path) -> None:
    cfg = eventful(shapes, tmp_path / "job", max_bad_fraction=0.0, max_epoch=9)
    with pytest.raises(DataError, match=r"more than run\.max_bad_fraction=0\.0 allows"):
        train(cfg)


@shows("max_bad_steps")
def test_max_bad_steps_ends_a_run(shapes, tmp_path, monkeypatch) -> None:
    step = ImageTextPretrainTask.train_step
    monkeypatch.setattr(ImageTextPretrainTask, "train_step", lambda *args: step(*args) * torch.nan)
    with pytest.raises(TrainingError, match=r"^2 updates in a row"):
        train(run_config(shapes, tmp_path / "job", max_bad_steps=2))


@shows("amp", "device")
def test_device_and_amp_decide_where_and_how_precisely_a_run_computes(shapes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engine, "has_fast_bf16", lambda _: True)
    PartialState(cpu=True).device = torch.device("cuda", 0)  # as a run on a card leaves accelerate
    for amp, precision in ((True, "bf16"), (False, "no")):
        runner = make_runner(shapes, tmp_path / "job", amp=amp, device="cpu")
        assert runner.accelerator.mixed_precision == precision
        assert runner.engine.device == torch.device("cpu") and runner.accelerator.device.type == "cpu"
    with pytest.raises(ConfigError, match="device 'cud' is not a device"):
        make_runner(shapes, tmp_path / "job", device="cud")


@shows("tracker", "wandb_log", "job_name")
def test_tracker_names_the_trackers(shapes, tmp_path, monkeypatch) -> None:
    told: dict[str, Any] = {}

    def make(names: list[str], folder: Path, **how: Any) -> Any:
        told.update(how, names=names)
        return real([], folder, config={})

    real = report.Trackers
    monkeypatch.setattr(report, "Trackers", make)
    monkeypatch.setattr("minigpt4.runners.settings.check_trackers", lambda _: None)
    for keys, names in (({}, []), ({"tracker": ["trackio"]}, ["trackio"]), ({"wandb_log": True}, ["wandb"])):
        seen(shapes, tmp_path / "job", max_epoch=1, iters_per_epoch=1, job_name="mine", **keys)
        assert (told["names"], told["job_name"]) == (names, "mine")


@shows("distributed", "world_size", "dist_url", "dist_backend")
def test_launcher_decides_the_number_of_processes(shapes, tmp_path, monkeypatch, caplog) -> None:
    kwargs: dict[str, Any] = {}

    def recorded(**given: Any) -> Any:
        kwargs.update(given)
        return make(**given)

    make = engine.InitProcessGroupKwargs
    monkeypatch.setattr(engine, "InitProcessGroupKwargs", recorded)
    original = {"distributed": True, "world_size": 4, "dist_url": "env://", "dist_backend": "gloo"}
    with caplog.at_level(logging.WARNING):
        runner = make_runner(shapes, tmp_path / "job", **original)
    assert runner.accelerator.num_processes == 1 and kwargs.pop("backend") is None
    assert "run.world_size is 4, but 1 process was started: torchrun --nproc-per-node 4" in caplog.text
    # With a launcher it is asked for the backend.
    monkeypatch.setattr(engine, "Accelerator", lambda **_: None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    engine.make_accelerator(runner.settings)
    assert kwargs["backend"] == "gloo"
    with pytest.raises(ConfigError, match=r"run\.dist_url is 'tcp://.*only env:// is accepted"):
        settings(dist_url="tcp://10.0.0.1:1234")


@shows("name", "save_path")
def test_run_settings_accept_keys_of_the_originals_evaluation() -> None:
    assert settings(name="minigptv2_evaluation", save_path="/path/to/save").name == "minigptv2_evaluation"


def test_run_settings_have_no_key_without_a_test() -> None:
    assert SHOWN | EFFECTS.keys() == {one.name for one in fields(RunSettings)}


def test_run_settings_refuse_unknown_keys() -> None:
    for wrong, right in (("init_lrr", "init_lr"), ("save_minute", "save_minutes"), ("warmup", "warmup_lr")):
        with pytest.raises(ConfigError, match=rf"run\.{wrong}.*did you mean '{right}'"):
            settings(**{wrong: 1})
    for key in ("max_epoch", "output_dir"):
        with pytest.raises(ConfigError, match=rf"run.*{key}"):
            parse(RunSettings, {k: v for k, v in NEEDED.items() if k != key}, "run")


@pytest.mark.parametrize("key", TYPES)
def test_run_settings_refuse_wrong_types(key) -> None:
    wrong = {
        int: [1.5, "3", True, None],
        float: ["1e-4", "x"],
        bool: ["yes", 1, None],
        list[str]: ["train", [1], None],
    }.get(TYPES[key], [3, ["a"], True])
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"^run\.{key} is "):
            settings(**{key: value})


LOWEST = {one.name: one.metadata["low"] for one in fields(RunSettings) if one.metadata["low"] is not None}


@pytest.mark.parametrize("key", LOWEST)
def test_run_settings_refuse_numbers_that_are_too_small(key) -> None:
    assert settings(**{key: LOWEST[key]})
    with pytest.raises(ConfigError, match=rf"run\.{key} is -?\d"):
        settings(**{key: LOWEST[key] - 1})


def test_run_settings_bound_every_number() -> None:
    """Where 0 is allowed beside 1 it switches something off."""
    ones = ("max_epoch", "iters_per_epoch", "accum_grad_iters", "log_freq", "batch_size_eval", "keep")
    zeros = ("init_lr", "min_lr", "weight_decay", "grad_clip", "warmup_steps", "num_workers", "save_every")
    ones += ("max_bad_steps", "world_size", "sort_window")
    zeros += ("save_minutes", "valid_every", "seed", "max_bad_fraction", "beta2")
    assert dict.fromkeys(ones, 1) | dict.fromkeys(zeros, 0) == LOWEST
    with pytest.raises(ConfigError, match=r"run\.max_bad_fraction is 1\.5.*from 0 to 1"):
        settings(max_bad_fraction=1.5)


def test_run_settings_without_effect_on_what_a_run_computes() -> None:
    assert {*TYPES} - {*without_effect(RunSettings)} == {
        *("task", "runner", "max_epoch", "iters_per_epoch", "init_lr", "lr_sched", "min_lr", "warmup_lr"),
        *("warmup_steps", "lr_decay_rate", "weight_decay", "beta2", "grad_clip", "accum_grad_iters", "amp"),
        *("seed", "train_splits", "sort_window", "max_bad_fraction", "max_bad_steps"),
    }


def test_run_settings_expand_the_home_folder_in_paths(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    read = settings(output_dir="~/runs", resume_ckpt_path="~/a.pth")
    assert (read.output_dir, read.resume_ckpt_path) == ("/home/me/runs", "/home/me/a.pth")


@pytest.mark.parametrize("splits", [[], ["train", "train"]])
def test_run_settings_name_each_split_to_train_on_once(splits) -> None:
    with pytest.raises(ConfigError, match=r"run\.train_splits is \["):
        settings(train_splits=splits)


@shows("valid_tasks")
@pytest.mark.parametrize(
    ("splits", "tasks", "said"),
    [(["val"], ["vqa", "vqa"], "each task once"), ([], ["vqa"], "nothing would be")],
)
def test_run_settings_refuse_further_tasks_that_say_nothing(splits, tasks, said) -> None:
    with pytest.raises(ConfigError, match=rf"^run\.valid_tasks is .*{said}"):
        settings(valid_splits=splits, valid_tasks=tasks)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("decay_rate", [None, 0.5])
def test_training_warm_up_longer_than_an_epoch_goes_on(shapes, tmp_path, accumulated, decay_rate) -> None:
    """Epochs of three steps, a warm-up of seven. An update takes the rate of its last step; a resumed run
    goes on with it."""
    keys = {"max_epoch": 4, "iters_per_epoch": 3, "accum_grad_iters": accumulated, "init_lr": 0.01}
    keys |= {"warmup_steps": 7, "warmup_lr": 0.003, "min_lr": 0.001}
    keys |= {"lr_sched": "linear_warmup_step_lr", "lr_decay_rate": decay_rate} if decay_rate else {}
    rates = seen(shapes, tmp_path / "job", **keys)["rates"]
    ends = [2, 3, 5, 6, 8, 9, 11, 12] if accumulated == 2 else range(1, 13)
    steps = [end - 1 for end in ends]
    warm = [0.003 + 0.007 * step / 7 for step in steps if step < 7]
    assert rates[: len(warm)] == pytest.approx(warm)
    half_cosine = [
        0.001 + 0.009 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * s / 12)).item()) for s in steps
    ]
    by_epoch = [max(0.001, 0.01 * 0.5 ** (step // 3)) for step in steps]
    expected = by_epoch if decay_rate else half_cosine
    assert rates[len(warm) :] == pytest.approx(expected[len(warm) :], rel=1e-5)
    again = seen(
        shapes, tmp_path / "job", **keys, resume_ckpt_path=str(tmp_path / "job" / "checkpoint_1.pth")
    )
    assert again["rates"] == rates
