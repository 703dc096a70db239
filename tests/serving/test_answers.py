"""Many questions: what sources hold, the file of answers, and how it is resumed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel, GenerationSettings
from minigpt4.serving.answers import AnswerFile, answer, merge
from minigpt4.serving.inputs import read_inputs
from minigpt4.serving.videos import VideoFile
from tests.support.golden import build_golden_model
from tests.support.shards import encoded, picture, sample, write_shard
from tests.support.videos import write_video

GREEDY = GenerationSettings(temperature=0, max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return ChatModel(build_golden_model(end_sym="</s>").eval(), Blip2ImageEvalProcessor(56))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in two folders, and a file that is none."""
    for name, seed in (("b.png", 1), ("a.JPG", 2), ("sub/c.webp", 3)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size=16).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("none")
    return tmp_path / "photos"


def lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in objects))
    return path


def test_read_inputs_of_a_folder_are_sorted_and_named_below_it(folder) -> None:
    inputs = list(read_inputs([str(folder), str(folder / "b.png")], "what?"))
    assert [one.id for one in inputs] == ["a.JPG", "b.png", "sub/c.webp", "b.png"]
    assert list(inputs[0].content) == [folder / "a.JPG", "what?"]
    assert list(next(read_inputs([str(folder)])).content) == [folder / "a.JPG"]


def test_read_inputs_of_lines(folder) -> None:
    path = lines(
        folder / "q.jsonl",
        {"id": 7, "question": "what is it?", "image": "b.png"},
        {"question_id": "x", "text": "from <image> to <image>?", "images": ["a.JPG", "b.png"]},
        {"question": "no picture"},
        {"image": "sub/c.webp"},
        "",
        "no json",
        "[1]",
        {"id": "out", "question": "?", "image": "../secret.png"},
        {"id": "pipe", "question": "?", "image": "/etc/passwd"},
        {"id": "two", "question": "<image> <image>", "image": "b.png"},
        {"id": "odd", "question": ["?"]},
    )
    inputs = list(read_inputs([str(path)], "default?"))
    assert [one.id for one in inputs] == [
        *("7", "x", "q.jsonl:3", "q.jsonl:4", "q.jsonl:6", "q.jsonl:7", "out", "pipe", "two", "odd")
    ]
    assert [list(one.content) for one in inputs[:4]] == [
        [folder / "b.png", "what is it?"],
        ["from", folder / "a.JPG", "to", folder / "b.png", "?"],
        ["no picture"],
        [folder / "sub/c.webp", "default?"],
    ]
    assert [one.error is None for one in inputs] == [True] * 4 + [False] * 6


def test_read_inputs_of_videos(model, folder) -> None:
    """The same question as one about the video; a broken one does not affect the others."""
    for name in ("v.mkv", "w.avi"):
        write_video(folder / name, 2)
    (folder / "v.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")
    path = lines(
        folder / "q.jsonl",
        {"id": "said", "video": "v.mkv", "subtitles": "v.vtt", "question": "what?"},
        {"id": "marked", "video": "w.avi", "question": "in <video>, what?"},
        {"id": "out", "video": "../w.avi", "question": "?"},
        {"id": "both", "video": "w.avi", "image": "b.png", "question": "?"},
        {"id": "list", "video": ["w.avi"], "question": "?"},
        {"id": "twice", "video": "w.avi", "question": "<video> <video>"},
        {"id": "none", "video": "no.avi", "question": "?"},
    )
    inputs = list(read_inputs([str(path), str(folder)], "look"))
    assert [(one.id, bool(one.error)) for one in inputs[:6]] == [
        *(("said", False), ("marked", False), ("out", True), ("both", True), ("list", True), ("twice", True))
    ]
    assert [one.id for one in inputs[7:]] == ["a.JPG", "b.png", "v.mkv", "w.avi", "sub/c.webp"]
    assert list(inputs[9].content) == [VideoFile(folder / "v.mkv"), "look"]
    records = [record for batch in answer(model, enumerate(inputs), 4, GREEDY) for record in batch]
    assert ["error" in record for record in records] == [False] * 2 + [True] * 5 + [False] * 5
    asked = VideoFile(folder / "v.mkv", folder / "v.vtt")
    assert records[0]["answer"] == model.chat("what?", videos=asked, temperature=0, max_new_tokens=6)
    assert records[0]["images"] == ["v.mkv"]
    content = ["in", VideoFile(folder / "w.avi"), ", what?"]
    assert records[1]["answer"] == model.chat(content, temperature=0, max_new_tokens=6)


