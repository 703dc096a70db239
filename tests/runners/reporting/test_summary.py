"""The summaries before and after a run, and the commands in the second: whether they are what they say."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands import COMMANDS, evaluate
from minigpt4.commands import chat as chat_command
from minigpt4.common.config import Config
from minigpt4.common.formatting import format_bytes
from minigpt4.runners.reporting.summary import end_summary, mean_batch, next_commands, start_summary
from minigpt4.runners.resources.memory import count_memory
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks import setup_task
from minigpt4.tasks.base_task import Datasets
from tests.support.golden import build_golden_model, golden_model_config

CPU = torch.device("cpu")
REPORT = {
    "steps": 300,
    "images": 19_200,
    "train_seconds": 64.0,
    "skipped_steps": 0,
    "bad_samples": {},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("my shapes")  # a name that a shell would cut in two
    for split in ("train", "more", "held_out"):
        write_split(folder / split, "train", 4, seed=0, samples_per_shard=2)
    return folder


def config(shards: Path, *options: str, storage: Any = None, **run: Any) -> Config:
    """Two datasets, of which the first gives three batches of four."""
    processors = {
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
        "text_processor": {"train": {"name": "blip_caption"}},
    }
    storage = storage or {"train": f"{shards}/train/{{00000..00001}}.tar"}
    more = {"train": f"{shards}/more/00000.tar"} | dict.fromkeys(storage, f"{shards}/more/00001.tar")
    section = {"build_info": {"storage": storage}, **processors}
    second = {"build_info": {"storage": more}, **processors}
    settings = {
        "task": "image_text_pretrain",
        "max_epoch": 3,
        "iters_per_epoch": 100,
        "init_lr": 0.01,
        "output_dir": str(shards / "output"),
    }
    content = {
        "model": golden_model_config(model_type="pretrain_llama2"),
        "datasets": {
            "cc_sbu": {"batch_size": 4, "sample_ratio": 3, **section},
            "laion": {"batch_size": 8, "sample_ratio": 1, **second},
        },
        "run": settings | run,
    }
    path = shards / "a run.yaml"
    path.write_text(yaml.safe_dump(content))
    return Config(argparse.Namespace(cfg_path=str(path), options=list(options)))


def built(cfg: Config) -> tuple[Datasets, RunSettings]:
    return setup_task(cfg).build_datasets(cfg), cfg.run_settings()


def row(text: str, name: str) -> str:
    """What stands behind a name in one of the tables, single-spaced."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return " ".join(line.removeprefix(name).split())


def start(shards: Path, world_size: int = 1, start_step: int = 0, **run: Any) -> str:
    model = build_golden_model(llm_sanity_check=False)
    datasets, settings = built(config(shards, **run))
    counted = count_memory(model, 8, 1)
    return start_summary(
        model, datasets, settings, CPU, world_size, counted, precision="bf16", start_step=start_step
    )


def test_start_summary_shows_parameters_by_part(shards):
    text = start(shards)
    model = build_golden_model(llm_sanity_check=False)
    trained = 48 * 64 + 64
    assert row(text, "llama_proj") == f"{trained:,} {trained:,} float32 12.5 kB"
    encoder = sum(p.numel() for p in model.visual_encoder.parameters())
    assert row(text, "visual_encoder") == f"{encoder:,} frozen float32 {format_bytes(encoder * 4)}"
    total = sum(p.numel() for p in model.parameters())
    parameters = next(line for line in text.splitlines() if line.startswith("total "))
    assert parameters.split()[1:3] == [f"{total:,}", f"{trained:,}"]


def test_start_summary_shows_the_memory_that_can_be_counted(shards, monkeypatch):
    monkeypatch.setattr("minigpt4.runners.reporting.summary.available_memory", lambda _: 24 * 10**9)
    text = start(shards)
    counted = count_memory(build_golden_model(llm_sanity_check=False), 8, 1)
    assert row(text, "optimizer state") == format_bytes(2 * 4 * (48 * 64 + 64))
    assert row(text, "images of an update") == format_bytes(8 * 3 * 56 * 56)
    assert row(text, "activations") == "measured during the first update"
    assert row(text, "total without activations") == f"{format_bytes(counted.total)} of 24.0 GB"


