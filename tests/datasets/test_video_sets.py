"""MiniGPT4-video's data sets and the benchmarks about videos, in their published files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.datasets.builders.base_dataset_builder import build_datasets
from tests.support.published import pictures
from tests.support.shards import sorted_out
from tests.support.videos import write_video

VIS = {"train": {"name": "blip2_image_train", "image_size": 14}}
VTT = "WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"
FRAME = "<Img><ImageHere>"
ASKED = "Based on the video, respond to this question with a short answer: What?"


def build(name: str, info: dict[str, Any], **more: Any) -> Any:
    section = {
        "vis_processor": VIS,
        "video": {"frames": 3, "sampling": "uniform"},
        "build_info": info,
        **more,
    }
    ((_, splits),) = build_datasets({name: section}).values()
    (dataset,) = splits.values()
    return dataset


def dump(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def turns(sample: Any) -> list[str]:
    return [turn.text for turn in sample.dialogue.turns]


def test_cmd_video(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"images/m1/frame_{number}.jpg" for number in range(4)))
    entries = [{"image_id": name, "caption": "A fight."} for name in ("m1", "none", "../m1")]
    info = {
        "vis_root": str(tmp_path / "images"),
        "ann_paths": [dump(tmp_path / "train.json", entries)],
        "cc_path": dump(tmp_path / "caption.json", {"m1": {"0": "Hi", "4": "stop  now"}}),
    }
    (sample,), bad = sorted_out(build("cmd_video", info))
    frames, request = turns(sample)[0].split("\n")
    assert frames == f"{FRAME}<Cap>Hi{FRAME}<Cap>stop now{FRAME}"
    assert "video" in request and turns(sample)[1] == "A fight."
    assert sample.image.shape == (3, 3, 14, 14)
    assert bad == {"missing video": 1, "video outside its folder": 1}


def test_webvid(tmp_path: Path) -> None:
    (tmp_path / "p1").mkdir()
    write_video(tmp_path / "p1/7.mp4", 9)
    (tmp_path / "7.vtt").write_text(VTT)
    entries = [{"videoid": number, "page_dir": "p1", "name": "Close-up of a cat"} for number in (7, 8)]
    info = {"vis_root": str(tmp_path), "ann_paths": [dump(tmp_path / "train.json", entries)]}
    (sample,), bad = sorted_out(build("webvid", info))
    assert turns(sample)[0].startswith(f"{FRAME * 3}\n") and turns(sample)[1] == "Close-up of a cat"
    assert bad == {"missing video": 1}
    (spoken,), _ = sorted_out(build("webvid", info | {"subtitles_path": str(tmp_path)}))
    assert turns(spoken)[0].startswith(f"{FRAME}<Cap>Hello{FRAME * 2}\n")


def test_subtitles_stay_in_their_folder(tmp_path: Path) -> None:
    """Behind `page_dir`, an absolute name is one below the folder of videos; by itself it is not."""
    video = write_video(tmp_path / "7.mp4", 9)
    inside = tmp_path / "videos/p1" / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    video.rename(inside / "7.mp4")
    (tmp_path / "7.vtt").write_text(VTT)
    (tmp_path / "subtitles").mkdir()
    entries = [{"videoid": str(tmp_path / "7"), "page_dir": "p1", "name": "A cat"}]
    info = {
        "vis_root": str(tmp_path / "videos"),
        "ann_paths": [dump(tmp_path / "train.json", entries)],
        "subtitles_path": str(tmp_path / "subtitles"),
    }
    assert sorted_out(build("webvid", info)) == ([], {"video outside its folder": 1})


def test_stored_entries_follow_all_files_that_they_are_made_of(tmp_path: Path, monkeypatch) -> None:
    """Of large annotation files the entries are stored; they were not read again when the words changed."""
    monkeypatch.setattr("minigpt4.datasets.datasets.annotation_store.IN_MEMORY", 0)
    pictures(tmp_path, "images/m1/frame_0.jpg")
    entries = [{"image_id": "m1", "caption": "A fight."}]
    info = {"vis_root": str(tmp_path / "images"), "ann_paths": [dump(tmp_path / "train.json", entries)]}
    for word in ("Hi", "Bye"):
        info["cc_path"] = dump(tmp_path / "caption.json", {"m1": {"0": word}})
        assert turns(build("cmd_video", info)[0])[0].startswith(f"{FRAME}<Cap>{word}\n")
    dump(tmp_path / "test_q.json", [{"question": "What?", "video_name": "ab", "question_id": "ab_1"}])
    for answer in ("yes", "no"):
        dump(tmp_path / "test_a.json", [{"answer": answer, "type": 3, "question_id": "ab_1"}])
        assert evaluated("activitynet_qa", tmp_path).annotation[0]["answer"] == answer


def test_video_chatgpt(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "subtitles").mkdir()
    write_video(tmp_path / "videos/v_1.webm", 9)
    (tmp_path / "subtitles/v_1.vtt").write_text(VTT)
    entries = [{"video_id": "v_1", "q": "What?", "a": "A cat."}]
    info = {"vis_root": str(tmp_path), "ann_paths": [dump(tmp_path / "train.json", entries)]}
    (sample,) = build("video_chatgpt", info)
    assert turns(sample) == [f"{FRAME}<Cap>Hello{FRAME * 2}\nWhat?", "A cat."]
    (padded,) = build("video_chatgpt", info, video={"frames": 12, "sampling": "minigpt4_video"})
    assert len(padded.image) == 12 and torch.equal(padded.image[8], padded.image[11])


def evaluated(name: str, folder: Path) -> Any:
    info = {"format": name, "eval_file_path": str(folder), "img_path": str(folder)}
    return build(name, info, builder="published")


@pytest.mark.parametrize(("name", "file"), [("msvd_qa", "vid5.avi"), ("msrvtt_qa", "video5.mp4")])
def test_msvd_and_msrvtt_qa(tmp_path: Path, name: str, file: str) -> None:
    write_video(tmp_path / file, 9)
    dump(tmp_path / "test_qa.json", [{"id": 1, "video_id": 5, "question": "What?", "answer": "cat"}])
    (sample,) = evaluated(name, tmp_path)
    assert turns(sample) == [f"{FRAME * 3}\n{ASKED}", "cat"]
    assert (sample.image_id, sample.references) == (file, ("cat",))


def test_tgif_qa(tmp_path: Path) -> None:
    write_video(tmp_path / "tumblr_a.mp4", 9)
    table = "gif_name\tquestion\tanswer\ttype\tvid_id\tdescription\ntumblr_a\tWhat?\tred\t2\tID1\tx\n"
    (tmp_path / "Test_frameqa_question.csv").write_text(table)
    (sample,) = evaluated("tgif_qa", tmp_path)
    assert turns(sample) == [f"{FRAME * 3}\n{ASKED}", "red"] and sample.group == "colour"


def test_activitynet_qa(tmp_path: Path) -> None:
    write_video(tmp_path / "v_ab.mkv", 9)
    dump(tmp_path / "test_q.json", [{"question": "What?", "video_name": "ab", "question_id": "ab_1"}])
    dump(tmp_path / "test_a.json", [{"answer": "yes", "type": 3, "question_id": "ab_1"}])
    (sample,) = evaluated("activitynet_qa", tmp_path)
    assert turns(sample)[1] == "yes" and (sample.image_id, sample.group) == ("v_ab.mkv", "3")
    (tmp_path / "test_a.json").unlink()
    (tmp_path / "test_q.json").write_text("[]")
    with pytest.raises(DataError, match=r"test_a\.json does not exist"):
        evaluated("activitynet_qa", tmp_path)
