"""The section `datasets:`: what is refused before anything is opened, and entries that share a builder."""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.datasets.builders import JsonlBuilder, build_datasets
from minigpt4.datasets.builders.base_dataset_builder import check_datasets
from minigpt4.datasets.mixing import TrainStream
from minigpt4.runners.evaluation import check_splits
from minigpt4.runners.settings import RunSettings
from tests.support.golden import golden_model_config
from tests.support.jsonl import write
from tests.support.runs import train
from tests.support.shards import stream

VIS = {"train": {"name": "blip2_image_train", "image_size": 8}}


def entry(**keys: Any) -> dict[str, Any]:
    return {"build_info": {"storage": "x.tar"}, "batch_size": 2, "vis_processor": VIS} | keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 1.5}, "datasets.cc_sbu.batch_size is 1.5, it must be a whole number"),
        ({"batch_size": 0}, "datasets.cc_sbu.batch_size is 0, it must be at least 1"),
        ({"batch_size": "2"}, "datasets.cc_sbu.batch_size is '2', it must be a whole number"),
        ({"batch_size": True}, "datasets.cc_sbu.batch_size is True, it must be a whole number"),
        ({"sample_ratio": -1}, "datasets.cc_sbu.sample_ratio is -1.0, it must be at least 0"),
        ({"sample_ratio": 0}, "datasets.cc_sbu.sample_ratio: all are 0, at least one must be above"),
        ({"data_type": "video"}, "datasets.cc_sbu.data_type is 'video' (known: images, text)"),
        ({"build_info": "x.tar"}, "datasets.cc_sbu.build_info is 'x.tar', it must be a mapping"),
        ({"build_info": {}}, "datasets.cc_sbu.build_info.storage is missing: please set it in the YAML"),
        ({"build_info": {"storage": 3}}, "build_info.storage is 3, it must be text or a list of names or a"),
        (
            {"build_info": {"storage": "x", "caption_key": 1}},
            "build_info.caption_key is 1, it must be text or null",
        ),
        ({"builder": "lion"}, "no builder is called 'lion'; did you mean 'laion'?"),
        ({"bilder": "laion"}, "unknown key datasets.cc_sbu.bilder; did you mean 'builder'?"),
        (
            {"vis_processor": {"train": VIS["train"], "eval": {"name": "blip2_image_eval", "image_size": 0}}},
            "datasets.cc_sbu.vis_processor.eval.image_size is 0, it must be at least 1",
        ),
        (
            {"text_processor": {"train": {"name": "blip_caption", "max_words": "5"}}},
            "datasets.cc_sbu.text_processor.train.max_words is '5', it must be a whole number",
        ),
    ],
)
def test_check_datasets_names_the_key(keys, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_datasets({"cc_sbu": entry(**keys)})


def test_check_datasets_looks_for_no_file() -> None:
    builder = check_datasets({"cc_sbu": entry(sample_ratio=3)})["cc_sbu"]
    assert (builder.batch_size, builder.sample_ratio) == (2, 3.0)
    assert builder.build_info.storage == "x.tar"
    assert builder.vis_processor("test").image_size == 8


def test_a_batch_size_is_needed_to_train_alone() -> None:
    (builder,) = check_datasets({"cc_sbu": {"vis_processor": VIS, "build_info": {"storage": "x"}}}).values()
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 1,
        "iters_per_epoch": 1,
        "init_lr": 1.0,
        "output_dir": "o",
    }
    settings = parse(RunSettings, run, "run")
    with pytest.raises(ConfigError, match=r"^datasets\.cc_sbu\.batch_size is missing"):
        check_splits({"cc_sbu": (builder, {"train": stream([])})}, settings)


def test_check_datasets_imports_no_torch() -> None:
    entries = {"cc_sbu": entry(), "talk": entry(builder="jsonl", build_info={"ann_path": "x"})}
    code = (
        "import sys; from minigpt4.datasets.builders.base_dataset_builder import check_datasets;"
        f"check_datasets({entries});"
        "print([m for m in ('torch', 'transformers', 'timm', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def written(folder: Path, datasets: dict[str, Any], **sections: Any) -> Config:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets, **sections}, sort_keys=False))
    return Config(argparse.Namespace(cfg_path=path, options=[]))


def two_files(folder: Path, size: int = 8) -> dict[str, Any]:
    """The entries `birds` and `fish`, drawn 3 to 1, of one builder."""
    entries = {}
    for name, ratio in {"birds": 3, "fish": 1}.items():
        (folder / name).mkdir()
        lines = [{"image": "a.jpg", "caption": name, "id": f"{name}{n}"} for n in range(4)]
        path = write(folder / name / "train.jsonl", *lines)
        vis = {"train": {"name": "blip2_image_train", "image_size": size}}
        entries[name] = {"builder": "jsonl", "batch_size": 2, "sample_ratio": ratio, "vis_processor": vis}
        entries[name]["build_info"] = {"ann_path": str(path)}
    return entries


def test_one_builder_serves_two_entries_with_its_defaults(tmp_path) -> None:
    cfg = written(tmp_path, {"birds": {"builder": "jsonl"}, "cc_sbu": {"builder": "laion"}})
    assert cfg.datasets_cfg.birds.build_info.ann_path == "/path/to/data.jsonl"
    assert cfg.datasets_cfg.cc_sbu.build_info.storage == "/path/to/laion_dataset/{00000..10488}.tar"
    assert list(cfg.datasets_cfg) == ["birds", "cc_sbu"]


def test_two_entries_of_one_builder_are_drawn_by_their_ratios(tmp_path) -> None:
    """2,000 draws at 3:1; five standard deviations are 97."""
    datasets = build_datasets(plain(written(tmp_path, two_files(tmp_path)).datasets_cfg))
    assert all(type(builder) is JsonlBuilder for builder, _ in datasets.values())
    reading = {"max_bad_fraction": 0.5, "rank": 0, "world_size": 1, "workers": 0, "pin_memory": False}
    stream = TrainStream.of(datasets, ["train"], 0, {"drawn": 0, "loaders": {}}, **reading)
    drawn = Counter(batch.answers[0] for batch in islice(stream, 2000))
    assert abs(drawn["birds"] - 1500) < 97 and drawn.total() == 2000
    assert stream.state()["loaders"].keys() == {"birds.train", "fish.train"}


def test_two_entries_of_one_builder_train(tmp_path) -> None:
    model = golden_model_config(model_type="pretrain_llama2")
    del model["ckpt"]
    run = {"task": "image_text_pretrain", "max_epoch": 1, "iters_per_epoch": 6, "init_lr": 0.01, "seed": 0}
    run |= {"log_freq": 1, "num_workers": 0, "device": "cpu", "output_dir": str(tmp_path / "out")}
    train(written(tmp_path, two_files(tmp_path, size=56), model=model, run=run))
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(line["loss"] > 0 for line in lines)
