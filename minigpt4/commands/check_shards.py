"""Read every shard as training would, in parallel, and say what is in them and what is wrong.

example:
  minigpt4 check-shards 'cc_sbu/cc_sbu_dataset/{00000..01255}.tar' --write-manifest cc_sbu/good.json

Exits with 0 if every sample of every shard is good and no key occurs twice, else with 1. A manifest lists
the shards that have good samples; `build_info.storage` may name it instead of the pattern.
"""

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from minigpt4.common import cli

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SHOWN = 20  # shards with something wrong that are named
BINS, BAR = 10, 40  # lines of a histogram, and the longest of their bars in characters


@dataclass
class Findings:
    """What was found in a shard, or in all of them.

    Attributes:
        good: samples that can be trained on.
        bad: the others, and what is wrong with shards as a whole, by reason.
        words, widths, heights: how often each value occurs among the good ones (words a caption, pixels).
        keys: a hash of 64 bits for each good sample's key.
    """

    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    keys: list["np.ndarray"] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add another shard's."""
        self.good += other.good
        self.bad += other.bad
        self.words += other.words
        self.widths += other.widths
        self.heights += other.heights
        self.keys += other.keys

    @property
    def histograms(self) -> dict[str, Counter[int]]:
        """What a histogram is drawn of."""
        return {
            "words a caption": self.words,
            "width in pixels": self.widths,
            "height in pixels": self.heights,
        }


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("shards", nargs="+", help="folders, patterns, URLs or a manifest")
    parser.add_argument(
        "--write-manifest", type=cli.user_path, metavar="FILE", help="list the good shards here"
    )
    parser.add_argument("--png", type=cli.user_path, metavar="FILE", help="draw the histograms here")
    parser.add_argument("--caption-key", metavar="NAME", help="as build_info.caption_key")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="processes (default: one per core)",
    )
    cli.run(check, parser.parse_args())


def check(args: argparse.Namespace) -> None:
    """Shards from the pattern, findings of each, one report; exit with 1 if anything is wrong."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import require_writable
    from minigpt4.datasets.datasets.manifest import path_in_manifest, write_manifest
    from minigpt4.datasets.datasets.shard_list import expand_shards

    if args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, it must be at least 1")
    shards = expand_shards(args.shards, "shards")
    for key, path in {"--write-manifest": args.write_manifest, "--png": args.png}.items():
        if path:
            require_writable(path, key)
    if args.write_manifest:
        for shard in shards:  # before hours of reading
            path_in_manifest(args.write_manifest, shard)
    started = time.perf_counter()
    found = dict(zip(shards, read_shards(shards, args.caption_key, args.workers), strict=True))
    total = Findings()
    for findings in found.values():
        total.add(findings)
    twice = repeated_keys(found)
    seconds = time.perf_counter() - started
    if args.png:
        from minigpt4.runners.reporting.plots import draw_histograms

        draw_histograms(total.histograms, args.png)
    if args.write_manifest:
        write_manifest(args.write_manifest, {shard: findings.good for shard, findings in found.items()})
    # Last: it fails if the reader has gone (`... | head`).
    print("\n".join(report(found, total, twice, seconds)))
    sys.exit(1 if total.bad or twice else 0)


def read_shards(shards: list[str], caption_key: str | None, workers: int) -> Iterator[Findings]:
    """The findings of each shard, in order, with a bar of shards."""
    from tqdm import tqdm

    from minigpt4.common.errors import DataError

    with ProcessPoolExecutor(min(workers, len(shards))) as pool:
        found = pool.map(partial(read_shard, caption_key=caption_key), shards)
        try:
            yield from tqdm(found, total=len(shards), unit="shard", disable=None)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that reads shards was killed: too little memory? (--workers)"
            ) from error


def read_shard(shard: str, caption_key: str | None = None) -> Findings:
    """Read one shard with training's own reader: what it calls bad is bad."""
    import numpy as np

    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, caption_dialogue
    from minigpt4.datasets.stream import Reading, Skipped

    findings, keys = Findings(), []
    stream = WebdatasetStream([shard], _no_pixels, _kept, partial(caption_dialogue, key=caption_key))
    for item, _ in stream.read(Reading()):
        if isinstance(item, Skipped):
            findings.bad[item.reason] += 1
            continue
        findings.good += 1
        assert item.dialogue.answer is not None and item.size is not None  # of a picture with its caption
        findings.words[len(item.dialogue.answer.split())] += 1
        height, width = item.size
        findings.widths[width] += 1
        findings.heights[height] += 1
        keys.append(hashlib.blake2b(item.image_id.encode(), digest_size=8).digest())
    findings.keys = [np.frombuffer(b"".join(keys), dtype=np.uint64)]
    return findings


