"""Stage 2's folder of pairs: what is read, in which order and by whom, and what is refused."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dataset.shapes import make_align, world
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets.caption import CCSBUAlignDataset
from minigpt4.datasets.stream import Reading
from minigpt4.processors import BaseProcessor, Blip2ImageTrainProcessor
from tests.support.shards import SIZE, TRAINING, encoded, picture, read, sorted_out

KEY = "datasets.cc_sbu_align.build_info.storage"


def write_align(folder: Path, entries: Any, pictures: int = 0) -> Path:
    (folder / "image").mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        (folder / "image" / f"{number}.jpg").write_bytes(encoded(picture(number)))
    (folder / "filter_cap.json").write_text(json.dumps(entries))
    return folder


def good_folder(folder: Path, count: int) -> Path:
    entries = [{"image_id": str(n), "caption": f"Picture {n}."} for n in range(count)]
    return write_align(folder, {"annotations": entries}, count)


def build(storage: Any, split: str = "train") -> CCSBUAlignDataset:
    """As the YAML does it."""
    section = {
        "build_info": {"storage": storage},
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
        "text_processor": {"train": {"name": "blip_caption"}},
    }
    return build_datasets({"cc_sbu_align": section})["cc_sbu_align"][1][split]


def test_what_a_sample_is(tmp_path) -> None:
    """The caption keeps its capitals and punctuation, whatever text processor the YAML names."""
    text = 'A "Red" car; #1.\nIt stands.'
    entries = [{"image_id": 0, "caption": text, "group": "cars"}, {"image_id": "1", "caption": "B"}]
    dataset = build(str(write_align(tmp_path, entries, 2)))
    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert (first.dialogue.answer, first.image_id, first.group) == (text, "0", "cars")
    assert (second.dialogue.answer, second.image_id, second.group) == ("B", "1", "")
    assert first.image.dtype == torch.uint8 and first.image.shape == (3, SIZE, SIZE)
    assert not torch.equal(first.image, second.image)


def test_evaluation_reads_all_once_in_order(tmp_path) -> None:
    dataset = build({"train": str(good_folder(tmp_path, 7)), "test": str(tmp_path)}, "test")
    assert [s.image_id for s in read(dataset)] == list("0123456")
    shares = [[s.image_id for s in read(dataset, reader=reader, readers=2)] for reader in (0, 1)]
    assert shares == [list("0246"), list("135")]


def drawn(dataset: CCSBUAlignDataset, count: int, seed: int = 0) -> list[str]:
    return [sample.image_id for sample in islice(read(dataset, training=True, seed=seed), count)]


def test_epochs_are_permutations_that_seed_and_number_decide(tmp_path) -> None:
    folder = str(good_folder(tmp_path, 10))
    order = drawn(build(folder), 30)
    passes = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(one) == list("0123456789") for one in passes)
    assert len({tuple(one) for one in [*passes, list("0123456789")]}) == 4
    assert drawn(build(folder), 30) == order
    assert drawn(build(folder), 30, seed=1) != order


@pytest.mark.parametrize(("entries", "workers"), [(10, 2), (3, 2), (10, 0)])
def test_ranks_and_workers_share_an_epoch(tmp_path, entries, workers) -> None:
    """Two ranks; three entries are fewer than four readers. Together they read the row that one reads."""
    folder = str(good_folder(tmp_path, entries))
    readers, each = 2 * max(workers, 1), 15
    row: list[str] = [""] * readers * each
    for rank in range(2):
        batches = BatchStream(build(folder), 1, reading=Reading(training=True, reader=rank, readers=2))
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        for place, batch in enumerate(islice(loader, each * max(workers, 1))):  # the workers take turns
            turn, worker = divmod(place, max(workers, 1))
            row[turn * readers + rank * max(workers, 1) + worker] = batch.image_ids[0]
    whole = len(row) - len(row) % entries
    assert set(Counter(row[:whole]).values()) == {whole // entries}
    assert row == drawn(build(folder), len(row))


def bad_folder(folder: Path) -> Path:
    """Of five entries the first alone is good."""
    entries = [{"image_id": str(n), "caption": f"Picture {n}."} for n in (0, 1, "gone")]
    entries += [{"image_id": "0", "caption": " "}, {"image_id": "0", "caption": 5}]
    write_align(folder, entries, 1)
    (folder / "image" / "1.jpg").write_bytes(encoded(picture(1))[:90])
    return folder


def test_what_is_bad_is_counted_and_not_fatal(tmp_path) -> None:
    reasons = {"broken image": 1, "missing image": 1, "empty caption": 1, "caption is not text": 1}
    dataset = build({"test": str(bad_folder(tmp_path))}, "test")
    samples, bad = sorted_out(dataset)
    assert [s.dialogue.answer for s in samples] == ["Picture 0."]
    assert bad == reasons
    (batch,) = BatchStream(dataset, 2, max_bad_fraction=0.8)
    assert batch.bad == reasons
    assert dataset[2].where == "entry 2"
    with pytest.raises(DataError, match="4 of 5 samples are bad"):
        list(BatchStream(dataset, 2))


def test_training_goes_on_beside_what_is_bad(tmp_path) -> None:
    batches = islice(BatchStream(build(str(bad_folder(tmp_path))), 2, 0.9, reading=TRAINING), 8)
    seen = [answer for batch in batches for answer in batch.answers]
    assert seen == ["Picture 0."] * 16


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", "folder"])
def test_a_name_that_is_no_file_is_a_missing_picture(tmp_path, name) -> None:
    (tmp_path / "image" / "folder.jpg").mkdir(parents=True)
    dataset = build(str(write_align(tmp_path, [{"image_id": name, "caption": "a"}])))
    assert dataset[0].reason == "missing image"


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "/etc/secret", "..\\secret", "C:\\secret", "C:x"])
def test_a_name_must_not_leave_the_folder(tmp_path, name) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded(picture()))
    folder = write_align(tmp_path / "align", [{"image_id": "0", "caption": "a"}] * 3)
    entries = [{"image_id": "0", "caption": "a"}, {"image_id": name, "caption": "a"}]
    write_align(folder, entries, 1)
    with pytest.raises(DataError) as caught:
        build(str(folder))
    where = f"{KEY}: {folder / 'filter_cap.json'}, entry 1"
    assert str(caught.value) == f"{where}: {name + '.jpg'!r} leaves the folder that it belongs to"


def test_a_name_may_go_down(tmp_path) -> None:
    (tmp_path / "image" / "a").mkdir(parents=True)
    (tmp_path / "image" / "a" / "1.jpg").write_bytes(encoded(picture()))
    assert build(str(write_align(tmp_path, [{"image_id": "a/1", "caption": "x"}])))[0].image_id == "a/1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"annotations": [', "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ('{"images": []}', "must hold a list of entries, or a mapping with one under 'annotations'"),
        ("3", "must hold a list of entries"),
        ("[]", "no entries in "),
        ('[{"image_id": "1", "caption": "a"}, 7]', "entry 1: 7 is not a mapping"),
        ('[{"image_id": "1"}]', "entry 0: 'caption' is missing (it has 'image_id')"),
        ('{"annotations": [{}]}', "entry 0: 'image_id' is missing (it has nothing)"),
        (
            '[{"image_id": null, "caption": "a"}]',
            "entry 0: 'image_id' is None, it must be text or a number",
        ),
    ],
)
def test_annotations_that_cannot_be_used_name_file_and_entry(tmp_path, content, message) -> None:
    write_align(tmp_path, [])
    (tmp_path / "filter_cap.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        build(str(tmp_path))
    assert str(caught.value).startswith(f"{KEY}: ")
    assert str(tmp_path / "filter_cap.json") in str(caught.value) and message in str(caught.value)


def test_a_folder_that_is_not_whole(tmp_path) -> None:
    with pytest.raises(DataError, match=rf"^{KEY}: the annotation file .*filter_cap\.json does not exist"):
        build(str(tmp_path / "nowhere"))
    good_folder(tmp_path, 1)
    (tmp_path / "image" / "0.jpg").unlink()
    (tmp_path / "image").rmdir()
    with pytest.raises(DataError, match=rf"^{KEY}: the picture folder .*image does not exist"):
        build(str(tmp_path))


@pytest.mark.parametrize("value", ["/path/to/cc_sbu_align/", "", {"train": None}, {"train": "/path/to/x"}])
def test_storage_to_be_set_names_its_key(value) -> None:
    with pytest.raises(ConfigError, match=rf"^{KEY} is .*: please set it"):
        build(value)


def test_without_yaml(tmp_path) -> None:
    """The original's arguments, and a file with a mark at its head."""
    folder = good_folder(tmp_path, 2)
    path = folder / "filter_cap.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    dataset = CCSBUAlignDataset(
        vis_processor=Blip2ImageTrainProcessor(SIZE),
        text_processor=BaseProcessor(),
        vis_root=str(folder / "image"),
        ann_paths=[str(path), str(path)],
    )
    assert len(dataset) == 4
    assert dataset[3].image.dtype == torch.float32


def test_the_drawn_world_as_stage_2s_folders(tmp_path) -> None:
    for split in ("train", "test"):
        make_align.write_folder(tmp_path / split, split, 30, seed=1)
        dataset = build({split: str(tmp_path / split)}, split)
        assert len(dataset) == 30
        scenes = [world.parse_caption(entry["caption"]) for entry in dataset.annotation]
        assert {world.split_of(scene) for scene in scenes} == {split}
        assert {s.group for s in read(dataset)} == {"one_object", "two_objects"}
