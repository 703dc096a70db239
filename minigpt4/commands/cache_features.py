"""Run the frozen encoder and Q-Former once over all that a config shows, and keep the image tokens.

The tokens of a picture never change while both are frozen, and do not depend on the language model, which
is not loaded here. Each webdataset shard becomes one shard of features (bfloat16) beside the captions: train
with the builder `cached_features`, whose `build_info.storage` is DIR. Where pictures and videos are read from
a folder, each becomes a file: train with the same YAML and `datasets.NAME.features: DIR`. Run it again, and
it goes on with what is not finished.

example:
  minigpt4 cache-features --cfg-path train_configs/minigpt4_gemma_stage1_pretrain.yaml --out DIR
  minigpt4 cache-features --cfg-path train_configs/minigpt4_tiny_video.yaml --out output/clips_features
"""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common import parts
from minigpt4.common.cli import config_parser, run, user_path

if TYPE_CHECKING:
    from minigpt4.datasets.features.writer import Job
    from minigpt4.models.settings import ModelSettings

log = logging.getLogger("cache_features")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where the cache goes")
    parser.add_argument(
        "--devices",
        nargs="+",
        metavar="D",
        help="one process each (all CUDA devices, else the best there is)",
    )
    parts.add_arguments(parser)
    run(cache_features, parser.parse_args())


def cache_features(args: argparse.Namespace) -> None:
    """Config, shards, what is left to do, doing it, manifest: one paragraph per step."""
    from minigpt4.commands.early import VISION_FILES, check_model
    from minigpt4.common.config import Config, plain

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    share = parts.Share.of(args)
    for device in () if share.merge_only else args.devices or [None]:
        check_model(cfg, device, VISION_FILES)

    from minigpt4.datasets.features.reader import FORMAT, MANIFEST
    from minigpt4.models.identity import vision_identity
    from minigpt4.tasks.base_task import BaseTask

    model_class, model_cfg = BaseTask.model_class(cfg), plain(cfg.model_cfg)
    refuse_other_weights(model_cfg)

    log.info("finding what is to be cached")
    described, shards = find_jobs(BaseTask().build_datasets(cfg), args.out)

    manifest = args.out / MANIFEST
    head = {"format": FORMAT, "vision": vision_identity(model_class, model_cfg), "parts": described}
    begin(manifest, head)
    mine = [] if share.merge_only else list(share.take(shards))
    left = [shard for shard in mine if shard.record() is None]
    log.info("%d shards or slices, %d to do", len(shards), len(left))

    started = time.perf_counter()
    settings = model_class.settings(model_cfg)
    run_on_devices(args.devices or all_devices(), settings, left, cfg.run_value("num_workers"))
    seconds = time.perf_counter() - started

    records = {shard.file: shard.record() for shard in shards}
    made = sum(record["samples"] for shard in left if (record := records[shard.file]))
    log.info("%d samples in %.1f s: %.1f per second", made, seconds, made / seconds)
    finish(manifest, head, records, required=share.merge_only)


