"""Divide webdataset shards into pictures to train on and held-out pictures, the last N.

example:
  python dataset/hold_out.py 'data/stamps/{00000..00002}.tar' --last 50 --out output/stamps

writes OUT/train/00000.tar and OUT/test/00000.tar, each complete or not at all.
"""

import argparse
import io
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from minigpt4.common import cli
from minigpt4.common.errors import DataError
from minigpt4.common.files import replacing, require_new
from minigpt4.datasets.datasets.shard_list import expand_shards
from minigpt4.datasets.datasets.shard_reader import RawSample, read_shard


def read_samples(shards: Iterable[str]) -> Iterator[RawSample]:
    """The samples of all shards in order, grouped as training groups them.

    Raises:
        DataError: for what training would skip: held-out pictures are not chosen from damaged shards.
    """
    for shard in shards:
        for sample in read_shard(shard):
            if not isinstance(sample, RawSample):
                raise DataError(f"{sample.where}: {sample.reason}; minigpt4 check-shards lists every problem")
            yield sample


def write_shard(path: Path, samples: Iterable[RawSample]) -> None:
    """Write one tar file, through a temporary file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = 0
    with replacing(path) as part, tarfile.open(part, "w") as tar:
        for sample in samples:
            pictures += 1
            for suffix, content in sample.files.items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    print(f"{path}: {pictures} pictures")


def divide(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Count, then copy."""
    require_new(args.out, "--out")
    shards = expand_shards(args.shards, "shards")
    count = sum(1 for _ in read_samples(shards))
    if not 0 < args.last < count:
        parser.error(f"--last must be from 1 to {count - 1}, found {args.last}")
    samples = read_samples(shards)
    try:
        write_shard(args.out / "train" / "00000.tar", islice(samples, count - args.last))
        write_shard(args.out / "test" / "00000.tar", samples)
    except OSError as error:
        raise DataError(f"--out {args.out} cannot be written: {error}") from error


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("shards", nargs="+", help="folders, patterns or a manifest")
    parser.add_argument("--last", type=int, required=True, metavar="N", help="how many are held out")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    cli.run(lambda args: divide(args, parser), parser.parse_args())


if __name__ == "__main__":
    main()
