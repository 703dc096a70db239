"""A builder and a data set in the manner of the original's forks."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.stream import Reading
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.tasks import setup_task
from tests.support.golden import golden_model_config
from tests.support.runs import load, train

QUESTIONS = [f"<Img><ImageHere></Img> question {number}" for number in range(9)]


class Birds(torch.utils.data.Dataset):
    """What the original's VQA data sets return."""

    def __init__(self, vis_processor: Any, text_processor: Any, vis_root: str, ann_path: str) -> None:
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.vis_root, self.ann_path = vis_root, ann_path

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.vis_processor(Image.new("RGB", (60, 40), (index * 20, 0, 0))),
            "instruction_input": random.choice(QUESTIONS),
            "answer": self.text_processor(f"Bird {index}."),
            "image_id": index,
        }


class Talks(Birds):
    """What its conversations return."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.vis_processor(Image.new("RGB", (60, 40)))
        return {
            "image": image,
            "conv_q": "<Img><ImageHere></Img> what?!@#how many?",
            "conv_a": "a bird!@#two",
            "image_id": index,
            "connect_sym": "!@#",
        }


class Shards(torch.utils.data.IterableDataset):
    def __init__(self, **_: Any) -> None: ...

    def __iter__(self) -> Any: ...


class OutsideBuilder(BaseDatasetBuilder):
    train_dataset_cls: Any = Birds

    def build_datasets(self) -> dict[str, Any]:
        self.build_processors()
        build_info = self.config.build_info
        datasets = {}
        datasets["train"] = self.train_dataset_cls(
            vis_processor=self.vis_processors["train"],
            text_processor=self.text_processors["train"],
            ann_path=build_info.ann_path,
            vis_root=build_info.image_path,
        )
        return datasets


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """The config of a run on an outside builder's data; the builder's own YAML says where they are."""
    defaults = {"data_type": "images", "build_info": {"image_path": "pictures", "ann_path": "a.json"}}
    (tmp_path / "birds.yaml").write_text(yaml.safe_dump({"datasets": {"birds": defaults}}))

    def make(dataset: type, name: str) -> Any:
        where = {"default": str(tmp_path / "birds.yaml")}
        builder = type(name, (OutsideBuilder,), {"train_dataset_cls": dataset, "DATASET_CONFIG_DICT": where})
        setattr(sys.modules[__name__], name, builder)
        registry.register_builder(name)(builder)
        section = {
            "batch_size": 2,
            "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
            "text_processor": {"train": {"name": "blip_caption"}},
            "sample_ratio": 10,
        }
        run = {"task": "image_text_pretrain", "init_lr": 0.01, "max_epoch": 1, "iters_per_epoch": 2}
        run |= {"num_workers": 0, "device": "cpu", "amp": False, "output_dir": str(tmp_path / "run")}
        model = golden_model_config(llm_sanity_check=False)
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({"model": model, "datasets": {name: section}, "run": run}))
        return load(path)

    yield make
    for name in [name for name in registry.tables["builder"].classes if name.startswith("outside_")]:
        del registry.tables["builder"].classes[name]


def built(cfg: Any) -> Any:
    ((_, splits),) = setup_task(cfg).build_datasets(cfg).values()
    return splits["train"]


def test_samples_are_those_of_the_outside_data_set(config) -> None:
    dataset = built(config(Birds, "outside_birds"))
    assert dataset.outside.vis_root == "pictures" and dataset.outside.ann_path == "a.json"
    (batch, *_) = BatchStream(dataset, 3)
    assert batch.answers == ["bird 0", "bird 1", "bird 2"] and batch.image_ids == ["0", "1", "2"]
    expected = dataset.outside.vis_processor(Image.new("RGB", (60, 40), (20, 0, 0)))
    assert torch.equal(batch.images[1], expected)
    assert all(dialogue.turns[0].verbatim for dialogue in batch.dialogues)
    assert all(dialogue.turns[0].text in QUESTIONS for dialogue in batch.dialogues)


def test_what_it_draws_repeats_with_the_seed(config) -> None:
    dataset = built(config(Birds, "outside_birds"))

    def questions(seed: int) -> list[str]:
        reading = dataset.read(Reading(training=True, seed=seed))
        return [next(reading)[0].dialogue.turns[0].text for _ in range(16)]

    random.seed(1)
    state, first = random.getstate(), questions(0)
    assert random.getstate() == state
    random.seed(2)
    assert questions(0) == first != questions(1)
    assert len(set(first)) > 3


def test_conversations(config) -> None:
    sample = built(config(Talks, "outside_talks"))[5]
    turns = [("<Img><ImageHere></Img> what?", "a bird"), ("how many?", "two")]
    assert sample.dialogue == Dialogue.of(turns) and sample.image_id == "5"


def test_trains(config) -> None:
    report, _ = train(config(Birds, "outside_birds"))
    assert report["steps"] == 2


def test_a_builder_that_builds_nothing_is_refused(config) -> None:
    cfg = config(Birds, "outside_birds")
    registry.get_builder_class("outside_birds").build_datasets = BaseDatasetBuilder.build_datasets
    with pytest.raises(ConfigError, match=r"datasets\.outside_birds: outside_birds has no build_datasets"):
        built(cfg)


def test_a_data_set_without_items_is_refused(config) -> None:
    with pytest.raises(
        ConfigError, match=r"datasets\.outside_shards: .*'train' is a Shards.*docs/porting\.md"
    ):
        built(config(Shards, "outside_shards"))