def test_start_summary_shows_each_data_set_s_share(shards):
    text = start(shards)
    assert row(text, "cc_sbu.train") == "4 75.0% 2 shards"
    assert row(text, "laion.train") == "8 25.0% 1 shard"


def test_start_summary_counts_ranks_and_accumulation(shards):
    text = start(shards, world_size=2, accum_grad_iters=4)
    # Three batches of 4 and one of 8: 5 on average, on two ranks.
    assert row(text, "effective batch size") == "40: 5 x 4 accumulated x 2 processes"
    assert row(text, "training") == "3,000 samples in 300 steps, up to the end of 3 epochs of 100 steps"
    resumed = start(shards, world_size=2, start_step=250)
    assert row(resumed, "training") == "500 samples in 50 steps, up to the end of 3 epochs of 100 steps"
    assert row(text, "device") == "2 processes, the first on cpu, mixed precision: bf16"


def test_start_summary_rounds_a_mean_batch(shards):
    cfg = config(shards, "datasets.cc_sbu.batch_size=3")
    datasets, settings = built(cfg)
    assert mean_batch(datasets, settings) == 4.25
    text = start_summary(
        build_golden_model(llm_sanity_check=False),
        datasets,
        settings,
        CPU,
        1,
        count_memory(build_golden_model(llm_sanity_check=False), 8, 1),
    )
    assert row(text, "effective batch size") == "about 4: 4.25 x 1 accumulated x 1 process"
    assert row(text, "training").startswith("about 1,275 samples in 300 steps")


def test_start_summary_says_when_checkpoints_and_validations_are_due(shards):
    text = start(shards, keep=2, save_every=40, save_minutes=15)
    assert row(text, "checkpoints") == "at the end of each epoch, every 40 steps, every 15 minutes"
    assert row(text, "kept") == f"the last 2 of each kind, 137.6 kB each, in {shards}/output"
    assert "validation" not in text
    storage = {"train": f"{shards}/train/00000.tar", "val": f"{shards}/train/00001.tar"}
    model = build_golden_model(llm_sanity_check=False)
    for every, when in ((0, "at the end of each epoch"), (50, "every 50 steps")):
        datasets, settings = built(config(shards, storage=storage, valid_splits=["val"], valid_every=every))
        counted = count_memory(model, 8, 1)
        text = start_summary(model, datasets, settings, CPU, 1, counted)
        assert row(text, "validation") == f"val, {when}"


def test_start_summary_fits_a_terminal(shards):
    run = {"keep": 10, "save_every": 1000, "save_minutes": 30, "accum_grad_iters": 16, "output_dir": "output"}
    text = start(shards, world_size=16, **run)
    assert max(map(len, text.splitlines())) < 100
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_end_summary_shows_what_was_done(shards, tmp_path):
    (tmp_path / "checkpoint_best.pth").touch()
    (tmp_path / "checkpoint_latest.pth").touch()
    cfg = config(shards, output_dir=str(tmp_path))
    datasets, settings = built(cfg)
    more = {
        "skipped_steps": 2,
        "bad_samples": {"empty caption": 3, "broken image": 1},
        "best_metric": "loss",
        "best_valid_loss": 1.23456,
        "best_step": 200,
    }
    text = end_summary(REPORT | more, cfg, datasets, settings)
    assert row(text, "steps") == "300, 2 updates skipped"
    assert row(text, "samples") == "19,200 in 1 min, 300.0 per second"
    assert row(text, "bad samples") == "4: 3 empty caption, 1 broken image"
    assert row(text, "best validation loss") == "1.2346 after step 200"
    assert row(text, "checkpoints") == "checkpoint_best.pth, checkpoint_latest.pth"
    other = {"best_metric": "exact_match", "best_valid_exact_match": 0.75, "best_step": 3}
    text = end_summary(REPORT | other, cfg, datasets, settings)
    assert row(text, "best validation exact match") == "0.7500 after step 3"
    plain = end_summary(REPORT, cfg, datasets, settings)
    assert row(plain, "steps") == "300"
    assert "bad samples" not in plain and "validation" not in plain