def refuse_other_weights(model_cfg: Mapping[str, Any]) -> None:
    """Raise ConfigError if the config's checkpoint would change what looks at the pictures."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.models.original_names import VISION_PARTS
    from minigpt4.weights.checkpoint import read_checkpoint
    from minigpt4.weights.resolver import resolve_file

    if not model_cfg.get("ckpt"):
        return
    tensors = read_checkpoint(resolve_file(model_cfg["ckpt"], "model.ckpt"))["model"]
    key = next((key for key in tensors if key.startswith(VISION_PARTS)), None)
    if key is not None:
        raise ConfigError(
            f"model.ckpt {model_cfg['ckpt']} holds {key}, which is not what model.vit_weights and "
            "model.q_former_model name: features can be cached of those alone"
        )


def find_jobs(datasets: Mapping[str, Any], out: Path) -> tuple[list[dict[str, Any]], list["Job"]]:
    """What is to be cached: a dict for each split of each dataset, and their shards, or slices of entries.

    Raises:
        ConfigError: for a dataset that shows nothing, or is cached already.
    """
    from minigpt4.common.errors import ConfigError
    from minigpt4.datasets.datasets.base_dataset import BaseDataset
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
    from minigpt4.datasets.features.file_writer import Slice
    from minigpt4.datasets.features.writer import Shard

    parts, shards = [], []
    for name, (builder, splits) in datasets.items():
        for split, stream in splits.items():
            part = {"dataset": name, "split": split, "vis_processor": builder.vis_processor(split).describe()}
            place = f"{name}/{split}"
            if isinstance(stream, BaseDataset) and stream.features is None:
                parts.append(part | {"video": stream.video.which})
                shards += Slice.all_of(stream, out, place, builder.batch_size)
            elif type(stream) is WebdatasetStream:
                parts.append(part)
                shards += [
                    Shard.of(stream, number, out, f"{place}/{number:05d}.tar", builder.batch_size)
                    for number in range(len(stream.shards))
                ]
            else:
                raise ConfigError(f"datasets.{name}: only pictures and videos can be cached")
    return parts, shards


def begin(path: Path, head: Mapping[str, Any]) -> None:
    """Write down what the cache is made with, or check that it is what an earlier run made it with.

    Raises:
        ConfigError: naming both, where they differ.
    """
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.logger import write_json
    from minigpt4.models.identity import other_vision

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**head, "complete": False})
        return
    hint = "please choose another --out, or delete that folder"
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        found, vision = there["format"], there["vision"]
        made_of = [{key: value for key, value in part.items() if key != "shards"} for part in there["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the manifest of a cache ({error}): {hint}") from error
    if found != head["format"]:
        raise ConfigError(f"{path} is {found!r}, not {head['format']!r}: {hint}")
    difference = other_vision(vision, head["vision"])
    if difference:
        raise ConfigError(f"the cache in {path.parent} {difference}: {hint}")
    if made_of != head["parts"]:
        raise ConfigError(
            f"the cache in {path.parent} was made of {made_of}, the config says {head['parts']}: {hint}"
        )


def all_devices() -> list[str]:
    """Every CUDA device, else the best there is."""
    import torch

    from minigpt4.common.device import pick_device

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] or [str(pick_device())]


def run_on_devices(devices: list[str], settings: "ModelSettings", shards: list["Job"], workers: int) -> None:
    """Share the shards among one process per device; with one device, this process does it."""
    devices = devices[: len(shards)]
    if len(devices) == 1:
        run_on_device(0, devices, settings, shards, workers)
    elif devices:
        from torch.multiprocessing.spawn import ProcessExitedException, spawn

        try:
            spawn(_in_own_process, (devices, settings, shards, workers), nprocs=len(devices))
        except ProcessExitedException as error:
            sys.exit(error.exit_code)  # the process has said why


def _in_own_process(number: int, *arguments: Any) -> None:
    run(lambda _: run_on_device(number, *arguments), argparse.Namespace())


def run_on_device(
    number: int, devices: list[str], settings: "ModelSettings", shards: list["Job"], workers: int
) -> None:
    """Cache what falls to process `number`: every `len(devices)`-th shard."""
    from tqdm import tqdm

    from minigpt4.common.device import pick_device
    from minigpt4.datasets.features.writer import write_jobs
    from minigpt4.models.assembly import build_vision

    vision = build_vision(settings, pick_device(devices[number]))
    with tqdm(desc=devices[number], unit=" samples", position=number, disable=None) as bar:
        write_jobs(vision, shards[number :: len(devices)], workers, bar)


def finish(
    path: Path, head: Mapping[str, Any], by_file: Mapping[str, dict[str, Any] | None], *, required: bool
) -> None:
    """Write the whole manifest, with what each shard holds, once all of them are there.

    Args:
        path: of the manifest.
        head: how it begins.
        by_file: what was written down of each shard; None of those that are missing.
        required: that one is missing is an error; else other processes make them.

    Raises:
        DataError: if there is not one good sample.
        ConfigError: for a gap.
    """
    from minigpt4.common.errors import ConfigError, DataError
    from minigpt4.common.logger import write_json

    records = [record for record in by_file.values() if record is not None]
    gaps = [file for file, record in by_file.items() if record is None]
    if gaps:
        named = ", ".join(gaps[: parts.NAMED]) + (", ..." if len(gaps) > parts.NAMED else "")
        message = f"{path.parent}: {len(gaps)} of {len(by_file)} shards are missing: {named}"
        if required:
            raise ConfigError(f"--out: {message}")
        log.info("%s; the last process to end completes the cache", message)
        return
    bad = sum((Counter(record["bad"]) for record in records), Counter())
    samples = sum(record["samples"] for record in records)
    if not samples:
        raise DataError(f"not one of the samples is good: {dict(bad)}")
    described = []
    for part in head["parts"]:
        folder = f"{part['dataset']}/{part['split']}/"
        shards = [
            {key: record[key] for key in ("file", "source", "samples", "bad")}
            for record in records
            if record["file"].startswith(folder)
        ]
        described.append({**part, "shards": shards})
    totals = {"samples": samples, "bad": dict(bad), "dtype": "bfloat16", "shape": records[0]["shape"]}
    write_json(path, {**head, **totals, "parts": described, "complete": True})
    log.info("%s: %d samples%s", path, samples, f", bad: {dict(bad)}" if bad else "")


if __name__ == "__main__":
    main()
