#!/usr/bin/env python
"""Samples per second on one core: our stream and the original's pipeline, over the same shards.

Ours is what training reads: tar, caption, picture, uint8 batches. The baseline is the original's chain of
webdataset stages: PIL decodes, PIL resizes (bicubic, to a square), then ToTensor, Normalize, and batches of
float32. One process, one thread; the two alternate. Seconds are the process's CPU time, so that other work
on the machine has little effect; each number is the median of the rounds.

Pixel differences are between the uint8 pictures of both, in units of 1/255, over all pictures read.

examples:
  python benchmarks/data_loading.py --shards 'DIR/{00000..00002}.tar' --json output/data_loading.json
  python benchmarks/data_loading.py --shards 'DIR/{00000..00002}.tar' --resized 512 --profile
"""

import argparse
import collections
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, metavar="PATTERN", help="a brace pattern of local shards")
    parser.add_argument("--image-size", type=int, default=224, help="side of the square in pixels (224)")
    parser.add_argument("--batch-size", type=int, default=64, help="samples per batch (64)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each of the two (7)")
    parser.add_argument("--samples", type=int, default=1000, help="samples per round at most (1000)")
    parser.add_argument(
        "--resized",
        type=int,
        metavar="SIDE",
        help="read copies of the pictures, squares of this side, instead",
    )
    parser.add_argument("--profile", action="store_true", help="also print how long each part takes")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    # Imported late, so that --help answers immediately.
    from minigpt4.common import cli

    cli.run(report, args)


def report(args: argparse.Namespace) -> None:
    """Print and write what `measure` returns, and `profile` where requested."""
    import torch

    from minigpt4.datasets.datasets.shard_list import expand_shards

    torch.set_num_threads(1)
    shards = expand_shards(args.shards, "--shards")
    with tempfile.TemporaryDirectory() as folder:
        if args.resized:
            shards = [resized_copy(shards, args.resized, args.samples, Path(folder) / "0.tar")]
        figures = measure(shards, args)
        if args.profile:
            figures["profile_microseconds"] = profile(shards, args)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def resized_copy(shards: list[str], side: int, samples: int, path: Path) -> str:
    """A shard of the same samples whose pictures are squares of that side, as JPEG of quality 95."""
    import cv2
    import webdataset as wds

    with wds.TarWriter(str(path)) as writer:
        for sample in islice(our_samples(shards, side), samples):
            pixels = sample.image.permute(1, 2, 0).numpy()[..., ::-1]  # OpenCV wants blue first
            jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            caption = {"caption": sample.dialogue.answer}
            writer.write({"__key__": sample.image_id, "jpg": jpeg, "json": caption})
    return str(path)


