"""Writes the drawn world in shards like img2dataset's: pictures, captions, metadata.

    python -m dataset.shapes.make_shards --out data/shapes

makes `data/shapes/{train,val,test}/00000.tar` and so on, with members `000000000.jpg`, `.txt` and
`.json`. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from dataset.shapes import world
from minigpt4.common import cli
from minigpt4.common.files import require_new

# Val and test have as many single things as pairs; train has few scenes of one thing.
SINGLE_SHARE = {"train": 0.2, "val": 0.5, "test": 0.5}


def sample(split: str, rng: random.Random, times: int = 1) -> tuple[world.Scene, bytes]:
    """Draws a scene of a split, with its JPEG file, `times` as large as usual."""
    scene = world.sample_scene(split, SINGLE_SHARE[split], rng)
    return scene, world.jpeg(world.draw(scene, world.lay_out(scene, rng), times))


def samples(split: str, count: int, seed: int, times: int = 1) -> Iterator[tuple[world.Scene, bytes]]:
    """Draws `count` scenes of a split, each with its JPEG file."""
    rng = random.Random(f"{split} {seed}")
    for _ in range(count):
        yield sample(split, rng, times)


def metadata(scene: world.Scene, key: str, times: int = 1) -> dict[str, object]:
    """What img2dataset records about a picture, and the scene."""
    things = [{"size": thing.size, "colour": thing.colour, "shape": thing.shape} for thing in scene.things]
    return {
        "caption": world.caption(scene),
        "url": f"shapes://{key}",
        "key": key,
        "status": "success",
        "width": world.SIDE * times,
        "height": world.SIDE * times,
        "group": "one_object" if len(things) == 1 else "two_objects",
        "scene": {"count": len(things), "things": things, "relation": scene.relation},
    }


def write_shard(file: Path, first: int, content: list[tuple[world.Scene, bytes]], times: int = 1) -> None:
    """Writes one tar file, complete or not at all; `first` is the number of its first sample."""
    unfinished = file.with_name(f"{file.name}.partial")
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (scene, picture) in enumerate(content, first):
            key = f"{number:09d}"
            about = json.dumps(metadata(scene, key, times), sort_keys=True)
            members = {"jpg": picture, "txt": world.caption(scene).encode()}
            members["json"] = about.encode()
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")  # its time and owner are 0
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    unfinished.replace(file)


def write_split(
    folder: Path, split: str, count: int, seed: int, samples_per_shard: int, times: int = 1
) -> None:
    """Writes all shards of a split, and deletes those of an earlier, larger one."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = samples(split, count, seed, times)
    written = set()
    for shard, first in enumerate(range(0, count, samples_per_shard)):
        size = min(samples_per_shard, count - first)
        file = folder / f"{shard:05d}.tar"
        write_shard(file, first, [next(stream) for _ in range(size)], times)
        written.add(file)
        print(f"\r{split}: {first + size} of {count} pictures", end="", flush=True)
    print()
    for file in set(folder.glob("[0-9][0-9][0-9][0-9][0-9].tar")) - written:
        file.unlink()


def make(args: argparse.Namespace) -> None:
    """Writes the three splits."""
    require_new(args.out, "--out")
    start = time.perf_counter()
    for split in world.SPLITS:
        count = getattr(args, split)
        write_split(args.out / split, split, count, args.seed, args.samples_per_shard)
    print(f"{time.perf_counter() - start:.1f} s; in {args.out}")


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=6000, help="pictures")
    parser.add_argument("--val", type=int, default=500, help="pictures")
    parser.add_argument("--test", type=int, default=600, help="pictures")
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()