def test_read_inputs_of_shards(tmp_path) -> None:
    for number in range(2):
        members = [*sample(f"{number}0"), *sample(f"{number}1", b"broken")]
        write_shard(tmp_path / f"{number}.tar", members)
    for source in (str(tmp_path), str(tmp_path / "{0..1}.tar")):
        inputs = list(read_inputs([source], "?"))
        assert [(one.id, one.error) for one in inputs] == [
            *(("00", None), ("01", "broken image"), ("10", None), ("11", "broken image"))
        ]
        assert inputs[0].content[0].shape == (8, 8, 3)


@pytest.mark.parametrize("name", ["nothing", "nothing.jsonl", "nothing.png", "file.txt", "empty"])
def test_read_inputs_refuses_at_once_what_is_not_there(tmp_path, name) -> None:
    (tmp_path / "file.txt").write_text("?")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        read_inputs([str(tmp_path / name)])


def test_answer_keeps_order_and_counts_what_cannot_be_asked(model, folder) -> None:
    (folder / "ab.png").write_bytes(b"no picture")
    path = lines(folder / "q.jsonl", {"question": "hi"}, {"question": " "}, {"question": "word " * 9999})
    inputs = enumerate(read_inputs([str(folder), str(path)], "what is this?"))
    batches = list(answer(model, inputs, 4, GREEDY))
    assert [len(batch) for batch in batches] == [4, 3]
    records = [record for batch in batches for record in batch]
    assert [record["index"] for record in records] == list(range(7))
    bad = {1: "ab.png", 5: "q.jsonl:2", 6: "q.jsonl:3"}
    assert {place: one["id"] for place, one in enumerate(records) if "error" in one} == bad
    for record in records:
        if "error" not in record:
            images = [Image.open(folder / name) for name in record["images"]]
            assert record["answer"] == model.chat(record["question"], images, **vars(GREEDY))
            assert record["tokens"] <= 6 and record["finish_reason"] in ("stop", "length")


def test_answer_file_resumes_after_a_cut_line(tmp_path) -> None:
    path, made = tmp_path / "a.jsonl", {"ask": "what?", "input": ["x"]}
    first = AnswerFile(path, made)
    first.write([{"index": 0, "answer": "é"}, {"index": 1, "error": "\udc80"}])
    with first.part.open("ab") as file:
        file.write(b'{"index": 2, "ans')
    with pytest.raises(DataError, match=r"a\.jsonl\.part"):
        AnswerFile(path, {**made, "ask": "who?"})
    second = AnswerFile(path, made)
    assert (second.done, second.complete) == (2, False)
    second.write([{"index": 2, "answer": "ok"}])
    second.finish()
    third = AnswerFile(path, made)
    assert (third.done, third.complete) == (3, True)
    assert merge([path], tmp_path / "out.jsonl", made) == {"records": 3, "errors": 1}
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [one.get("answer", one.get("error")) for one in records] == ["é", "\udc80", "ok"]


@pytest.mark.parametrize("missing", [0, 3, 5])
def test_merge_keeps_the_order_and_refuses_gaps(tmp_path, missing) -> None:
    paths = [tmp_path / f"{share}.jsonl" for share in range(3)]

    def write(left_out: int | None) -> None:
        for share, path in enumerate(paths):
            path.unlink(missing_ok=True)
            file = AnswerFile(path, {})
            file.write({"index": index} for index in range(share, 7, 3) if index != left_out)
            file.finish()

    write(missing)
    with pytest.raises(DataError, match=rf"out\.jsonl.* {missing} "):
        merge(paths, tmp_path / "out.jsonl", {})
    assert not (tmp_path / "out.jsonl").exists()
    write(None)
    assert merge(paths, tmp_path / "out.jsonl", {}) == {"records": 7, "errors": 0}
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(7))
    with pytest.raises(DataError, match="another config"):
        merge(paths, tmp_path / "other.jsonl", {"ask": "?"})


def test_encoded_pictures_of_shards_are_those_of_files(model, tmp_path) -> None:
    data = encoded(picture(5, size=40), "PNG")
    (tmp_path / "x.png").write_bytes(data)
    write_shard(tmp_path / "x.tar", sample("x", data, suffix="png"))
    asked = [next(read_inputs([str(tmp_path / name)], "?")) for name in ("x.png", "x.tar")]
    file, member = (model.message("user", list(one.content)).images[0] for one in asked)
    assert file.key == member.key
