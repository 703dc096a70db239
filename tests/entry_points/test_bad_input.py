"""What is wrong with paths, shards and pictures is said where it is wrong, counted, and never fatal alone."""

import re
import traceback
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.common.errors import ConfigError, DataError, UserError
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import HOPELESS, BatchStream
from minigpt4.datasets.datasets.shard_list import expand_shards
from tests.support.golden import build_golden_model
from tests.support.shards import (
    JPEG,
    TRAINING,
    encoded,
    numbers,
    picture,
    read,
    sample,
    sorted_out,
    stream,
    write_good,
    write_shard,
)

UNSET = ["/path/to/weights", "path/to/weights", "please set this value to the path of x", "  "]


WEIGHTS = ["llama_model", "ckpt", "vit_weights", "q_former_model", "prompt_path"]


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_placeholder_names_its_key(key) -> None:
    unset = f"model.{key} is '/path/to/weights': please set it to a real path"
    with pytest.raises(ConfigError, match=re.escape(unset)):
        build_golden_model(**{key: "/path/to/weights"})


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_path_that_is_not_there_names_its_key(key) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{key}: no file (or folder )?'nowhere/x\.pth'"):
        build_golden_model(**{key: "nowhere/x.pth"})


@pytest.mark.parametrize("value", [*UNSET, "", None, [], ["/path/to/0.tar"], {"train": "/path/to/0.tar"}])
def test_storage_that_was_not_set_names_its_key(value) -> None:
    entry = {
        "build_info": {"storage": value},
        "batch_size": 1,
        "vis_processor": {"train": {"name": "blip2_image_train"}},
    }
    with pytest.raises(ConfigError, match=r"^datasets\.laion\.build_info\.storage is "):
        build_datasets({"laion": entry})


def test_no_shard_names_key_and_pattern(tmp_path) -> None:
    pattern = f"{tmp_path}/{{00000..00009}}.tar"
    with pytest.raises(
        DataError,
        match=re.escape(f"k: no shard matches {pattern!r} (looked for {tmp_path}/00000.tar and 9 more)"),
    ):
        expand_shards(pattern, "k")
    with pytest.raises(ConfigError, match=re.escape("k is 'a{0..1.tar': Unbalanced braces")):
        expand_shards("a{0..1.tar", "k")


def cut(shard: str, start: int, end: int | None = None, filling: bytes = b"") -> str:
    data = Path(shard).read_bytes()
    Path(shard).write_bytes(data[:start] + filling + (data[end:] if end else b""))
    return shard


