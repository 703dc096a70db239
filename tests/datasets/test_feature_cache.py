"""A cache of image tokens goes on where it stopped, and fits nothing but what made it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError, ConfigError, DataError
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.features import writer as feature_cache
from minigpt4.datasets.features.reader import Manifest
from minigpt4.models.minigpt4 import MiniGPT4
from minigpt4.tasks import setup_task
from tests.support import GOLDEN
from tests.support.caching import cache, config, draw_shards, load
from tests.support.golden import golden_model_config
from tests.support.shards import sample, sorted_out, write_shard


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> dict[str, str]:
    return draw_shards(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def pixels(storage, tmp_path_factory) -> Path:
    """The golden model's YAML on pictures."""
    return config(tmp_path_factory.mktemp("golden") / "pixels.yaml", storage, golden_model_config())


@pytest.fixture(scope="module")
def golden_cache(pixels) -> Path:
    """The cache made with it."""
    return cache(pixels, pixels.parent / "cache")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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


def test_going_on_after_a_kill_gives_the_same_bytes(
    pixels, golden_cache, tmp_path, interrupted, monkeypatch
) -> None:
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
    assert bytes_of(out) == bytes_of(golden_cache)
    cache(pixels, out)  # nothing is left to do
    assert bytes_of(out) == bytes_of(golden_cache)


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_write_the_same_bytes(pixels, golden_cache, tmp_path) -> None:
    out = cache(pixels, tmp_path / "cache", "run.num_workers=2", devices=("cpu", "cpu"))
    assert bytes_of(out) == bytes_of(golden_cache)


def other_weights(path: Path, key: str | None = None) -> dict[str, Any]:
    """A copy of golden weights with one number changed."""
    content = torch.load(path, weights_only=True)
    tensors = content if key is None else content[key]
    next(iter(tensors.values())).flatten()[0] += 1
    return content


def setup_and_build(path: Path) -> None:
    cfg = load(path)
    setup_task(cfg).build_datasets(cfg)


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
    with pytest.raises(DataError, match="not one of the samples is good"):
        cache(pixels, tmp_path / "cache")


def test_a_checkpoint_with_a_trained_qformer_does_not_fit_a_cache(golden_cache, tmp_path) -> None:
    torch.save({"model": {"query_tokens": torch.zeros(1, 6, 48)}}, tmp_path / "stage1.pth")
    cfg = load(
        config(tmp_path / "c.yaml", golden_cache, golden_model_config(ckpt=str(tmp_path / "stage1.pth")))
    )
    task = setup_task(cfg)
    with pytest.raises(CheckpointError, match="unexpected key 'query_tokens'"):
        task.build_model(cfg, device="cpu", datasets=task.build_datasets(cfg))


def test_features_are_no_key_of_the_yaml() -> None:
    with pytest.raises(ConfigError, match=r"unknown key model\.features"):
        MiniGPT4.from_config(golden_model_config(features={"count": 6}), device="cpu")


def test_manifests_that_are_none(tmp_path, golden_cache) -> None:
    with pytest.raises(DataError, match="no cache in "):
        Manifest.read(tmp_path / "nowhere", "storage")
    good = json.loads((golden_cache / "manifest.json").read_text())
    part = good["parts"][0]

    def shard(**fields: Any) -> dict[str, Any]:
        return {"parts": [part | {"shards": [part["shards"][0] | fields]}]}

    for content, message in [
        ("{", "is not the manifest"),
        ("[]", "is not the manifest"),
        ({"format": "another"}, "is 'another', this program reads"),
        (shard(file="../x"), "leaves the folder"),
        (shard(file=["x"]), "is not the name of a file"),
        (shard(samples="64"), "samples is '64'"),
        ({"parts": [part | {"split": ["train"]}]}, r"split is \['train'\]"),
        ({"parts": [{"split": "train", "shards": []}]}, "KeyError: 'vis_processor'"),
        ({"parts": {"train": []}}, "TypeError"),
        ({"vision": 1}, "TypeError"),
        *[({"shape": good["shape"] | {"width": n}}, "shape is") for n in (0, 10**9, 48.0, True, "48")],
        ({"shape": {"count": 1}}, "TypeError"),
    ]:
        text = content if isinstance(content, str) else json.dumps(good | content)
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=message):
            Manifest.read(tmp_path, "storage")


def test_a_strangers_cache_runs_no_commands(tmp_path, golden_cache, monkeypatch) -> None:
    """Named from inside its folder, with a shard that is called as a command is."""
    folder = shutil.copytree(golden_cache, tmp_path / "cache")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("pipe:touch PWNED; cat a.tar", "http://127.0.0.1:9/a.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(folder.rglob("00000.tar")), folder / name)
        shards = [{"file": name, "source": "x", "samples": 10, "bad": {}}]
        manifest["parts"] = [part | {"shards": shards} for part in manifest["parts"]]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        monkeypatch.chdir(folder)
        for storage in (".", "manifest.json", "../cache"):
            cfg = load(config(tmp_path / "c.yaml", Path(storage), golden_model_config()))
            (_, splits) = build_datasets(cfg.datasets_cfg)["cached_features"]
            samples, bad = sorted_out(splits["train"])
            assert len(samples) == 6 and not bad
    assert not list(tmp_path.rglob("PWNED"))
