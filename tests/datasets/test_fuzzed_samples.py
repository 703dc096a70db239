"""No sample's text or picture ends a run: what a fuzzer makes goes through all readers, and is counted."""

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from minigpt4.commands.check_shards import read_shard
from minigpt4.common.errors import DataError
from minigpt4.common.logger import write_json
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets.jsonl_format import check_line
from minigpt4.datasets.features.reader import CachedFeatureStream
from minigpt4.datasets.features.writer import JobBatches, Shard, ShardWriter
from minigpt4.datasets.stream import Reading, Skipped
from minigpt4.models.image_tokens import TokenShape
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.tasks.records import Limits
from tests.support.golden import build_golden_model
from tests.support.shards import JPEG, encoded, picture, sample, sorted_out, stream, write_shard


def fuzzed_captions() -> list[str]:
    rng = random.Random(13)
    highest = (0x80, 0x3000, 0xD800, 0x110000)  # the last with halves of characters
    drawn = [
        "".join(chr(rng.randrange(highest[n % 4])) for _ in range(rng.randrange(1, 300))) for n in range(40)
    ]
    return [
        *("", " \n\t\u3000", "\ufeffa dog", "a\0dog", "\x1b[31m red \x07\x85\u2028", "\u202e a dog \u2066"),
        *("a dog \ud83d", "\udcff", "a" * 2**20, "a dog " * 40_000, "a" * 100_000, "\U0001f469\u200d" * 200),
        *(
            "<Img><ImageHere></Img>",
            "</s><s>[INST] <unk><pad>",
            "###",
            "{}",
            "a dog".encode("utf-16").decode("latin"),
        ),
        *drawn,
    ]


