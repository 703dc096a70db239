"""Write sets of emoji, each in a drawing style of its own, as webdataset shards with captions.

The sets are packages of npm's: openmoji (CC BY-SA 4.0, HfG Schwäbisch Gmünd), emoji-datasource-google (Noto,
Apache 2.0), emoji-datasource-twitter (Twemoji, CC BY 4.0), fluentui-emoji (MIT, Microsoft), and of
@iconify-json: emojione (CC BY 4.0), emojione-v1 (CC BY-SA 4.0), noto-v1 (Apache 2.0), streamline-emojis
(CC BY 4.0) and fxemoji (Apache 2.0, Mozilla). What each picture shows is written in openmoji's table.

example:
  npm pack PACKAGE ...  # those that `make -n pictures` names
  pip install -r dataset/pictures/requirements.txt
  python -m dataset.pictures.make_pictures --packages . --out output/pictures

writes the shards OUT/train, and three held-out splits, of which each picture has 20 captions to choose
from: OUT/val and OUT/unseen_things, with things that are in no other split, and OUT/unseen_style, with the
things of train, in a style that train has not.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from minigpt4.common import cli
from minigpt4.common.errors import DataError
from minigpt4.common.files import replacing, require_new

SIDE = 224
CANDIDATES = 20
SHARD = 500  # pictures
UNSEEN_STYLE = "twitter"
PACKAGES = {
    "openmoji": "openmoji-[0-9]*.tgz",
    "google": "emoji-datasource-google-[0-9]*.tgz",
    "twitter": "emoji-datasource-twitter-[0-9]*.tgz",
    "fluent": "fluentui-emoji-[0-9]*.tgz",
    "emojione": "iconify-json-emojione-[0-9]*.tgz",
    "emojione-v1": "iconify-json-emojione-v1-[0-9]*.tgz",
    "noto-v1": "iconify-json-noto-v1-[0-9]*.tgz",
    "streamline": "iconify-json-streamline-emojis-[0-9]*.tgz",
    "fxemoji": "iconify-json-fxemoji-[0-9]*.tgz",
}
ICONIFY = ("emojione", "emojione-v1", "noto-v1", "streamline", "fxemoji")
# Groups of openmoji's table. Flags and symbols are no things; variants by hair and gender hardly differ.
GROUPS = (
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
)
VARIANT = re.compile(r":|\b(man|men|woman|women)\b")
# Of 100 things: those of val, and of unseen_things.
PERCENT = {"val": 5, "unseen_things": 15}


@dataclass(frozen=True)
class Picture:
    """A thing in a style, as a JPEG file."""

    style: str
    caption: str
    file: bytes

    @property
    def key(self) -> str:
        return f"{self.style}_{slug(self.caption)}"


def slug(caption: str) -> str:
    """A caption as a file's name; fluent's files are named like this."""
    return re.sub(r"[^a-z0-9]+", "-", caption)


def members(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a package whose path matches."""
    with tarfile.open(package) as tar:
        for member in tar:
            if member.isfile() and (match := re.fullmatch(pattern, member.name)):
                content = tar.extractfile(member)
                assert content is not None  # of a file
                yield match[1], content.read()


def captions(openmoji: Path) -> dict[str, str]:
    """Code points, as in `1F34E`, without variation selectors -> what the emoji shows."""
    _, table = next(members(openmoji, "package/(data/openmoji.json)"))
    return {
        _code(entry["hexcode"]): entry["annotation"].lower().replace("’", "'")
        for entry in json.loads(table)
        if entry["group"] in GROUPS and not entry["skintone"] and not VARIANT.search(entry["annotation"])
    }


