"""What it costs to find the place in the data again, compared with decoding up to it.

example:
  python benchmarks/resume_data.py --shards 'output/shapes/train/{00000..00005}.tar'
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any


def seconds(items: Iterator[Any], count: int) -> tuple[float, Any]:
    """How long `count` items take, and the last of them."""
    started = time.perf_counter()
    (*_, last) = islice(items, count)
    return time.perf_counter() - started, last


def main() -> None:
    """Decode some samples, then continue after them, as a resumed run and by reading everything again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, help="as in a YAML's `storage`")
    parser.add_argument("--samples", type=int, default=5000, help="samples to skip, of one reader")
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()

    from minigpt4.datasets.datasets.shard_list import expand_shards
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
    from minigpt4.datasets.stream import Reading
    from minigpt4.processors.blip_processors import Blip2ImageTrainProcessor, BlipCaptionProcessor

    stream = WebdatasetStream(
        expand_shards(args.shards, "--shards"),
        Blip2ImageTrainProcessor(args.image_size).to_batch,
        BlipCaptionProcessor(),
    )
    start = Reading(training=True)
    decoding, (_, position) = seconds(stream.read(start), args.samples)
    first, _ = seconds(stream.read(start), 1)
    resumed, (item, _) = seconds(stream.read(replace(start, position=position)), 1)
    stream._sample = lambda raw, epoch, reading: raw
    reading, (raw, _) = seconds(stream.read(start), args.samples + 1)
    if item.image_id != raw.key:
        raise SystemExit(f"{item.image_id} came after the resume, {raw.key} without it")

    print(f"{args.samples} samples up to epoch {position[0]}")
    print(f"decoded:                     {decoding:7.2f} s  {args.samples / decoding:10,.0f} samples/s")
    print(f"read, not decoded:           {reading:7.2f} s  {args.samples / reading:10,.0f} samples/s")
    print(f"resumed, until the first:    {resumed:7.2f} s  {args.samples / resumed:10,.0f} samples/s skipped")
    print(f"started, until the first:    {first:7.2f} s")


if __name__ == "__main__":
    main()
