"""Image tokens cached once: what is written, that training on them is training on pixels, what is refused."""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save

from dataset.cache_features import cache_features
from dataset.shapes.make_shards import write_split
from minigpt4.common.config import Config
from minigpt4.common.device import has_fast_bf16
from minigpt4.common.errors import CheckpointError, ConfigError, DataError
from minigpt4.common.registry import registry
from minigpt4.datasets import feature_cache
from minigpt4.datasets.collate import collate
from minigpt4.datasets.datasets.base_dataset import BadSample
from minigpt4.datasets.datasets.cached_features import CachedFeatureStream, Manifest, unpack_features
from minigpt4.models import image_tokens
from minigpt4.processors.blip_processors import BlipCaptionProcessor
from minigpt4.tasks import setup_task
from minigpt4.tasks.image_text_pretrain import deal_to_wrong_captions
from tests.conftest import GOLDEN, build_golden_model, golden_model_config
from tests.shards import JPEG, encoded, picture, sample, sorted_out, stream, write_shard

TINY = {"arch": "minigpt4", "model_type": "tiny_gemma"}
EXACT = has_fast_bf16(torch.device("cpu"))  # else the encoder computes in float32, and the cache rounds
ROUNDING = 0 if EXACT else 2e-2


def config(path: Path, storage: Any, model: dict[str, Any], size: int = 56, **datasets: Any) -> Path:
    """A YAML of a run on shards of pictures, or, where `storage` is a cache, on that."""
    name = "cached_features" if isinstance(storage, Path) else "cc_sbu"
    section = {
        "batch_size": 4,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": size}},
        "text_processor": {"train": {"name": "blip_caption"}},
        "build_info": {"storage": str(storage) if isinstance(storage, Path) else storage},
    }
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 2,
        "iters_per_epoch": 4,
        "init_lr": 0.01,
        "log_freq": 1,
        "num_workers": 0,
        "device": "cpu",
        "output_dir": str(path.with_suffix("")),
        "test_splits": ["test"],
    }
    content = {"model": model, "datasets": {name: section | datasets}, "run": run}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def load(path: Path, *options: str) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=list(options)))


def cache(cfg_path: Path, out: Path, *options: str, devices: tuple[str, ...] = ("cpu",)) -> Path:
    cache_features(argparse.Namespace(cfg_path=cfg_path, options=list(options), out=out, devices=devices))
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> dict[str, Any]:
    """Three shards of drawn shapes to train on, one to test on."""
    folder = tmp_path_factory.mktemp("shapes")
    write_split(folder / "train", "train", 30, seed=0, samples_per_shard=10)
    write_split(folder / "test", "test", 6, seed=0, samples_per_shard=6)
    return {"train": f"{folder}/train/{{00000..00002}}.tar", "test": f"{folder}/test/00000.tar"}


@pytest.fixture(scope="module")
def tiny(storage, tmp_path_factory) -> tuple[Path, Path]:
    """The tiny model's YAML on pictures, and the cache made with it."""
    folder = tmp_path_factory.mktemp("tiny")
    pixels = config(folder / "pixels.yaml", storage, TINY)
    return pixels, cache(pixels, folder / "cache")


@pytest.fixture
def on_cache(tiny, tmp_path) -> Path:
    return config(tmp_path / "cached.yaml", tiny[1], TINY)


def train(cfg: Config) -> tuple[dict[str, Any], Any]:
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device="cpu", datasets=datasets)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    return runner.train(), runner


def test_what_is_written(tmp_path) -> None:
    """Captions as they were, groups, features of each good picture; bad ones counted by reason."""
    good = [
        *sample("a", encoded(picture(1)), None, meta={"caption": "A Dog!", "group": "animals", "url": "x"}),
        *sample("b", encoded(picture(2)), "Ein Kätzchen"),
    ]
    bad = [*sample("c", JPEG[:99]), *sample("d", caption=None), *sample("e", None)]
    shards = [
        write_shard(tmp_path / "0.tar", good + bad),
        str(tmp_path / "missing.tar"),
        write_shard(tmp_path / "1.tar", sample("f", encoded(picture(3)))),
    ]
    out = cache(config(tmp_path / "p.yaml", shards, golden_model_config()), tmp_path / "cache")
    manifest = json.loads((out / "manifest.json").read_text())
    (part,) = manifest["parts"]
    assert [(s["file"], s["source"], s["samples"], s["bad"]) for s in part["shards"]] == [
        ("cc_sbu/train/00000.tar", shards[0], 2, {"broken image": 1, "no caption": 1, "no image": 1}),
        ("cc_sbu/train/00001.tar", shards[1], 0, {"missing shard": 1}),
        ("cc_sbu/train/00002.tar", shards[2], 1, {}),
    ]
    assert (manifest["samples"], manifest["complete"]) == (3, True)
    assert manifest["shape"] == {"count": 6, "width": 48, "vit_width": 64}

    read = Manifest.read(out, "storage")
    cached, skipped = sorted_out(
        CachedFeatureStream(read.shards("train"), (6, 48), lambda text: text, training=False)
    )
    assert [(s["image_id"], s["answer"], s["group"]) for s in cached] == [
        ("a", "A Dog!", "animals"),
        ("b", "Ein Kätzchen", ""),
        ("f", "a dog", ""),
    ]
    assert not skipped
    model = build_golden_model()
    seen, _ = sorted_out(stream([shards[0], shards[2]], size=56))
    for first, last in ((0, 2), (2, 3)):  # batches do not go across shards
        with torch.no_grad():
            tokens = model.image_tokens(torch.stack([s["image"] for s in seen[first:last]]))
        kept = torch.stack([s["image_features"] for s in cached[first:last]])
        assert torch.equal(kept, tokens.bfloat16())


