"""Features of videos and pictures that were cached in files: a run from them is the run from pixels."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from minigpt4.common.errors import BadSample, ConfigError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import check_datasets
from minigpt4.datasets.features.files import MAX_BESIDE, MAX_VALUES, FeatureFiles
from minigpt4.models import assembly
from minigpt4.models.vision_tower import VisionTower
from minigpt4.processors.video import VideoReader
from minigpt4.tasks import setup_task
from tests.support.caching import cache, load
from tests.support.golden import golden_model_config
from tests.support.jsonl import write
from tests.support.videos import write_video

WORDS = "WEBVTT\n\n00:00.500 --> 00:01.000\nHello\n"


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> Path:
    """A YAML on four lines about two videos, one with subtitles, and about a picture; one more is broken."""
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("a.avi", 20), ("b.avi", 3)):
        write_video(folder / name, frames)
    Image.new("RGB", (64, 48), "red").save(folder / "c.png")
    (folder / "a.vtt").write_text(WORDS)
    (folder / "d.avi").write_bytes(b"no video")
    lines = [
        {"video": "a.avi", "subtitles": "a.vtt", "question": "what?", "answer": "grey"},
        {"video": "b.avi", "question": "how long?", "answer": "short"},
        {"video": "a.avi", "caption": "it gets lighter"},
        {"image": ["c.png", "c.png"], "question": "<image> and <image>?", "answer": "both red"},
        {"video": "d.avi", "question": "what?", "answer": "nothing"},
    ]
    section = {
        "batch_size": 2,
        "video": {"frames": 4},
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
        "build_info": {"ann_path": {"train": str(write(folder / "train.jsonl", *lines))}},
    }
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 2,
        "iters_per_epoch": 2,
        "init_lr": 0.01,
        "log_freq": 1,
    }
    run |= {"num_workers": 0, "device": "cpu", "output_dir": str(folder / "pixels")}
    model = golden_model_config(max_context_len=512)
    content = {"model": model, "datasets": {"jsonl": section}, "run": run}
    (folder / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def cached(pixels) -> Path:
    return cache(pixels, pixels.parent / "cache")


def losses(cfg) -> list[float]:
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device="cpu", datasets=datasets)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    runner.train()
    lines = (runner.output_dir / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.integration
def test_a_run_from_files_is_the_run_from_pixels(pixels, cached, tmp_path, monkeypatch) -> None:
    """The same order, wordings, words and losses, over two epochs; no video is opened, no encoder built."""
    look = VisionTower.forward
    with monkeypatch.context() as patch:
        patch.setattr(VisionTower, "forward", lambda self, images: look(self, images).bfloat16())
        expected = losses(load(pixels))

    def never(*args, **kwargs) -> None:
        raise AssertionError("it looks again")

    monkeypatch.setattr(assembly, "build_encoder", never)
    monkeypatch.setattr("minigpt4.datasets.datasets.base_dataset.read_frames", never)
    options = [f"datasets.jsonl.features={cached}", f"run.output_dir={tmp_path}"]
    assert losses(load(pixels, *options)) == expected
    assert len(expected) == 4


def test_what_is_written(cached) -> None:
    """A file for each video and picture that can be read, however many lines are about it."""
    manifest = json.loads((cached / "manifest.json").read_text())
    (part,) = manifest["parts"]
    assert part["video"] == {"frames": 4, "sampling": "uniform"}
    assert [(one["samples"], one["bad"]) for one in part["shards"]] == [
        (4, {"not a video of a known kind": 1})
    ]
    shape = (manifest["shape"]["count"], manifest["shape"]["width"])
    assert len(list(cached.rglob("*.safetensors"))) == 3
    files = FeatureFiles(cached / "jsonl/train", shape, VideoReader(frames=4))
    frames = files.frames("a.avi", lambda name: [])
    assert [frame.time for frame in frames] == [0.2, 0.7, 1.2, 1.7]
    assert {(tuple(frame.image.shape), frame.image.dtype) for frame in frames} == {(shape, torch.bfloat16)}
    assert not torch.equal(frames[0].image, frames[3].image)
    assert files.picture("c.png", lambda name: (frames[0].image, (1, 1)))[1] == (48, 64)
    for name, reader in (("d.avi", VideoReader(frames=4)), ("a.avi", VideoReader(frames=5))):
        with pytest.raises(BadSample, match="no features"):
            FeatureFiles(files.folder, shape, reader).frames(name, lambda name: [])
    with pytest.raises(BadSample, match="another shape"):
        FeatureFiles(files.folder, shape[::-1], files.video).frames("a.avi", lambda name: [])


@pytest.mark.parametrize(("shape", "values"), [((2, 3), 6), (None, MAX_VALUES)])
def test_a_file_of_features_is_not_read_if_it_is_larger_than_its_frames_can_be(
    tmp_path, shape, values
) -> None:
    files = FeatureFiles(tmp_path, shape, VideoReader(frames=4))
    for video, images, read in ((True, 4, files.frames), (False, 1, files.picture)):
        path = files.path("a.avi", video=video)
        path.parent.mkdir(exist_ok=True)
        for size, reason in ((0, "broken features"), (1, "features too large")):
            path.touch()
            os.truncate(path, 2 * values * images + MAX_BESIDE + size)
            with pytest.raises(BadSample, match=reason):
                read("a.avi", lambda name: [])


def test_the_command_goes_on_with_what_is_not_finished(pixels, cached, tmp_path, monkeypatch) -> None:
    """What has a file is not looked at again, and the files are the same."""
    out = cache(pixels, tmp_path / "cache")
    before = {path.name: path.read_bytes() for path in out.rglob("*.safetensors")}
    assert before == {path.name: path.read_bytes() for path in cached.rglob("*.safetensors")}
    (out / "jsonl/train/00000000.json").unlink()
    lost = next(iter(out.rglob("*.safetensors")))
    lost.unlink()
    seen: list[int] = []
    look = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, images: seen.append(1) or look(self, images))
    cache(pixels, out)
    assert len(seen) == 1
    assert {path.name: path.read_bytes() for path in out.rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("datasets.jsonl.video.frames=5", "frames"),
        ("datasets.jsonl.vis_processor.train.name=blip2_image_eval", "vis_processor.train"),
        ("model.tokens_per_frame=1", "tokens_per_frame"),
    ],
)
def test_features_of_other_parts_are_refused(pixels, cached, option, message) -> None:
    cfg = load(pixels, f"datasets.jsonl.features={cached}", option)
    with pytest.raises(ConfigError, match=rf"datasets\.jsonl\.features: the cache .*{message}"):
        setup_task(cfg).build_datasets(cfg)


def test_only_data_sets_that_read_from_a_folder_take_features() -> None:
    section = {"features": "x", "build_info": {"storage": "x.tar"}}
    with pytest.raises(ConfigError, match=r"datasets\.cc_sbu\.features"):
        check_datasets({"cc_sbu": section})
