"""The benchmarks in their published formats: what is asked, what is right, and which picture it is about."""

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.config import EVALUATION_DATASETS
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.builders.base_dataset_builder import build_datasets
from minigpt4.datasets.published import FORMATS
from minigpt4.datasets.stream import Skipped
from minigpt4.prompts.sample import Sample
from minigpt4.tasks.refer import true_box
from tests.support.benchmarks import as_published, write_benchmarks

VIS = {"train": {"name": "blip2_image_eval", "image_size": 56}}


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def built(entries: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    """Split -> data set."""
    info = {key: entries[name][key] for key in ("eval_file_path", "img_path")} | {"format": name} | changes
    section = {"builder": "published", "vis_processor": VIS, "build_info": info}
    ((_, splits),) = build_datasets({name: section}).values()
    return dict(splits)


def samples(dataset: Any) -> list[Sample]:
    return [dataset[number] for number in range(len(dataset))]


def test_config_knows_the_formats() -> None:
    assert set(EVALUATION_DATASETS) == set(FORMATS)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("refcoco", ["val", "testA", "testB"]),
        ("refcoco+", ["val", "testA", "testB"]),
        ("refcocog", ["val", "test"]),
        *(("okvqa", ["test"]), ("vizwiz", ["val"]), ("gqa", ["testdev"]), ("hm", ["dev"]), ("vsr", ["test"])),
    ],
)
def test_published_sets_have_their_splits(entries, name, splits) -> None:
    sets = built(entries, name)
    assert list(sets) == splits
    assert all(isinstance(one, Sample) for dataset in sets.values() for one in samples(dataset))


def test_refcoco_asks_for_each_expression(entries) -> None:
    first, second, third = samples(built(entries, "refcoco")["testA"])
    names = [one.image_id for one in (first, second, third)]
    assert names == [f"COCO_train2014_{n:012d}.jpg" for n in (0, 0, 1)]
    assert first.dialogue.turns[0].text == "<Img><ImageHere></Img> [refer] give me the location of thing 0"
    # x 8 to 41 of 80, y 4 to 15 of 40.
    assert true_box(second.dialogue.answer) == [10.0, 10.0, 51.25, 37.5]
    assert first.size == (40, 80)


def test_okvqa_joins_questions_and_answers(entries) -> None:
    found = samples(built(entries, "okvqa")["test"])
    assert [one.image_id for one in found] == [f"{n:012d}.jpg" for n in (2, 0, 1)]
    assert found[0].dialogue.turns[0].text.endswith("respond to this question with a short answer: What 2?")
    assert found[0].references == ("red",) * 7 + ("a car",) * 3


def test_iconqa_has_candidates_and_vizwiz_ten_answers(entries) -> None:
    icon = samples(built(entries, "iconvqa")["val"])
    assert [one.candidates for one in icon] == [("one",), ("one", "two"), ("one", "two")]
    assert icon[1].image_id == "1/image.png" and icon[1].dialogue.answer == "one"
    (vizwiz, *_) = samples(built(entries, "vizwiz")["val"])
    assert len(vizwiz.references) == 10 and "'Which can?'" in vizwiz.dialogue.turns[0].text


def test_gqa_is_read_in_both_forms(entries, tmp_path: Path) -> None:
    mapping = samples(built(entries, "gqa")["testdev"])
    listed = [{"image": f"{n}.jpg", "question": "Is it red?", "answer": "yes"} for n in range(2)]
    (tmp_path / "gqa.json").write_text(json.dumps(listed))
    as_list = samples(built(entries, "gqa", eval_file_path=str(tmp_path / "gqa.json"))["testdev"])
    assert as_list[0].dialogue == mapping[0].dialogue and len(as_list) == 2
    assert [one.dialogue.answer for one in mapping] == ["yes", "no", "yes"]


def test_labels_become_words(entries) -> None:
    assert [one.dialogue.answer for one in samples(built(entries, "vsr")["test"])] == [
        "false",
        "true",
        "false",
    ]
    memes = samples(built(entries, "hm")["dev"])
    assert [one.dialogue.answer for one in memes] == ["no", "yes", "no"]
    assert (
        memes[0]
        .dialogue.turns[0]
        .text.startswith("<Img><ImageHere></Img> This is an image writting 'text 0'.")
    )


def test_coco_captions_of_a_picture_are_one_sample(entries) -> None:
    found = samples(built(entries, "coco_caption")["val"])
    assert [one.references for one in found] == [(f"a caption {n}", f"a caption {n + 3}") for n in range(3)]


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "okvqa", "iconvqa"])
def test_published_files_give_the_samples_of_the_originals(entries, name, tmp_path: Path) -> None:
    published = write_benchmarks(tmp_path)
    as_published(tmp_path)
    found, wanted = built(published, name), built(entries, name)
    assert list(found) == list(wanted)
    for split in wanted:
        pairs = zip(samples(found[split]), samples(wanted[split]), strict=True)
        for one, other in pairs:
            assert (one.dialogue, one.image_id, one.size) == (other.dialogue, other.image_id, other.size)
            assert (one.references, one.candidates) == (other.references, other.candidates)


def test_what_cannot_be_used_is_named(entries, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"evaluation_datasets\.gqa: the annotation file .*none\.json.* does not exist"
    ):
        built(entries, "gqa", eval_file_path=str(tmp_path / "none.json"))
    with pytest.raises(
        ConfigError, match=r"evaluation_datasets\.refcoco has no split 'test'.*val, testA, testB"
    ):
        built(entries, "refcoco", splits=["test"])
    (tmp_path / "x.json").write_text(json.dumps([{"image": "0.jpg"}]))
    with pytest.raises(DataError, match="entry 0: 'question' is missing"):
        built(entries, "vizwiz", eval_file_path=str(tmp_path / "x.json"))
    broken = {"img_id": "COCO_train2014_000000000000_1", "sents": "x", "bbox": [1], "height": 4, "width": 4}
    (tmp_path / "x.json").write_text(json.dumps([broken]))
    (dataset,) = built(entries, "refcoco", eval_file_path=str(tmp_path / "x.json"), splits=["val"]).values()
    assert isinstance(skipped := dataset[0], Skipped) and "format" in skipped.reason