def test_end_summary_of_a_run_without_a_step(shards):
    cfg = config(shards)
    report = REPORT | {"images": 0, "train_seconds": 0.0}
    assert row(end_summary(report, cfg, *built(cfg)), "samples") == "0 in 0 s"


def parsed(script: Any, work: str, command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the command's own parser makes of a printed command."""
    program, name, *arguments = shlex.split(command)
    assert (program, COMMANDS[name]) == ("minigpt4", script.__name__)
    seen = []
    monkeypatch.setattr(script, work, seen.append)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    script.main()
    return seen[0]


def commands(cfg: Config, checkpoint: str = "out put/checkpoint_latest.pth") -> list[str]:
    return [text.split("\n  ")[1] for text in next_commands(cfg, *built(cfg), Path(checkpoint))]


def test_next_commands_build_the_trained_model(shards, monkeypatch):
    cfg = config(shards, "model.max_txt_len=24", "run.max_epoch=1", "model.ckpt=an earlier one", device="cpu")
    chat, evaluation = commands(cfg)
    for script, work, command in ((chat_command, "chat", chat), (evaluate, "evaluate", evaluation)):
        args = parsed(script, work, command, monkeypatch)
        assert args.cfg_path == str(shards / "a run.yaml")
        assert args.device == "cpu"
        assert args.options == ["model.max_txt_len=24", "model.ckpt=out put/checkpoint_latest.pth"]
        again = Config(args)
        assert again.model_cfg.max_txt_len == 24
        assert again.model_cfg.ckpt == "out put/checkpoint_latest.pth"


def test_next_commands_repeat_options_in_the_original_s_form(shards, monkeypatch):
    cfg = config(shards, "model.max_txt_len", "24", "run.seed", "7")
    chat, _ = commands(cfg)
    assert Config(parsed(chat_command, "chat", chat, monkeypatch)).model_cfg.max_txt_len == 24
    assert "--device" not in chat and "seed" not in chat


def test_next_commands_evaluate_as_the_run_did(shards, monkeypatch):
    cfg = config(shards, "run.task=short_answer", "run.max_epoch=1", "run.batch_size_eval=2")
    args = parsed(evaluate, "evaluate", commands(cfg)[1], monkeypatch)
    assert args.options[:-1] == ["run.task=short_answer", "run.batch_size_eval=2"]


@pytest.mark.parametrize(
    ("run", "split"),
    [
        ({"test_splits": ["test"], "valid_splits": ["val"]}, "test"),
        ({"valid_splits": ["val"]}, "val"),
        ({}, "other"),
    ],
)
def test_next_commands_evaluate_what_was_held_out(shards, monkeypatch, run, split):
    storage = {
        "train": f"{shards}/train/{{00000..00001}}.tar",
        "other": f"{shards}/more/00000.tar",
        "val": f"{shards}/held_out/00000.tar",
        "test": f"{shards}/held_out/00001.tar",
    }
    cfg = config(shards, storage=storage, **run)
    args = parsed(evaluate, "evaluate", commands(cfg)[1], monkeypatch)
    assert (args.split, args.limit, args.shards) == ([split], None, None)


def test_next_commands_evaluate_training_samples_where_none_are_held_out(shards, monkeypatch):
    cfg = config(shards)
    texts = next_commands(cfg, *built(cfg), Path("checkpoint.pth"))
    assert texts[1].startswith("Evaluate it on the split train:\n")
    args = parsed(evaluate, "evaluate", commands(cfg)[1], monkeypatch)
    assert (args.split, args.limit) == (["train"], 1000)


def test_end_summary_names_the_best_checkpoint(shards, tmp_path):
    cfg = config(shards, output_dir=str(tmp_path))
    (tmp_path / "checkpoint_latest.pth").touch()
    assert f"model.ckpt={tmp_path}/checkpoint_latest.pth" in end_summary(REPORT, cfg, *built(cfg))
    (tmp_path / "checkpoint_best.pth").touch()
    assert f"model.ckpt={tmp_path}/checkpoint_best.pth" in end_summary(REPORT, cfg, *built(cfg))
