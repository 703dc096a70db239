"""What a run is about to do and what it has done, for people."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.config import Config
from minigpt4.common.formatting import format_bytes, format_count, format_duration, format_table
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.models.base_model import BaseModel
from minigpt4.runners.checkpoints import BEST, LATEST
from minigpt4.runners.resources.memory import CountedMemory, available_memory
from minigpt4.runners.resources.preflight import checkpoint_bytes
from minigpt4.runners.settings import RunSettings

# Enough to see whether a model looks, where no samples are held out.
TRAINING_SAMPLES = 1000
# What of `run:` an evaluation depends on.
OF_EVALUATION = ("run.task=", "run.batch_size_eval=", "run.max_bad_fraction=")


def start_summary(
    model: BaseModel,
    datasets: Datasets,
    settings: RunSettings,
    device: torch.device,
    world_size: int,
    counted: CountedMemory,
    *,
    precision: str = "no",
    start_step: int = 0,
) -> str:
    """Parameters, data sets, memory, and what will be done.

    Args:
        model: the one to train.
        datasets: name -> (builder, datasets by split).
        settings: of the run.
        device: of this process.
        world_size: number of processes.
        counted: memory, as the preflight counted it.
        precision: accelerate's `mixed_precision`.
        start_step: number of steps done before.
    """
    tables = (
        _parameters(model, counted),
        _datasets(datasets, settings),
        _memory(counted, device),
        format_table(
            [
                ("device", _device(device, world_size, precision)),
                *_plan(datasets, settings, world_size, start_step),
                ("kept", _kept(model, settings)),
            ]
        ),
    )
    return "\n\n".join(tables)


def mean_batch(datasets: Datasets, settings: RunSettings) -> float:
    """Samples per step on each device, the mean over the data sets that they may come from."""
    ratios = [builder.sample_ratio for builder, _ in datasets.values() for _ in settings.train_splits]
    batches = [builder.batch_size for builder, _ in datasets.values() for _ in settings.train_splits]
    mean = sum(ratio * batch for ratio, batch in zip(ratios, batches, strict=True)) / sum(ratios)
    return round(mean, 6)


def _parameters(model: BaseModel, counted: CountedMemory) -> str:
    summary, parts = model.parameter_summary(), model.parameters_by_part()
    rows = [("", "parameters", "trained", "dtype", "memory")]
    for part, count in summary.items():
        dtypes = {str(p.dtype)[6:] for p in parts[part]}
        trained = f"{count['trainable']:,}" if count["trainable"] else "frozen"
        memory = format_bytes(counted.weights[part])
        rows.append((part, f"{count['total']:,}", trained, ", ".join(sorted(dtypes)), memory))
    total, trained = (sum(count[key] for count in summary.values()) for key in ("total", "trainable"))
    rows.append(("total", f"{total:,}", f"{trained:,}", "", format_bytes(sum(counted.weights.values()))))
    return format_table(rows, right=(1, 2, 4))


def _datasets(datasets: Datasets, settings: RunSettings) -> str:
    splits = settings.train_splits
    together = len(splits) * sum(builder.sample_ratio for builder, _ in datasets.values())
    rows = [("data set", "batch size", "share of batches", "size")]
    for name, (builder, by_split) in datasets.items():
        for split in splits:
            stream = by_split[split]
            share, size = f"{builder.sample_ratio / together:.1%}", format_count(stream.size, stream.UNIT)
            rows.append((f"{name}.{split}", str(builder.batch_size), share, size))
    return format_table(rows, right=(1, 2))


def _memory(counted: CountedMemory, device: torch.device) -> str:
    rows = [("memory", "")]
    rows += [(part, format_bytes(size)) for part, size in counted.parts.items()]
    rows.append(("activations", "measured during the first update"))
    available = available_memory(device)
    of = f" of {format_bytes(available)}" if available else ""
    rows.append(("total without activations", f"{format_bytes(counted.total)}{of}"))
    return format_table(rows)


def _device(device: torch.device, world_size: int, precision: str) -> str:
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    times = f"{world_size} processes, the first on " if world_size > 1 else ""
    return f"{times}{name}, mixed precision: {precision}"


def _plan(
    datasets: Datasets, settings: RunSettings, world_size: int, start_step: int
) -> list[tuple[str, str]]:
    """How much is trained on, and what happens in between."""
    s, batch = settings, mean_batch(datasets, settings)
    about = "" if batch.is_integer() else "about "
    update = batch * s.accum_grad_iters * world_size
    steps = max(s.max_epoch * s.iters_per_epoch - start_step, 0)
    ranks = format_count(world_size, "process", "processes")
    samples = f"{about}{steps * batch * world_size:,.0f} samples in {steps:,} steps"
    epochs = f"{format_count(s.max_epoch, 'epoch')} of {format_count(s.iters_per_epoch, 'step')}"
    product = f"{batch:g} x {s.accum_grad_iters} accumulated x {ranks}"
    rows = [
        ("effective batch size", f"{about}{update:,.0f}: {product}"),
        ("training", f"{samples}, up to the end of {epochs}"),
    ]
    if s.valid_splits:
        when = f"every {s.valid_every:,} steps" if s.valid_every else "at the end of each epoch"
        rows.append(("validation", f"{', '.join(s.valid_splits)}, {when}"))
    times = ["at the end of each epoch"]
    times += [f"every {format_count(s.save_every, 'step')}"] if s.save_every else []
    times += [f"every {s.save_minutes:g} minutes"] if s.save_minutes else []
    return [*rows, ("checkpoints", ", ".join(times))]


def _kept(model: BaseModel, settings: RunSettings) -> str:
    size = format_bytes(checkpoint_bytes(model))
    return f"the last {settings.keep} of each kind, {size} each, in {settings.output_dir}"


def end_summary(report: Mapping[str, Any], cfg: Config, datasets: Datasets, settings: RunSettings) -> str:
    """What was done, where it lies, and the commands to go on with.

    Args:
        report: what `report.json` holds.
        cfg: the run's configuration; the commands repeat its YAML and its options.
        datasets: name -> (builder, datasets by split).
        settings: of the run.
    """
    folder = Path(settings.output_dir)
    seconds = report["train_seconds"]
    speed = f", {report['images'] / seconds:,.1f} per second" if seconds else ""
    skipped = format_count(report["skipped_steps"], "update")
    rows = [
        ("steps", f"{report['steps']:,}" + (f", {skipped} skipped" if report["skipped_steps"] else "")),
        ("samples", f"{report['images']:,} in {format_duration(seconds)}{speed}"),
    ]
    if report["bad_samples"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report["bad_samples"].items())
        rows.append(("bad samples", f"{sum(report['bad_samples'].values()):,}: {reasons}"))
    if "best_metric" in report:
        name = report["best_metric"]
        best = f"{report[f'best_valid_{name}']:.4f} after step {report['best_step']:,}"
        rows.append((f"best validation {name.replace('_', ' ')}", best))
    rows.append(("checkpoints", ", ".join(path.name for path in sorted(folder.glob("*.pth"))) or "none"))
    rows.append(("folder", str(folder)))
    checkpoint = folder / (BEST if (folder / BEST).exists() else LATEST)
    return "\n\n".join([format_table(rows), *next_commands(cfg, datasets, settings, checkpoint)])


def next_commands(cfg: Config, datasets: Datasets, settings: RunSettings, checkpoint: Path) -> list[str]:
    """The commands to chat with a checkpoint and to evaluate it, each with a line above that says so."""
    options = [*_options_to_repeat(cfg), f"model.ckpt={checkpoint}"]
    ending = ["--options", *options]
    if settings.device:
        ending = ["--device", settings.device, *ending]
    start = ["--cfg-path", str(cfg.args.cfg_path)]
    chat = shlex.join(["minigpt4", "chat", *start, *ending])
    split = _split_to_evaluate(datasets, settings)
    limit = ["--limit", str(TRAINING_SAMPLES)] if split in settings.train_splits else []
    evaluation = shlex.join(["minigpt4", "evaluate", *start, "--split", split, *limit, *ending])
    return [f"Chat with it:\n  {chat}", f"Evaluate it on the split {split}:\n  {evaluation}"]


def _options_to_repeat(cfg: Config) -> list[str]:
    """The `--options` of the run on what is built and how it is evaluated, as `key=value`."""
    words = list(getattr(cfg.args, "options", None) or [])
    if words and "=" not in words[0]:  # the original's form
        words = [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]
    return [
        word
        for word in words
        if word.startswith(OF_EVALUATION) or not word.startswith(("run.", "model.ckpt="))
    ]


def _split_to_evaluate(datasets: Datasets, settings: RunSettings) -> str:
    """A split that was held out, or else one that was trained on."""
    splits = [split for _, by_split in datasets.values() for split in by_split]
    others = [split for split in splits if split not in settings.train_splits]
    return next(iter((*settings.test_splits, *settings.valid_splits, *others, *settings.train_splits)))
