"""Image tokens cached once: what is written, and that training on them is training on pixels."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from minigpt4.common.config import Config
from minigpt4.common.errors import BadSample
from minigpt4.common.registry import registry
from minigpt4.datasets.builders import WebdatasetBuilder, build_datasets
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.datasets.features.reader import (
    CachedFeatureStream,
    Manifest,
    unpack_dialogue,
    unpack_features,
)
from minigpt4.datasets.mixing import TrainStream
from minigpt4.models import assembly
from minigpt4.models.vision_tower import VisionTower
from minigpt4.processors.blip_processors import BlipCaptionProcessor
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch
from minigpt4.tasks import setup_task
from tests.support.caching import cache, config, draw_shards, load
from tests.support.golden import build_golden_model, golden_model_config
from tests.support.shards import JPEG, encoded, picture, sample, sorted_out, stream, write_shard

TINY = {"arch": "minigpt4", "model_type": "tiny_gemma"}


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> dict[str, str]:
    return draw_shards(tmp_path_factory.mktemp("shapes"))


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
    """Texts as they were, groups, features of each good picture; bad ones counted by reason."""
    meta = {"caption": "A Dog!", "group": "animals", "candidates": ["A Dog!", "A Cat!"], "url": "x"}
    good = [
        *sample("a", encoded(picture(1)), None, meta=meta),
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
    cached, skipped = sorted_out(CachedFeatureStream(read.shards("train"), (6, 48), str))
    assert [(s.image_id, s.dialogue.answer, s.group, s.candidates) for s in cached] == [
        ("a", "A Dog!", "animals", ("A Dog!", "A Cat!")),
        ("b", "Ein Kätzchen", "", ()),
        ("f", "a dog", "", ()),
    ]
    assert not skipped
    model = build_golden_model()
    seen, _ = sorted_out(stream([shards[0], shards[2]], size=56))
    for first, last in ((0, 2), (2, 3)):  # batches do not go across shards
        with torch.no_grad():
            tokens = model.image_tokens(torch.stack([s.image for s in seen[first:last]]))
        kept = torch.stack([s.features for s in cached[first:last]])
        assert torch.equal(kept, tokens.bfloat16())


@registry.register_builder("talks")
class TalksBuilder(WebdatasetBuilder):
    """Shards whose JSON holds a conversation."""

    def dialogue(self, raw: RawSample, rng: random.Random) -> Dialogue:
        if not raw.fields["conversation"]:
            raise BadSample("no conversation")
        (question, answer), *more = raw.fields["conversation"]
        return Dialogue.of([(f"<Img><ImageHere></Img> {question}", answer), *more])


def test_a_dialogue_is_cached_whole(tmp_path) -> None:
    """All turns, group and the picture's size: the cache trains what the shards do."""
    talk = {"conversation": [["What?", "A Dog."], ["Where?", "Here."]], "group": "dogs"}
    members = [*sample("a", encoded(picture(1, size=9)), meta=talk), *sample("b", meta={"conversation": []})]
    shards = [write_shard(tmp_path / "0.tar", members)]
    cfg_path = config(tmp_path / "p.yaml", shards, golden_model_config(), builder="talks")
    manifest = Manifest.read(cache(cfg_path, tmp_path / "cache"), "storage")
    (_, splits) = setup_task(load(cfg_path)).build_datasets(load(cfg_path))["cc_sbu"]
    original, bad = sorted_out(splits["train"])
    stream_of_cache = CachedFeatureStream(manifest.shards("train"), (6, 48), BlipCaptionProcessor())
    cached, _ = sorted_out(stream_of_cache)
    assert [(s.dialogue, s.image_id, s.group, s.size) for s in cached] == [
        (s.dialogue, s.image_id, s.group, s.size) for s in original
    ]
    assert len(cached) == 1 and cached[0].size == (9, 9) and cached[0].group == "dogs"
    assert [turn.text for turn in cached[0].dialogue.turns[1:]] == ["A Dog.", "Where?", "Here."]
    assert bad == manifest.parts[0]["shards"][0]["bad"] == {"no conversation": 1}


@pytest.mark.parametrize(
    "turns",
    [
        [],
        "What?",
        [{"role": "user"}],
        [{"role": "cat", "text": "a", "verbatim": False}],
        [{"role": "user", "text": 3, "verbatim": False}],
        [{"role": role, "text": "a", "verbatim": False} for role in ("user", "user")],
        [["user", "a", False]],
    ],
)
def test_a_broken_dialogue_of_a_cache_is_bad(turns) -> None:
    raw = RawSample("a", "0.tar", {"json": json.dumps({"turns": turns}).encode()})
    with pytest.raises(BadSample, match="broken dialogue"):
        unpack_dialogue(raw)


