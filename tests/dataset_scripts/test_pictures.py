"""dataset/pictures/make_pictures.py: from packages of emoji to shards with captions and candidates."""

import io
import json
import random
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from dataset.pictures import make_pictures
from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.shard_reader import RawSample, read_shard
from tests.support.shards import encoded

pytestmark = pytest.mark.unit

# code points, what the emoji shows, its group; the last three are no things to learn
EMOJI = (
    ("1F34E", "Red Apple", "food-drink"),
    ("1F431", "cat face", "animals-nature"),
    ("2693", "anchor", "travel-places"),
    ("2764-FE0F", "red heart", "smileys-emotion"),
    ("1F1E9-1F1EA", "flag: Germany", "flags"),
    ("1F575", "woman detective", "people-body"),
    ("2622", "radioactive", "symbols"),
)
SPLITS = {"red apple": "train", "cat face": "train", "anchor": "unseen_things", "red heart": "val"}
COLOURS = {"openmoji": (250, 0, 0), "fluent": (0, 0, 250), "fxemoji": (250, 0, 250)}


def drawing(alpha: int = 255) -> bytes:
    """A green square of 64 pixels with a transparent (or green) upper half."""
    image = Image.new("RGBA", (64, 64), (0, 250, 0, 255))
    image.paste((0, 250, 0, alpha), (0, 0, 64, 32))
    return encoded(image, "PNG")