def test_the_loss_of_the_golden_model(golden_model, golden_io) -> None:
    """The recorded loss from tokens, to the bit in float32 and to bfloat16's rounding from the cache."""
    answers = {"answer": golden_io["captions"]}
    with torch.no_grad():
        expected = golden_model({"image": golden_io["image"]} | answers)["loss"]
        tokens = golden_model.image_tokens(golden_io["image"])
        assert torch.equal(golden_model({"image_features": tokens} | answers)["loss"], expected)
        rounded = golden_model({"image_features": tokens.bfloat16()} | answers)["loss"]
        assert 0 < abs(rounded - expected) < 2**-8 * expected
        assert torch.equal(
            golden_model({"image_features": tokens[:, None]} | answers)["loss"], expected
        )  # one image a sample, as several are given


def test_a_run_from_the_cache_is_the_run_from_pixels(tiny, on_cache, monkeypatch) -> None:
    """Same batches, losses, metrics and checkpoint; the encoder is not even built."""
    from_pixels, pixels_runner = train(load(tiny[0]))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a run on cached features looks for its encoder")

    monkeypatch.setattr(image_tokens, "build_vision_encoder", never)
    monkeypatch.setattr(image_tokens, "build_qformer", never)
    from_cache, runner = train(load(on_cache))
    assert {name for name, _ in runner.bare_model.named_children()} == {"llama_model", "llama_proj"}

    def log(runner: Any) -> list[float]:
        lines = (runner.output_dir / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert log(runner) == pytest.approx(log(pixels_runner), rel=0, abs=ROUNDING)
    for when in (lambda report: report, lambda report: report["before"]):
        assert when(from_cache)["loss"] == pytest.approx(when(from_pixels)["loss"], abs=max(ROUNDING, 1e-3))
    assert from_cache["samples"] == 6 and "exact_match_one_object" in from_cache

    paths = [r.output_dir / "checkpoint_latest.pth" for r in (pixels_runner, runner)]
    one, other = (torch.load(path, weights_only=True) for path in paths)
    assert one["meta"] == other["meta"] and one["meta"]["vit_width"] == 128
    assert one["model"].keys() == other["model"].keys()
    for key, value in one["model"].items():
        torch.testing.assert_close(other["model"][key], value, rtol=0, atol=ROUNDING)


def test_chat_with_what_was_trained_on_a_cache(on_cache, tiny) -> None:
    """The checkpoint fits the whole model, which sees pictures again and captions alike."""
    _, runner = train(load(on_cache))
    cfg = load(tiny[0], f"model.ckpt={runner.output_dir / 'checkpoint_latest.pth'}")
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cpu")
    assert torch.equal(model.llama_proj.weight, runner.bare_model.llama_proj.weight)
    (_, splits) = task.build_datasets(cfg)["cc_sbu"]
    pictures, _ = sorted_out(splits["test"])
    (_, splits) = task.build_datasets(load(on_cache))["cached_features"]
    cached, _ = sorted_out(splits["test"])
    # In batches of four, as the cache was made.
    said = model.generate(torch.stack([s["image"] for s in pictures[:4]]), ["<Img><ImageHere></Img>"] * 4)
    features = torch.stack([s["image_features"] for s in cached[:4]])
    assert runner.bare_model.generate(features, ["<Img><ImageHere></Img>"] * 4) == said
    with pytest.raises(ValueError, match="no encoder"):
        runner.bare_model.encode_img(pictures[0]["image"][None])


def test_without_qformer(storage, tmp_path) -> None:
    """The joined patch tokens are kept: 16 patches, four in a row, 64 wide."""
    model = golden_model_config(has_qformer=False, model_type="pretrain_llama2")
    del model["ckpt"]
    pixels = config(tmp_path / "p.yaml", storage, model)
    out = cache(pixels, tmp_path / "cache")
    cfg = load(config(tmp_path / "c.yaml", out, model))
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    assert json.loads((out / "manifest.json").read_text())["shape"] == {
        "count": 4,
        "width": 256,
        "vit_width": 64,
    }
    looking = task.build_model(load(pixels), device="cpu")
    reading = task.build_model(cfg, device="cpu", datasets=datasets)
    assert torch.equal(looking.llama_proj.weight, reading.llama_proj.weight)
    pictures = collate(sorted_out(task.build_datasets(load(pixels))["cc_sbu"][1]["test"])[0])
    cached = collate(sorted_out(datasets["cached_features"][1]["test"])[0])
    with torch.no_grad():
        expected = looking(pictures)["loss"]
        torch.testing.assert_close(reading(cached)["loss"], expected, rtol=2**-8, atol=0)


@pytest.fixture
def interrupted(monkeypatch) -> Iterator[None]:
    """The command dies when its second shard is to be finished."""
    finish, count = feature_cache.ShardWriter.finish, []

    def dying(self: feature_cache.ShardWriter, *args: Any) -> None:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        finish(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache.ShardWriter, "finish", dying)
        yield


def test_going_on_after_a_kill_gives_the_same_bytes(tiny, tmp_path, interrupted, monkeypatch) -> None:
    pixels, whole = tiny
    out = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        cache(pixels, out)
    tars = [p.name for p in sorted((out / "cc_sbu" / "train").iterdir())]
    assert tars == [".00001.tar.part", "00000.json", "00000.tar"]
    with pytest.raises(DataError, match="not finished"):
        Manifest.read(out, "storage")
    first = os.stat(out / "cc_sbu" / "train" / "00000.tar").st_mtime_ns
    monkeypatch.undo()
    cache(pixels, out)
    assert os.stat(out / "cc_sbu" / "train" / "00000.tar").st_mtime_ns == first
    assert bytes_of(out) == bytes_of(whole)
    cache(pixels, out)  # nothing is left to do
    assert bytes_of(out) == bytes_of(whole)


def test_two_processes_write_the_same_bytes(tiny, tmp_path) -> None:
    out = cache(tiny[0], tmp_path / "cache", "run.num_workers=2", devices=("cpu", "cpu"))
    assert bytes_of(out) == bytes_of(tiny[1])


def other_weights(path: Path, key: str | None = None) -> str:
    """A copy of golden weights with one number changed."""
    content = torch.load(path, weights_only=True)
    tensors = content if key is None else content[key]
    next(iter(tensors.values())).flatten()[0] += 1
    return content


@pytest.fixture(scope="module")
def golden_cache(storage, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    return cache(config(folder / "p.yaml", storage, golden_model_config()), folder / "cache")


def test_a_cache_of_other_parts_is_refused(golden_cache, storage, tmp_path) -> None:
    """By training and by the command that would go on with it; both are named."""
    model = golden_model_config()
    torch.save(other_weights(GOLDEN / "eva_vit.pth"), tmp_path / "other_vit.pth")
    torch.save(other_weights(GOLDEN / "blip2_qformer.pth", "model"), tmp_path / "other_qformer.pth")
    changes = [
        ({"vit_weights": str(tmp_path / "other_vit.pth")}, ".*eva_vit.pth.*other_vit.pth"),
        ({"q_former_model": str(tmp_path / "other_qformer.pth")}, ".*blip2_qformer.pth.*other_qformer.pth"),
        ({"has_qformer": False}, "has_qformer True, the config says False"),
        ({"num_query_token": 5}, "num_query_token 6, the config says 5"),
    ]
    for change, named in changes:
        with pytest.raises(ConfigError, match=f"was made with model.{named}"):
            setup_and_build(config(tmp_path / "c.yaml", golden_cache, model | change))
        with pytest.raises(ConfigError, match=f"was made with model.{named}.*another --out"):
            cache(config(tmp_path / "p.yaml", storage, model | change), golden_cache)
    with pytest.raises(ConfigError, match="image_size 56, the config says 84"):
        setup_and_build(config(tmp_path / "c.yaml", golden_cache, model | {"image_size": 84}, size=84))
    processor = {"train": {"name": "blip2_image_train", "image_size": 56, "mean": [0.5, 0.5, 0.5]}}
    with pytest.raises(ConfigError, match=r"'mean': None.*'mean': \[0.5, 0.5, 0.5\]"):
        setup_and_build(config(tmp_path / "c.yaml", golden_cache, model, vis_processor=processor))
    # The same weights elsewhere are the same.
    shutil.copy(GOLDEN / "eva_vit.pth", tmp_path / "copy.pth")
    setup_and_build(
        config(tmp_path / "c.yaml", golden_cache, model | {"vit_weights": str(tmp_path / "copy.pth")})
    )


def setup_and_build(path: Path) -> None:
    cfg = load(path)
    setup_task(cfg).build_datasets(cfg)


def test_weights_that_are_not_on_this_disk_go_by_their_name(golden_cache, tmp_path) -> None:
    manifest = json.loads((golden_cache / "manifest.json").read_text())
    url = "https://example.org/eva.pth"
    manifest["vision"]["vit_weights"]["source"] = url
    shutil.copytree(golden_cache, tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").write_text(json.dumps(manifest))
    model = golden_model_config()
    setup_and_build(config(tmp_path / "c.yaml", tmp_path / "cache", model | {"vit_weights": url}))
    other = config(
        tmp_path / "o.yaml", tmp_path / "cache", model | {"vit_weights": "https://example.org/o.pth"}
    )
    with pytest.raises(ConfigError, match=r"example\.org/eva\.pth.*example\.org/o\.pth"):
        setup_and_build(other)


def test_what_cannot_be_cached(storage, tmp_path) -> None:
    trained = golden_model_config(freeze_qformer=False)
    with pytest.raises(ConfigError, match="freeze_qformer is False"):
        cache(config(tmp_path / "p.yaml", storage, trained), tmp_path / "cache")
    torch.save({"model": {"Qformer.bert.encoder.layer.0.x": torch.zeros(1)}}, tmp_path / "stage1.pth")
    changed = golden_model_config(ckpt=str(tmp_path / "stage1.pth"))
    with pytest.raises(ConfigError, match=r"stage1\.pth holds Qformer\.bert"):
        cache(config(tmp_path / "p.yaml", storage, changed), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    broken = write_shard(tmp_path / "0.tar", sample("a", b"none"))
    pixels = config(tmp_path / "p.yaml", broken, golden_model_config())
    with pytest.raises(DataError, match="not one of the pictures is good"):
        cache(pixels, tmp_path / "cache")


def test_a_checkpoint_with_a_trained_qformer_does_not_fit_a_cache(golden_cache, tmp_path) -> None:
    torch.save({"model": {"query_tokens": torch.zeros(1, 6, 48)}}, tmp_path / "stage1.pth")
    cfg = load(
        config(tmp_path / "c.yaml", golden_cache, golden_model_config(ckpt=str(tmp_path / "stage1.pth")))
    )
    task = setup_task(cfg)
    with pytest.raises(CheckpointError, match="unexpected key 'query_tokens'"):
        task.build_model(cfg, device="cpu", datasets=task.build_datasets(cfg))


def test_manifests_that_are_none(tmp_path, golden_cache) -> None:
    with pytest.raises(DataError, match="there is no cache"):
        Manifest.read(tmp_path / "nowhere", "storage")
    good = json.loads((golden_cache / "manifest.json").read_text())
    for content, message in [
        ("{", "no manifest"),
        ("[]", "no manifest"),
        (json.dumps(good | {"format": "another"}), "is 'another', this program reads"),
        (
            json.dumps(good | {"parts": [{"split": "train", "shards": [{"file": "../x"}]}]}),
            "leaves the folder",
        ),
    ]:
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=message):
            Manifest.read(tmp_path, "storage")


def test_features_that_are_none() -> None:
    right = torch.arange(12.0).view(3, 4).bfloat16()
    assert torch.equal(unpack_features(save({"image_features": right}), (3, 4)), right)
    for data, reason in [
        (None, "no features"),
        (b"\x80\x04.", "broken features"),
        (save({"image_features": right})[:-1], "broken features"),
        (save({"other": right}), "broken features"),
        (save({"image_features": right.float()}), "features of another shape"),
        (save({"image_features": right.T.contiguous()}), "features of another shape"),
    ]:
        with pytest.raises(BadSample, match=reason):
            unpack_features(data, (3, 4))


def test_features_dealt_to_wrong_captions() -> None:
    samples = {"image_features": torch.arange(3.0).view(3, 1, 1), "answer": ["a", "a", "b"]}
    dealt = deal_to_wrong_captions(samples)
    assert dealt["answer"] == ["a", "a", "b"]
    assert dealt["image_features"].flatten().tolist() == [2.0, 2.0, 0.0]
    assert "image" not in dealt


def test_captions_go_through_the_processor(tiny) -> None:
    manifest = Manifest.read(tiny[1] / "manifest.json", "storage")
    shape = (manifest.shape.count, manifest.shape.width)
    items = CachedFeatureStream(
        manifest.shards("test"), shape, BlipCaptionProcessor(max_words=2), training=False
    )
    samples, bad = sorted_out(items)
    assert len(samples) == 6 and not bad
    assert all(len(s["answer"].split()) == 2 for s in samples)
    assert all(s["image_features"].shape == (8, 128) for s in samples)