def fuzzed_pictures() -> dict[str, tuple[bytes, str]]:
    """What it is -> the file, and why it is skipped; empty where it is read."""
    small = picture()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    damaged = encoded(small, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    png = bytearray(encoded(small, "PNG"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    rng = np.random.default_rng(13)
    nan = np.full((8, 8), np.nan, np.float32)
    deep = rng.integers(0, 2**16, (8, 8), dtype=np.uint16)
    frames = [picture(seed) for seed in range(3)]
    clear = small.convert("P")
    clear.info["transparency"] = 0
    return {
        "truncated": (JPEG[: len(JPEG) // 3], "broken image"),
        "empty": (b"", "broken image"),
        "noise": (rng.bytes(500), "broken image"),
        "png named jpg": (encoded(small, "PNG"), ""),
        "text": (b"<html>not found</html>", "broken image"),
        "1x1": (encoded(Image.new("RGB", (1, 1)), "PNG"), ""),
        "1x10000": (encoded(Image.new("RGB", (1, 10_000)), "PNG"), ""),
        "10000x1": (encoded(Image.new("L", (10_000, 1))), ""),
        "16 bits": (encoded(Image.fromarray(deep), "PNG"), ""),
        "CMYK": (encoded(small.convert("CMYK")), ""),
        "palette": (encoded(clear, "PNG", transparency=0), ""),
        "animated": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ""),
        "animated webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), ""),
        "bomb": (bytes(png), "broken image"),
        "large": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "image too large"),
        "rotated": (encoded(small, exif=rotated.tobytes()), ""),
        "damaged EXIF": (damaged, ""),
        "profile": (encoded(small, icc_profile=profile), ""),
        "damaged profile": (encoded(small, "PNG", icc_profile=profile[:100] + b"\xff" * 50), ""),
        "not a number": (encoded(Image.fromarray(nan), "TIFF"), "image of unknown range"),
        **{f"one byte {n}": (bytes(one), "?") for n, one in enumerate(_mutated(rng))},
    }


def _mutated(rng: np.random.Generator) -> Iterator[bytes]:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        for _ in range(8):
            data = bytearray(encoded(picture(), kind))
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            yield bytes(data)


pytestmark = pytest.mark.unit

CAPTIONS, PICTURES = fuzzed_captions(), fuzzed_pictures()
KEYS = [f"{n:04d}" for n in range(len(CAPTIONS) + len(PICTURES))]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_golden_model().eval()


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each caption under a good picture, and as its group; each picture with a good caption."""
    pairs = [(JPEG, {"caption": text, "group": text[:50]}) for text in CAPTIONS]
    pairs += [(data, {"caption": "a dog"}) for data, _ in PICTURES.values()]
    members = [
        member
        for key, (data, meta) in zip(KEYS, pairs, strict=True)
        for member in sample(key, data, caption=None, meta=meta)
    ]
    return write_shard(tmp_path_factory.mktemp("fuzzed") / "0.tar", members)


def test_pictures_are_read_or_skipped_with_their_reason(shard: str) -> None:
    items = [item for item, _ in stream([shard]).read(Reading())][len(CAPTIONS) :]
    found = {what: getattr(item, "reason", "") for what, item in zip(PICTURES, items, strict=True)}
    known = {what: reason for what, (_, reason) in PICTURES.items() if reason != "?"}
    assert {what: found[what] for what in known} == known
    assert {found[what] for what in found.keys() - known.keys()} <= {"", "broken image", "image too large"}


def test_captions_are_read_or_skipped_with_their_reason(shard: str) -> None:
    items = [item for item, _ in stream([shard]).read(Reading())][: len(CAPTIONS)]
    reasons = {
        text: item.reason for text, item in zip(CAPTIONS, items, strict=True) if isinstance(item, Skipped)
    }
    for text in CAPTIONS:
        half = any("\ud800" <= character <= "\udfff" for character in text)
        if half or len(text) > 100_000:
            assert reasons[text].startswith("text "), text[:50]
    assert reasons[""] == reasons[" \n\t\u3000"] == "empty caption"
    assert len(items) - len(reasons) > 30


def test_check_shards_says_what_training_does(shard: str, model: Any) -> None:
    dataset = stream([shard], size=model.image_size)
    batches = list(BatchStream(dataset, 8, 1, prompts=model.prompts))
    checked = read_shard(shard)
    assert checked.good == sum(map(len, batches)) > 40
    assert checked.bad == sum((type(checked.bad)(batch.bad) for batch in batches), start=type(checked.bad)())
    assert checked.good + checked.bad.total() == len(KEYS)
    for batch in batches:
        assert model.prepare(batch).tokens.targets > 0


def test_evaluation_writes_its_report(shard: str, model: Any, tmp_path: Path) -> None:
    batches = BatchStream(stream([shard], size=model.image_size), 8, 1, limit=48, prompts=model.prompts)
    records = ImageTextPretrainTask().evaluate(model, batches, Limits(predictions=1))
    assert len(records) == 48 and all(record.loss is not None for record in records)
    write_json(tmp_path / "report.json", {"records": [record.to_json() for record in records]})
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["records"]) == 48


def test_cached_features_keep_what_is_good(shard: str, tmp_path: Path) -> None:
    images = stream([shard])
    one = Shard.of(images, 0, tmp_path, "a/train/00000.tar", 8)
    writer, shape = ShardWriter(one), TokenShape(4, 2, 2)
    for _, batch, bad in JobBatches([one]):
        if batch is not None:
            writer.add(batch, torch.zeros(len(batch), 4, 2))
        if bad is not None:
            writer.finish(bad, shape)
    good, _ = sorted_out(images)
    cached, bad = sorted_out(CachedFeatureStream([str(one.path)], (4, 2), images.text_processor))
    assert [item.image_id for item in cached] == [item.image_id for item in good]
    assert bad == {"empty caption": 1}  # of signs alone: what is cached is the caption as it was written
    assert [item.group for item in cached] == [item.group for item in good]


def test_stage_2_counts_all(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    for key, data in zip(KEYS, [JPEG] * len(CAPTIONS) + [data for data, _ in PICTURES.values()], strict=True):
        (tmp_path / "image" / f"{key}.jpg").write_bytes(data)
    texts = [*CAPTIONS, *["a dog"] * len(PICTURES)]
    entries = [
        {"image_id": key, "caption": text, "group": text[:9]} for key, text in zip(KEYS, texts, strict=True)
    ]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": entries}))
    good, bad = sorted_out(built("cc_sbu_align", {"storage": str(tmp_path)}))
    assert len(good) + bad.total() == len(KEYS) and len(good) > 40


def test_jsonl_refuses_lines_or_counts_samples(tmp_path: Path) -> None:
    lines = [{"image": "a.jpg", "caption": text} for text in CAPTIONS]
    for number, (data, _) in enumerate(PICTURES.values()):
        (tmp_path / f"{number}.png").write_bytes(data)
        lines.append({"image": f"{number}.png", "caption": "a dog"})
    (tmp_path / "a.jpg").write_bytes(JPEG)
    texts = [json.dumps(line).encode() for line in lines]
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(texts))
    with pytest.raises(DataError, match=r"lines of .*all\.jsonl cannot be used"):
        built("jsonl", {"ann_path": str(tmp_path / "all.jsonl")})
    usable = [text for text in texts if check_line(text)[0] is not None]
    (tmp_path / "usable.jsonl").write_bytes(b"\n".join(usable))
    good, bad = sorted_out(built("jsonl", {"ann_path": str(tmp_path / "usable.jsonl")}))
    assert len(good) + bad.total() == len(usable) and len(good) > 40


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1", "utf-32"])
def test_text_files_in_other_encodings_are_text(tmp_path: Path, encoding: str) -> None:
    members = [("a.jpg", JPEG), ("a.txt", "a café".encode(encoding)), *sample("b")]
    items = [item for item, _ in stream([write_shard(tmp_path / "0.tar", members)]).read(Reading())]
    assert len(items) == 2 and items[1].image_id == "b"


def built(builder: str, build_info: dict[str, Any]) -> Any:
    section = {
        "batch_size": 1,
        "build_info": build_info,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 8}},
    }
    ((_, splits),) = build_datasets({builder: section}).values()
    return splits["train"]