def _kept(caption: str) -> str:
    """The caption unchanged, or nothing if stage 1's text processor leaves nothing of it."""
    from minigpt4.processors.blip_processors import BlipCaptionProcessor

    return caption if BlipCaptionProcessor()(caption).strip() else ""


def _no_pixels(_: "np.ndarray") -> "Tensor":
    """In place of a decoded image, of which only the size is wanted: a tensor without memory."""
    import torch

    return torch.empty(3, 1, 1, device="meta")


def repeated_keys(found: dict[str, Findings]) -> dict[str, int]:
    """The shards with keys that occur elsewhere too, or twice in them -> how many such samples they have."""
    import numpy as np

    keys = np.concatenate([part for findings in found.values() for part in findings.keys])
    values, counts = np.unique(keys, return_counts=True)
    twice = values[counts > 1]
    if not len(twice):
        return {}
    numbers = {shard: int(np.isin(findings.keys[0], twice).sum()) for shard, findings in found.items()}
    return {shard: number for shard, number in numbers.items() if number}


def report(
    found: dict[str, Findings], total: Findings, twice: dict[str, int], seconds: float
) -> Iterator[str]:
    """The lines that say what was found."""
    yield (
        f"{len(found):,} shards, {total.good:,} good samples, {total.bad.total():,} times something bad; "
        f"{seconds:.1f} s, {total.good / seconds:,.0f} samples a second"
    )
    for title, values in total.histograms.items():
        yield from histogram(title, values)
    if total.bad:
        yield "bad:"
        yield from (f"  {number:>9,}  {reason}" for reason, number in total.bad.most_common())
        yield from _shown(
            f"  {shard}: {findings.good:,} good, bad: {dict(findings.bad)}"
            for shard, findings in found.items()
            if findings.bad
        )
    if twice:
        yield f"keys that occur more than once: {sum(twice.values()):,} samples have them"
        yield from _shown(f"  {shard}: {number:,}" for shard, number in twice.items())


def _shown(lines: Iterable[str]) -> list[str]:
    """The first lines, and how many more there are."""
    lines = list(lines)
    return lines[:SHOWN] + ([f"  and {len(lines) - SHOWN:,} more shards"] if len(lines) > SHOWN else [])


def histogram(title: str, values: Counter[int]) -> Iterator[str]:
    """A histogram in lines of text: from, to, how many, a bar."""
    import numpy as np

    if not values:
        return
    low, high = min(values), max(values)
    yield f"{title}: {low:,} to {high:,}, mean {sum(v * n for v, n in values.items()) / values.total():,.1f}"
    edges = np.linspace(low, high + 1, min(BINS, high + 1 - low) + 1).astype(int)
    counts, _ = np.histogram(list(values), bins=edges, weights=list(values.values()))
    for start, end, count in zip(edges, edges[1:], counts.astype(int), strict=False):
        bar = "#" * round(BAR * count / counts.max())
        yield f"  {start:>6,} - {end - 1:>6,}  {count:>11,}  {bar}".rstrip()


if __name__ == "__main__":
    main()