def package(folder: Path, name: str, files: dict[str, bytes]) -> None:
    with tarfile.open(folder / name, "w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages in the published layouts. A drawing in SVG is one colour, which stands in its text."""
    folder = tmp_path / "packages"
    folder.mkdir()
    table = [{"hexcode": code, "annotation": name, "group": g, "skintone": ""} for code, name, g in EMOJI]
    table.append(
        {"hexcode": "1F44B-1F3FB", "annotation": "waving hand", "group": "people-body", "skintone": "1"}
    )
    svg = {code: f"<svg>{COLOURS['openmoji']}</svg>".encode() for code, *_ in EMOJI}
    package(
        folder,
        "openmoji-17.0.0.tgz",
        {"data/openmoji.json": json.dumps(table).encode()}
        | {f"color/svg/{code}.svg": text for code, text in svg.items()},
    )
    for style in ("google", "twitter"):
        files = {f"img/{style}/64/{code.lower()}.png": drawing(0) for code, *_ in EMOJI}
        # Other sizes, and variants that only this package has, are left out.
        files |= {f"img/{style}/32/1f34e.png": b"", f"img/{style}/64/1f34e-1f3fb.png": b""}
        package(folder, f"emoji-datasource-{style}-16.0.0.tgz", files)
    fluent = f"<svg>{COLOURS['fluent']}</svg>".encode()
    package(
        folder,
        "fluentui-emoji-1.3.0.tgz",
        {"icons/modern/red-apple.svg": fluent, "icons/modern/x.svg": fluent, "icons/flat/anchor.svg": b""},
    )
    for style, names in {
        "emojione": [],
        "emojione-v1": [],
        "noto-v1": [],
        "streamline-emojis": ["red-apple-2", "red-apple-3", "detective"],
        "fxemoji": ["redapple"],
    }.items():
        body = str(COLOURS["fxemoji"])
        table = {"height": 32, "icons": {name: {"body": body, "width": 24} for name in names}}
        package(folder, f"iconify-json-{style}-1.2.2.tgz", {"icons.json": json.dumps(table).encode()})
    monkeypatch.setattr(make_pictures, "split_of", SPLITS.__getitem__)
    monkeypatch.setitem(sys.modules, "resvg_py", type(sys)("resvg_py"))

    def svg_to_bytes(svg_string: str, width: int, height: int) -> bytes:
        colour = json.loads("[" + svg_string.partition("(")[2].partition(")")[0] + "]")
        return encoded(Image.new("RGB", (width, height), tuple(colour)), "PNG")

    monkeypatch.setattr(sys.modules["resvg_py"], "svg_to_bytes", svg_to_bytes, raising=False)
    return folder


def make(packages: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[RawSample]]:
    """Split -> its samples by key."""
    monkeypatch.setattr(sys, "argv", ["make_pictures.py", "--packages", str(packages), "--out", str(out)])
    make_pictures.main()
    splits = {}
    for folder in sorted(out.iterdir()):
        samples = [sample for shard in sorted(folder.iterdir()) for sample in read_shard(str(shard))]
        splits[folder.name] = sorted((s for s in samples if isinstance(s, RawSample)), key=lambda s: s.key)
    return splits


def test_each_thing_is_in_the_split_of_its_name_and_the_unseen_style_apart(
    packages, tmp_path, monkeypatch
) -> None:
    splits = make(packages, tmp_path / "out", monkeypatch)
    assert {split: [sample.key for sample in own] for split, own in splits.items()} == {
        "train": [
            "fluent_red-apple",
            "fxemoji_red-apple",
            "google_cat-face",
            "google_red-apple",
            "openmoji_cat-face",
            "openmoji_red-apple",
            "streamline_red-apple",
        ],
        "val": ["google_red-heart", "openmoji_red-heart"],
        "unseen_things": ["google_anchor", "openmoji_anchor"],
        "unseen_style": ["twitter_cat-face", "twitter_red-apple"],
    }
    assert splits["train"][0].fields == {"caption": "red apple", "group": "fluent"}
    apple = splits["unseen_style"][1].fields
    assert sorted(apple.pop("candidates")) == ["cat face", "red apple"]
    assert apple == {"caption": "red apple", "group": "twitter"}


def test_pictures_are_squares_on_white(packages, tmp_path, monkeypatch) -> None:
    splits = make(packages, tmp_path / "out", monkeypatch)
    pixels = {s.key: Image.open(io.BytesIO(s.files["jpg"])) for s in splits["train"]}
    assert {picture.size for picture in pixels.values()} == {(224, 224)}
    for key, place, colour in (
        ("openmoji_red-apple", (112, 112), COLOURS["openmoji"]),
        ("fluent_red-apple", (112, 112), COLOURS["fluent"]),
        ("fxemoji_red-apple", (112, 112), COLOURS["fxemoji"]),
        ("google_red-apple", (112, 40), (255, 255, 255)),
        ("google_red-apple", (112, 180), (0, 250, 0)),
    ):
        found = pixels[key].getpixel(place)
        assert all(abs(one - other) <= 3 for one, other in zip(found, colour, strict=True)), key


def test_the_same_packages_give_the_same_bytes(packages, tmp_path, monkeypatch) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        make(packages, folder, monkeypatch)
    contents = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*.tar")} for f in folders]
    assert len(contents[0]) == 4 and contents[0] == contents[1]


def test_candidates_are_twenty_with_the_right_one_in_any_place() -> None:
    things = [f"thing {number}" for number in range(50)]
    places = set()
    for seed in range(60):
        chosen = make_pictures.candidates("thing 7", things, random.Random(seed))
        assert len(set(chosen)) == make_pictures.CANDIDATES
        places.add(chosen.index("thing 7"))
    assert len(places) > 15


def test_a_fifth_of_all_things_is_held_out() -> None:
    splits = [make_pictures.split_of(f"thing {number}") for number in range(2000)]
    assert 0.77 < splits.count("train") / 2000 < 0.83
    assert 0.03 < splits.count("val") / 2000 < 0.07
    assert 0.12 < splits.count("unseen_things") / 2000 < 0.18


def test_a_drawing_of_iconify_is_a_file_of_its_own(packages) -> None:
    (name, file), *_ = make_pictures.iconify(packages / "iconify-json-fxemoji-1.2.2.tgz")
    svg = ElementTree.fromstring(file)
    assert (name, svg.attrib["viewBox"], svg.text) == ("redapple", "0 0 24 32", str(COLOURS["fxemoji"]))


def test_missing_packages_are_named(packages) -> None:
    (packages / "openmoji-17.0.0.tgz").unlink()
    with pytest.raises(DataError, match=r"openmoji-\[0-9\]\*\.tgz"):
        list(make_pictures.drawings(packages))
