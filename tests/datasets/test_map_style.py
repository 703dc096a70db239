"""What a set needs that is a folder of pictures and files of annotations: a dataset class and five lines."""

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import BadSample, ConfigError, DataError
from minigpt4.common.registry import registry
from minigpt4.common.schema import key
from minigpt4.datasets.builders import MapStyleBuilder, build_datasets
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.settings import MapStyleInfo
from minigpt4.processors import BaseProcessor
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from tests.support.shards import SIZE, encoded, picture, sorted_out


class MadeUpVQADataset(BaseDataset):
    """In OK-VQA's layout: one entry a question, several answers, a picture by its name."""

    REQUIRED_KEYS = ("image", "question", "answer")

    def __init__(self, *args: Any, splitBy: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.split_by = splitBy

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        question = f"<Img><ImageHere></Img> [vqa] {entry['question']}"
        return Sample(
            dialogue=Dialogue.of([(question, entry["answer"][0])]),
            image_id=entry["image"],
            **self.picture(entry["image"]),
        )


@dataclass(frozen=True, kw_only=True)
class MadeUpVQAInfo(MapStyleInfo):
    """A key of its own, which the data set is given."""

    splitBy: str = key("")


@registry.register_builder("made_up_vqa")
class MadeUpVQABuilder(MapStyleBuilder):
    """All that such a set has to say."""

    DATASET = MadeUpVQADataset
    BUILD_INFO = MadeUpVQAInfo


@pytest.fixture(autouse=True)
def defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set's file of defaults, word for word in the layout of the original's."""
    path = tmp_path / "defaults.yaml"
    info = {
        "annotations": {"train": {"url": ["https://example.org/train.json"], "storage": ["/path/to/a.json"]}},
        "images": {"storage": "/path/to/coco/images"},
    }
    path.write_text(
        yaml.safe_dump({"datasets": {"made_up_vqa": {"data_type": "images", "build_info": info}}})
    )
    monkeypatch.setattr(MadeUpVQABuilder, "DATASET_CONFIG", path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0.jpg ... 3.jpg, and the entries of `a.json` (0, 1), `b.json` (2), `test.json` (3)."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encoded(picture(number)))
    entries = [
        {"question_id": n, "image": f"{n}.jpg", "question": f"What is {n}?", "answer": [str(n), "a number"]}
        for n in range(4)
    ]
    for name, content in {"a": entries[:2], "b": entries[2:3], "test": {"annotations": entries[3:]}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def build(info: dict[str, Any] | None, where: Path) -> dict[str, MadeUpVQADataset]:
    """By way of a YAML file, merged with the defaults. `FOLDER` in `info` is `where`."""
    section = {
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
    }
    if info is not None:
        section["build_info"] = json.loads(json.dumps(info).replace("FOLDER", str(where)))
    path = where / "config.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"made_up_vqa": section}}))
    datasets = plain(Config(argparse.Namespace(cfg_path=path)).datasets_cfg)
    return build_datasets(datasets)["made_up_vqa"][1]


def test_the_originals_layout_with_splits(folder: Path) -> None:
    """OK-VQA's and COCO's captions' file: `annotations`, a section per split, and `images`."""
    annotations = {
        "train": {"storage": ["FOLDER/a.json", "FOLDER/b.json"]},
        "test": {"storage": "FOLDER/test.json"},
    }
    splits = build({"annotations": annotations, "images": {"storage": "FOLDER/images"}}, folder)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "test": 1}
    (sample,) = splits["test"]
    assert sample.image.shape == (3, SIZE, SIZE)
    assert sample.dialogue == Dialogue.of([("<Img><ImageHere></Img> [vqa] What is 3?", "3")])
    assert (sample.image_id, sample.group, sample.size) == ("3.jpg", "", (SIZE, SIZE))
    assert [splits["train"][n].dialogue.answer for n in range(3)] == ["0", "1", "2"]


@pytest.fixture
def flat_defaults(defaults: Path) -> None:
    """Defaults in the layout of the original's other files (RefCOCO, OCR-VQA, LLaVA)."""
    info = {"image_path": "/path/to/images", "ann_path": "/path/to/a.json"}
    defaults.write_text(yaml.safe_dump({"datasets": {"made_up_vqa": {"build_info": info}}}))