def test_two_caches_are_two_streams_with_ratios(tiny, tmp_path) -> None:
    """400 draws at 3:1; five standard deviations are 44."""
    cfg = load(config(tmp_path / "c.yaml", tiny[1], TINY))
    (section,) = cfg.to_dict()["datasets"].values()
    entries = {
        name: section | {"builder": "cached_features", "sample_ratio": ratio}
        for name, ratio in {"many": 3, "few": 1}.items()
    }
    options = {"max_bad_fraction": 0.5, "rank": 0, "world_size": 1, "workers": 0, "pin_memory": False}
    empty = {"drawn": 0, "loaders": {}}
    drawn = TrainStream.of(build_datasets(entries), ["train"], 0, empty, **options)
    for _ in range(400):
        next(drawn)
    assert abs(drawn.sources["many.train"].given - 300) < 44
    assert drawn.sources["many.train"].given + drawn.sources["few.train"].given == 400


def test_the_loss_of_the_golden_model(golden_model, golden_io) -> None:
    """The recorded loss from tokens, to the bit in float32 and to bfloat16's rounding from the cache."""
    pixels = Batch.from_mapping({"image": golden_io["image"], "answer": golden_io["captions"]})
    with torch.no_grad():
        expected = golden_model(pixels)["loss"]
        tokens = golden_model.image_tokens(golden_io["image"])
        assert torch.equal(golden_model(replace(pixels, images=tokens))["loss"], expected)
        rounded = golden_model(replace(pixels, images=tokens.bfloat16()))["loss"]
    assert 0 < abs(rounded - expected) < 2**-8 * expected


@pytest.mark.integration
def test_a_run_from_the_cache_is_the_run_from_pixels(tiny, on_cache, monkeypatch) -> None:
    """Same batches, losses, metrics and checkpoint; the encoder is not even built."""
    look = VisionTower.forward
    with monkeypatch.context() as patch:
        # As the cache stores them; on a CPU without bf16 the encoder computes in float32.
        patch.setattr(VisionTower, "forward", lambda self, images: look(self, images).bfloat16())
        from_pixels, pixels_runner = train(load(tiny[0]))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a run on cached features looks for its encoder")

    monkeypatch.setattr(assembly, "build_encoder", never)
    monkeypatch.setattr(assembly, "build_qformer", never)
    from_cache, runner = train(load(on_cache))
    assert runner.bare_model.parameter_summary().keys() == {"llama_model", "llama_proj"}

    def log(runner: Any) -> list[float]:
        lines = (runner.output_dir / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert log(runner) == log(pixels_runner)
    for when in (lambda report: report, lambda report: report["before"]):
        assert when(from_cache)["loss"] == pytest.approx(when(from_pixels)["loss"], abs=1e-3)
    assert from_cache["samples"] == 6 and "exact_match_one_object" in from_cache

    paths = [r.output_dir / "checkpoint_latest.pth" for r in (pixels_runner, runner)]
    one, other = (torch.load(path, weights_only=True) for path in paths)
    assert one["meta"] == other["meta"] and one["meta"]["vit_width"] == 128
    assert one["model"].keys() == other["model"].keys()
    for key, value in one["model"].items():
        torch.testing.assert_close(other["model"][key], value, rtol=0, atol=0)


@pytest.mark.integration
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
    said = model.generate(torch.stack([s.image for s in pictures[:4]]), ["<Img><ImageHere></Img>"] * 4)
    features = torch.stack([s.features for s in cached[:4]])
    assert runner.bare_model.generate(features, ["<Img><ImageHere></Img>"] * 4) == said
    with pytest.raises(ValueError, match="no encoder"):
        runner.bare_model.encode_img(pictures[0].image[None])


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
    pictures = Batch.of(sorted_out(task.build_datasets(load(pixels))["cc_sbu"][1]["test"])[0])
    cached = Batch.of(sorted_out(datasets["cached_features"][1]["test"])[0])
    with torch.no_grad():
        expected = looking(pictures)["loss"]
        torch.testing.assert_close(reading(cached)["loss"], expected, rtol=2**-8, atol=0)


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


def test_captions_go_through_the_processor(tiny) -> None:
    manifest = Manifest.read(tiny[1] / "manifest.json", "storage")
    shape = (manifest.shape.count, manifest.shape.width)
    items = CachedFeatureStream(manifest.shards("test"), shape, BlipCaptionProcessor(max_words=2))
    samples, bad = sorted_out(items)
    assert len(samples) == 6 and not bad
    assert all(len(s.dialogue.answer.split()) == 2 for s in samples)
    assert all(s.features.shape == (8, 128) for s in samples)