def measure(shards: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Speeds and pixel differences of both pipelines."""
    ways = {
        "ours": lambda: our_batches(shards, args.image_size, args.batch_size),
        "baseline": lambda: baseline_batches(shards, args.image_size, args.batch_size),
    }
    compared = compare(shards, args)
    batches = -(-compared["samples"] // args.batch_size)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(args.rounds + 1):
        for way, read in ways.items():
            rate = samples_per_second(islice(read(), batches))
            if number:  # the first round warms up
                rates[way].append(rate)
    ours, baseline = (statistics.median(rates[way]) for way in ways)
    return {
        "speedup": round(ours / baseline, 2),
        "samples_per_second_per_core": round(ours, 1),
        "baseline_samples_per_second_per_core": round(baseline, 1),
        **compared,
        "speedup_by_round": [round(a / b, 2) for a, b in zip(rates["ours"], rates["baseline"], strict=True)],
        "image_size": args.image_size,
        "batch_size": args.batch_size,
    }


def samples_per_second(batches: Iterable) -> float:
    """Samples per second of one pass over the batches, in CPU time of this process."""
    started, samples = time.process_time(), 0
    for batch in batches:
        samples += len(batch["answer"] if isinstance(batch, dict) else batch)
    return samples / (time.process_time() - started)


def our_batches(shards: list[str], size: int, batch_size: int) -> Iterator:
    """The stream of a training config, once and in order."""
    from minigpt4.datasets.collate import BatchStream

    return iter(BatchStream(our_stream(shards, size), batch_size, max_bad_fraction=1.0))


def our_stream(shards: list[str], size: int) -> Any:
    """The shards as stage 1 reads them."""
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
    from minigpt4.processors.blip_processors import Blip2ImageTrainProcessor, BlipCaptionProcessor

    return WebdatasetStream(shards, Blip2ImageTrainProcessor(size).to_batch, BlipCaptionProcessor())


def our_samples(shards: list[str], size: int) -> Iterator:
    """The good samples of them, in order."""
    from minigpt4.datasets.stream import Reading, Skipped

    items = (item for item, _ in our_stream(shards, size).read(Reading()))
    return (item for item in items if not isinstance(item, Skipped))


def baseline_batches(shards: list[str], size: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """The original's pipeline, its stages in its order (without the shuffle, which ours leaves out too)."""
    import webdataset as wds
    from torch.utils.data import default_collate

    from minigpt4.processors.blip_processors import BlipCaptionProcessor

    caption_processor = BlipCaptionProcessor()
    samples = wds.DataPipeline(
        wds.SimpleShardList(shards),
        wds.tarfile_to_samples(handler=wds.warn_and_continue),
        wds.decode("pilrgb", handler=wds.warn_and_continue),
        wds.to_tuple("__key__", "jpg;jpeg;png;webp", "json;txt", handler=wds.warn_and_continue),
        wds.map(
            lambda item: {
                "image_id": item[0],
                "image": baseline_transform(item[1], size),
                "answer": caption_processor(item[2]["caption"] if isinstance(item[2], dict) else item[2]),
            },
            handler=wds.warn_and_continue,
        ),
    )
    samples = iter(samples)
    while batch := list(islice(samples, batch_size)):
        yield default_collate(batch)


def baseline_transform(image: Any, size: int) -> Any:
    """torchvision's Resize (bicubic), ToTensor and Normalize, step by step: PIL RGB -> float32 [3, H, W]."""
    import numpy as np
    import torch
    from PIL import Image

    from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD

    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
    values = pixels.to(torch.float32).div(255).clone()
    mean, std = (torch.tensor(three).view(-1, 1, 1) for three in (CLIP_MEAN, CLIP_STD))
    return values.sub_(mean).div_(std)


def compare(shards: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """How far our pixels are from the baseline's, matched by the samples' keys, over at most `--samples`."""
    import torch

    from minigpt4.common.errors import DataError
    from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD

    mean, std = (torch.tensor(three).view(-1, 1, 1) for three in (CLIP_MEAN, CLIP_STD))
    exact = (
        (key, image)
        for batch in baseline_batches(shards, args.image_size, args.batch_size)
        for key, image in zip(batch["image_id"], batch["image"], strict=True)
    )
    samples, largest, total = 0, 0, 0.0
    for sample in our_samples(shards, args.image_size):
        # Both read in order; what only one of them accepts is skipped.
        image = next((image for key, image in exact if key == sample.image_id), None)
        if image is None:
            break
        pixels = image.mul(std).add(mean).mul(255).round()
        difference = (sample.image.float() - pixels).abs()
        largest, total = max(largest, int(difference.max())), total + float(difference.mean())
        samples += 1
        if samples == args.samples:
            break
    if not samples:
        raise DataError(f"--shards {args.shards}: not one sample that both pipelines can read")
    return {
        "samples": samples,
        "max_abs_pixel_difference": largest,
        "mean_abs_pixel_difference": round(total / samples, 5),
        "pixel_difference_unit": "1/255",
    }


def profile(shards: list[str], args: argparse.Namespace) -> dict[str, float]:
    """CPU microseconds per sample in each part of our stream; the best of all rounds."""
    from minigpt4.datasets.datasets.shard_reader import RawSample, read_shard
    from minigpt4.datasets.datasets.webdataset_stream import caption_dialogue, decode_image
    from minigpt4.processors.blip_processors import Blip2ImageTrainProcessor, BlipCaptionProcessor
    from minigpt4.prompts.dialogue import Dialogue
    from minigpt4.prompts.sample import Batch, Sample

    transform, caption_processor = Blip2ImageTrainProcessor(args.image_size).to_batch, BlipCaptionProcessor()
    good = {sample.image_id for sample in our_samples(shards, args.image_size)}
    everything = itertools.chain.from_iterable(map(read_shard, shards))
    raw = [item for item in everything if isinstance(item, RawSample) and item.key in good][: args.samples]
    pictures = [decode_image(item) for item in raw[: args.batch_size]]
    batch = [Sample(dialogue=Dialogue.caption("a"), image=transform(picture)) for picture in pictures]
    # Each part with the number of samples it is run on; nothing is kept, as in the stream.
    parts = {
        "tar": (
            len(raw),
            lambda: exhaust(islice(itertools.chain(*map(read_shard, shards)), len(raw))),
        ),
        "json, caption": (
            len(raw),
            lambda: exhaust(caption_processor(caption_dialogue(r).answer) for r in raw),
        ),
        "decode": (len(raw), lambda: exhaust(map(decode_image, raw))),
        "resize, channels first": (len(batch), lambda: exhaust(map(transform, pictures))),
        "collate": (len(batch), lambda: Batch.of(batch)),
    }
    figures = {}
    for name, (samples, part) in parts.items():
        seconds = []
        for _ in range(args.rounds):
            started = time.process_time()
            part()
            seconds.append(time.process_time() - started)
        figures[name] = round(min(seconds) / samples * 1e6, 1)
    return figures


def exhaust(items: Iterable) -> None:
    """Iterate over everything, keep nothing."""
    collections.deque(items, maxlen=0)


if __name__ == "__main__":
    main()