@pytest.mark.usefixtures("flat_defaults")
def test_the_originals_layout_without_splits(folder: Path) -> None:
    """`image_path`, `ann_path`, and the arguments of the data set itself."""
    info = {"image_path": "FOLDER/images", "ann_path": "FOLDER/a.json", "splitBy": "unc"}
    splits = build(info, folder)
    assert splits.keys() == {"train"}
    assert (len(splits["train"]), splits["train"].split_by) == (2, "unc")
    info["ann_path"] = ["FOLDER/a.json", "FOLDER/b.json"]
    assert len(build(info, folder)["train"]) == 3
    info["ann_path"] = {"train": "FOLDER/b.json", "val": "FOLDER/test.json"}
    info["image_path"] = {"train": "FOLDER/images", "val": "FOLDER"}
    splits = build(info, folder)
    assert splits["val"].vis_root == folder and splits["train"].vis_root == folder / "images"


WHERE = "datasets.made_up_vqa.build_info"


@pytest.mark.usefixtures("flat_defaults")
@pytest.mark.parametrize(
    ("info", "message"),
    [
        (
            {"image_path": "FOLDER/images"},
            rf"^{WHERE}\.ann_path is '/path/to/a\.json': please set it",
        ),
        (None, rf"^{WHERE}\.image_path is '/path/to/images': please set it"),
        ({"ann_path": "FOLDER/a.json"}, rf"^{WHERE}\.image_path is '/path/to/images': please set it"),
        ({"ann_path": [], "image_path": "x"}, rf"^{WHERE}\.ann_path is None: please set it"),
        ({"an_path": "x"}, rf"^unknown key {WHERE}\.an_path; did you mean 'ann_path'\? \(known: ann_path,"),
        ({"storage": "FOLDER"}, rf"^unknown key {WHERE}\.storage \(known: .*, splitBy\)"),
        (
            {"images": {"storage": "FOLDER"}},
            rf"^{WHERE} has image_path, ann_path, images, it must have image",
        ),
    ],
)
def test_what_build_info_cannot_say(folder: Path, info, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(info, folder)


def test_placeholders_in_the_other_layout(folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{WHERE}\.annotations\.train\.storage is '/path/to/a\.json'"):
        build({"images": {"storage": "FOLDER/images"}}, folder)
    annotations = {"train": {"storage": "FOLDER/a.json"}}
    with pytest.raises(ConfigError, match=rf"^{WHERE}\.images\.storage is '/path/to/coco/images'"):
        build({"annotations": annotations}, folder)
    with pytest.raises(ConfigError, match=rf"^{WHERE}\.annotations\.train is 'here', it must be a mapping"):
        build({"annotations": {"train": "here"}}, folder)


@pytest.mark.usefixtures("flat_defaults")
def test_what_is_not_there_names_its_key(folder: Path) -> None:
    info = {"image_path": "FOLDER/images", "ann_path": "FOLDER/none.json"}
    with pytest.raises(
        DataError, match=rf"^{WHERE}\.ann_path: the annotation file .*none\.json does not exist"
    ):
        build(info, folder)
    info = {"image_path": "FOLDER/imagse", "ann_path": "FOLDER/a.json"}
    with pytest.raises(DataError, match=rf"^{WHERE}\.image_path: .*imagse .*'images'"):
        build(info, folder)
    info = {"image_path": "FOLDER/none", "ann_path": "FOLDER/a.json"}
    with pytest.raises(DataError, match=rf"^{WHERE}\.image_path: the picture folder .*none does not exist"):
        build(info, folder)


def test_a_class_that_does_not_check_its_names_is_safe(folder: Path) -> None:
    (folder / "secret.jpg").write_bytes(encoded(picture()))
    entry = {"image": "../secret.jpg", "question": "What?", "answer": ["x"]}
    (folder / "a.json").write_text(json.dumps([entry]))
    dataset = MadeUpVQADataset(BaseProcessor(), BaseProcessor(), folder / "images", [folder / "a.json"])
    samples, bad = sorted_out(dataset)
    assert samples == [] and bad == {"image outside its folder": 1}
    with pytest.raises(BadSample):
        dataset.picture("/etc/hosts")