# A sample of `write_good` is a header and a picture of 2 blocks, a header and a text of 1 block.
BLOCK = 512
SAMPLE = (1 + -(-len(JPEG) // BLOCK) + 1 + 1) * BLOCK


@pytest.mark.parametrize(
    ("damage", "left", "reasons"),
    [
        (lambda s: Path(s).unlink() or s, [], {"missing shard": 1}),
        (lambda s: cut(s, 0), [], {"empty shard": 1}),
        (lambda s: write_shard(Path(s), []), [], {"empty shard": 1}),
        (lambda s: cut(s, 0, filling=b"not a tar " * 200), [], {"damaged shard": 1}),
        (lambda s: cut(s, 100), [], {"truncated shard": 1}),  # in the first header
        (lambda s: cut(s, 3 * SAMPLE + BLOCK + 100), [0, 1, 2], {"truncated shard": 1}),  # in a picture
        (lambda s: cut(s, 3 * SAMPLE + 100), [0, 1, 2], {"truncated shard": 1}),  # in a header
        (
            lambda s: cut(s, 4 * SAMPLE - BLOCK + 5),  # in a text
            [0, 1, 2],
            {"truncated shard": 1, "no caption": 1},
        ),
        (
            lambda s: cut(s, 3 * SAMPLE, 3 * SAMPLE + BLOCK, b"\xff" * BLOCK),
            [0, 1, 2],
            {"damaged shard": 1},
        ),
    ],
)
def test_a_damaged_shard_gives_what_it_has_and_is_counted(tmp_path, damage, left, reasons) -> None:
    first, second = write_good(tmp_path, shards=2, each=6)
    samples, bad = sorted_out(stream([damage(first), second]))
    assert list(numbers(samples)) == [*left, *range(6, 12)]
    assert bad == reasons


def test_a_command_that_fails_is_a_bad_shard(tmp_path) -> None:
    shards = ["pipe:exit 3", *write_good(tmp_path, shards=1, each=2)]
    samples, bad = sorted_out(stream(shards))
    assert list(numbers(samples)) == [0, 1] and bad.total() == 1


PNG = encoded(picture(), "PNG")
BAD_SAMPLES = {
    "cut jpeg": (sample("x", JPEG[: len(JPEG) // 2]), "broken image"),
    "noise in the header": (sample("x", b"\xff\xd8" + bytes(200)), "broken image"),
    "cut png": (sample("x", PNG[:-60], suffix="png"), "broken image"),
    "html as jpg": (sample("x", b"<html>404 not found</html>"), "broken image"),
    "nothing as jpg": (sample("x", b""), "broken image"),
    "svg as jpg": (sample("x", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "broken image"),
    "postscript as jpg": (sample("x", encoded(picture(), "EPS")), "broken image"),
    "bomb": (sample("x", encoded(Image.new("1", (200, 101)), "PNG"), suffix="png"), "image too large"),
    "no caption": (sample("x", caption=None), "no caption"),
    "json without caption": (sample("x", caption=None, meta={"url": "x"}), "no caption"),
    "empty caption": (sample("x", caption=" \n"), "empty caption"),
    "empty caption in json": (sample("x", caption=None, meta={"caption": ""}), "empty caption"),
    "caption of signs alone": (sample("x", caption="...!"), "empty caption"),
    "caption with half of a character": (
        sample("x", meta=b'{"caption": "a \\ud800 dog"}'),
        "text with half of a character (a lone surrogate)",
    ),
    "endless caption": (sample("x", caption="a" * 100_001), "text of more than 100,000 characters"),
    "caption that is a list": (sample("x", meta={"caption": ["a", "b"]}), "caption is not text"),
    "cut json": (sample("x", meta=b'{"caption": "a do'), "broken json"),
    "json that is a list": (sample("x", meta=b'["a dog"]'), "broken json"),
    "json that is no utf-8": (sample("x", meta=b'{"caption": "\xff\xfe"}'), "broken json"),
    "bottomless json": (sample("x", meta=b"[" * 100_000), "broken json"),
    "no image": (sample("x", None), "no image"),
    "image under another suffix": (sample("x", suffix="pdf"), "no image"),
}


@pytest.fixture(autouse=True)
def small_bomb(monkeypatch) -> None:
    monkeypatch.setattr("minigpt4.processors.pictures.MAX_PIXELS", 20_000)


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_skipped_with_its_reason(tmp_path, name) -> None:
    members, reason = BAD_SAMPLES[name]
    shard = write_shard(tmp_path / "0.tar", [*sample("a"), *members, *sample("b")])
    first, bad, second = read(stream([shard]))
    assert (first.image_id, second.image_id) == ("a", "b")
    assert (bad.reason, bad.where) == (reason, f"{shard}:x")


def test_a_picture_just_small_enough_is_no_bomb(tmp_path) -> None:
    members = sample("x", encoded(Image.new("1", (200, 100)), "PNG"))
    (item,) = read(stream([write_shard(tmp_path / "0.tar", members)]))
    assert item.image.shape == (3, 8, 8)


def test_pils_own_limit_counts_as_well(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (bad,) = read(stream([write_shard(tmp_path / "0.tar", sample("x"))]))
    assert bad.reason == "image too large"


def test_a_repeated_file_does_not_end_its_shard(tmp_path) -> None:
    shard = write_shard(tmp_path / "0.tar", [*sample("a"), ("a.jpg", JPEG), *sample("b")])
    samples, bad = sorted_out(stream([shard]))
    assert [s.image_id for s in samples] == ["a", "b"]
    assert bad == {"repeated file": 1}


def mixed_shards(folder: Path) -> tuple[list[str], Counter]:
    """Two shards of 16 good samples each, all of BAD_SAMPLES spread over both, and one that is missing."""
    shards, reasons = [], Counter({"missing shard": 1})
    everything = list(BAD_SAMPLES.values())
    for part in range(2):
        members = []
        for n in range(16):
            members += sample(f"good{part}{n}", caption=f"picture {part * 16 + n}")
            if part + 2 * n < len(everything):
                bad, reason = everything[part + 2 * n]
                members += [(f"bad{part}{n}.{name.split('.')[1]}", data) for name, data in bad]
                reasons[reason] += 1
        shards.append(write_shard(folder / f"{part}.tar", members))
    return [*shards, str(folder / "2.tar")], reasons


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_travel_with_the_batches_and_add_up(tmp_path, workers) -> None:
    shards, reasons = mixed_shards(tmp_path)
    loader = DataLoader(BatchStream(stream(shards), 4), batch_size=None, num_workers=workers)
    counted, answers = Counter(), []
    for batch in loader:
        counted.update(batch.bad)
        answers += batch.answers
    assert sorted(answers) == sorted(f"picture {n}" for n in range(32))
    assert counted == reasons
    assert reasons.total() == len(BAD_SAMPLES) + 1


def half_bad(folder: Path, good: int, bad: int) -> str:
    members = [m for n in range(good) for m in sample(f"good{n}")]
    members += [m for n in range(bad) for m in sample(f"bad{n}", caption=None if n % 3 else "")]
    return write_shard(folder / "0.tar", members)


def test_a_fraction_is_allowed_and_no_more(tmp_path) -> None:
    shard = half_bad(tmp_path, good=20, bad=20)
    (*_, last) = BatchStream(stream([shard]), 10, max_bad_fraction=0.5)
    assert last.bad == {"no caption": 13, "empty caption": 7}
    with pytest.raises(
        DataError,
        match=re.escape(
            f"14 of 34 samples are bad (no caption: 9, empty caption: 5; up to {shard}:bad13), "
            "more than run.max_bad_fraction=0.4 allows"
        ),
    ):
        list(BatchStream(stream([shard]), 10, max_bad_fraction=0.4))


def test_few_samples_are_judged_at_the_end(tmp_path) -> None:
    """Bad ones in front say nothing yet; of the whole they are a fifth."""
    shard = write_shard(
        tmp_path / "0.tar", [*sample("x", None), *[m for n in range(4) for m in sample(f"{n}")]]
    )
    assert [b.bad for b in BatchStream(stream([shard]), 4, max_bad_fraction=0.2)] == [{"no image": 1}]
    with pytest.raises(DataError, match=r"1 of 5 samples are bad \(no image: 1; up to the last shard\)"):
        list(BatchStream(stream([shard]), 4, max_bad_fraction=0.1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda shard: Path(shard).unlink(), "missing shard"),
        (lambda shard: cut(shard, 0), "empty shard"),
        (lambda shard: write_shard(Path(shard), sample("x", b"no picture")), "broken image"),
    ],
)
def test_endless_training_on_nothing_ends(tmp_path, spoil, reason) -> None:
    (shard,) = write_good(tmp_path, shards=1, each=1)
    spoil(shard)
    with pytest.raises(DataError, match=rf"^32 of 32 samples are bad \({reason}: 32; up to {shard}"):
        next(iter(BatchStream(stream([shard]), 4, reading=TRAINING)))


def test_endless_training_on_nothing_ends_whatever_is_allowed(tmp_path) -> None:
    batches = BatchStream(stream([str(tmp_path / "0.tar")]), 4, 1, reading=TRAINING)
    with pytest.raises(DataError, match=f"missing shard: {HOPELESS}.*not one of them is good"):
        next(iter(batches))


def test_an_error_in_a_worker_reaches_the_loop_in_one_line(tmp_path) -> None:
    batches = BatchStream(stream([str(tmp_path / "0.tar")]), 4, reading=TRAINING)
    loader = DataLoader(batches, batch_size=None, num_workers=2)
    with pytest.raises(UserError, match=r"^32 of 32 samples are bad .* allows$") as error:
        next(iter(loader))
    traceback.clear_frames(error.tb)  # else torch's workers outlive the test


def test_training_goes_on_beside_what_is_bad(tmp_path) -> None:
    good = write_good(tmp_path, shards=1, each=8)
    batches = BatchStream(stream([*good, str(tmp_path / "missing.tar")]), 8, reading=TRAINING)
    seen = list(islice(batches, 20))
    assert all(len(batch.answers) == 8 for batch in seen)
    # About one shard drawn in two is missing: as often as eight pictures are read.
    assert 5 <= sum(batch.bad.get("missing shard", 0) for batch in seen) <= 60
