"""Divide webdataset shards into pictures to train on and held-out pictures, the last N.

example:
  python dataset/hold_out.py 'data/stamps/{00000..00002}.tar' --last 50 --out output/stamps

writes OUT/train/00000.tar and OUT/test/00000.tar, each complete or not at all.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import braceexpand

Member = tuple[tarfile.TarInfo, bytes]


def read_samples(pattern: str) -> Iterator[list[Member]]:
    """The samples of all shards in order; a sample is the files that share a name up to the dot."""
    for shard in braceexpand.braceexpand(pattern):
        with tarfile.open(shard) as tar:
            files = ((info, tar.extractfile(info).read()) for info in tar if info.isreg())
            for _, members in groupby(files, key=lambda member: member[0].name.split(".")[0]):
                yield list(members)


def write_shard(path: Path, samples: list[list[Member]]) -> None:
    """Write one tar file, through a temporary file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with tarfile.open(part, "w") as tar:
        for info, content in (member for sample in samples for member in sample):
            tar.addfile(info, io.BytesIO(content))
    part.replace(path)
    print(f"{path}: {len(samples)} pictures")


def main() -> None:
    """Read, divide and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="a brace pattern of tar files")
    parser.add_argument("--last", type=int, required=True, metavar="N", help="how many are held out")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    samples = list(read_samples(args.shards))
    if not 0 < args.last < len(samples):
        parser.error(f"--last must be from 1 to {len(samples) - 1}, found {args.last}")
    write_shard(args.out / "train" / "00000.tar", samples[: -args.last])
    write_shard(args.out / "test" / "00000.tar", samples[-args.last :])


if __name__ == "__main__":
    main()