def _code(name: str) -> str:
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def drawings(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Style, caption and file of each picture.

    Raises:
        DataError: for a package that is not in the folder.
    """
    found = {style: next(iter(sorted(folder.glob(name))), None) for style, name in PACKAGES.items()}
    if missing := [name for style, name in PACKAGES.items() if found[style] is None]:
        raise DataError(f"not in {folder}: {', '.join(missing)}; see --help for the command that gets them")
    packages = {style: package for style, package in found.items() if package}
    of_code = captions(packages["openmoji"])
    of_name = {slug(caption): caption for caption in of_code.values()}
    for style, pattern, known in (
        ("openmoji", r"package/color/svg/(.*)\.svg", of_code),
        ("google", r"package/img/google/64/(.*)\.png", of_code),
        ("twitter", r"package/img/twitter/64/(.*)\.png", of_code),
        ("fluent", r"package/icons/modern/(.*)\.svg", of_name),
    ):
        for name, content in members(packages[style], pattern):
            if caption := known.get(name if known is of_name else _code(name)):
                yield style, caption, content
    # Some packages number the ways to draw a thing; fxemoji's names have no hyphens.
    of_letters = {name.replace("-", ""): caption for name, caption in of_name.items()}
    for style in ICONIFY:
        for name, content in iconify(packages[style]):
            if caption := of_letters.get(re.sub(r"-\d+$", "", name).replace("-", "")):
                yield style, caption, content


def iconify(package: Path) -> Iterator[tuple[str, bytes]]:
    """Name and SVG file of the drawings of a package of @iconify-json."""
    _, table = next(members(package, "package/(icons.json)"))
    own = json.loads(table)
    for name, icon in own["icons"].items():
        left, top, width, height = (
            icon.get(key, own.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )
        yield name, svg.encode()


def jpeg(drawing: bytes) -> bytes:
    """A PNG or SVG file on white, in SIDE x SIDE pixels."""
    if not drawing.startswith(b"\x89PNG"):
        from resvg_py import svg_to_bytes  # type: ignore[reportMissingImports]  # of requirements.txt

        drawing = bytes(svg_to_bytes(svg_string=drawing.decode(), width=SIDE, height=SIDE))
    picture = Image.open(io.BytesIO(drawing)).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    white = Image.new("RGBA", picture.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, picture).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


def split_of(caption: str) -> str:
    """`val`, `unseen_things` or `train`; the same for a thing in every style."""
    number = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big") % 100
    for split, percent in PERCENT.items():
        if number < percent:
            return split
        number -= percent
    return "train"


def pictures(folder: Path) -> dict[str, list[Picture]]:
    """The pictures of each split, drawn.

    Raises:
        DataError: for a package that is not in the folder.
    """
    splits: dict[str, list[Picture]] = {split: [] for split in ("train", *PERCENT, "unseen_style")}
    drawn: set[tuple[str, str]] = set()
    for style, caption, drawing in drawings(folder):
        if (style, caption) in drawn:  # a second way to draw it
            continue
        drawn.add((style, caption))
        split = split_of(caption)
        if style == UNSEEN_STYLE:
            if split != "train":
                continue
            split = "unseen_style"
        splits[split].append(Picture(style, caption, jpeg(drawing)))
    return splits


def write_split(folder: Path, own: list[Picture], rng: random.Random) -> None:
    """Write the shards of a split in a drawn order; held-out pictures get captions to choose from."""
    things = sorted({picture.caption for picture in own})
    folder.mkdir(parents=True, exist_ok=True)
    own = sorted(own, key=lambda picture: picture.key)
    rng.shuffle(own)
    for number, first in enumerate(range(0, len(own), SHARD)):
        with replacing(folder / f"{number:05d}.tar") as part, tarfile.open(part, "w") as tar:
            for picture in own[first : first + SHARD]:
                about: dict[str, object] = {"caption": picture.caption, "group": picture.style}
                if folder.name != "train":
                    about["candidates"] = candidates(picture.caption, things, rng)
                for suffix, content in (("jpg", picture.file), ("json", json.dumps(about).encode())):
                    info = tarfile.TarInfo(f"{picture.key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    print(f"{folder}: {len(own):,} pictures of {len(things):,} things")


def candidates(caption: str, things: list[str], rng: random.Random) -> list[str]:
    """A caption among those of other things, in a drawn order."""
    others = [thing for thing in things if thing != caption]
    chosen = [*rng.sample(others, min(CANDIDATES - 1, len(others))), caption]
    rng.shuffle(chosen)
    return chosen


def make(args: argparse.Namespace) -> None:
    """Draw all pictures, then write the shards."""
    require_new(args.out, "--out")
    rng = random.Random(0)
    for split, own in pictures(args.packages).items():
        write_split(args.out / split, own, rng)


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--packages", type=cli.user_path, required=True, metavar="DIR")
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()
