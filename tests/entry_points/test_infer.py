"""infer.py: one question, a dialogue in the terminal, many questions; what is refused before the model."""

import io
import json
from pathlib import Path

import pytest

import minigpt4.serving
from minigpt4.commands import infer
from minigpt4.serving import ChatModel
from minigpt4.serving.videos import VideoFile
from tests.support.caching import config, draw_shards
from tests.support.golden import golden_model_config
from tests.support.shards import picture
from tests.support.videos import write_video


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infer")
    return config(folder / "c.yaml", draw_shards(folder), golden_model_config(llm_sanity_check=False))


@pytest.fixture(scope="module")
def model(cfg) -> ChatModel:
    return minigpt4.serving.load(cfg, device="cpu")


@pytest.fixture
def command(monkeypatch, capsys, cfg, model):
    """Runs a command line; what it prints."""

    def run(*words: object, typed: str = "") -> tuple[str, str]:
        monkeypatch.setattr("minigpt4.serving.loading.from_config", lambda cfg, device: model)
        monkeypatch.setattr("sys.argv", ["infer.py", "--cfg-path", str(cfg), *map(str, words)])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        infer.main()
        return capsys.readouterr()

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    picture(1, size=30).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_one_question_is_answered_greedily(command, model, image) -> None:
    out = command("--image", image, "--ask", "what is this?", "--max-new-tokens", 8).out
    assert out.strip() == model.chat("what is this?", [image], temperature=0, max_new_tokens=8)


@pytest.mark.parametrize("kind", ["image", "video", "subtitles"])
def test_a_broken_file_is_named_before_the_model_takes_its_time(monkeypatch, cfg, tmp_path, kind) -> None:
    monkeypatch.setattr("minigpt4.serving.loading.from_config", None)
    monkeypatch.chdir(tmp_path)
    broken = Path("sub", {"image": "a.png", "video": "a.mp4", "subtitles": "a.srt"}[kind])
    broken.parent.mkdir()
    broken.write_bytes(b"broken")
    video = ["--video", str(write_video(tmp_path / "a.mp4", 3))] if kind == "subtitles" else []
    words = ["infer.py", "--cfg-path", str(cfg), *video, f"--{kind}", str(broken), "--ask", "?"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=rf" {broken} cannot be read"):
        infer.main()


def test_subtitles_are_written_before_the_model_takes_its_time(monkeypatch, cfg, tmp_path) -> None:
    monkeypatch.setattr("minigpt4.serving.loading.from_config", None)
    monkeypatch.setenv("PATH", str(tmp_path))  # where no ffmpeg is
    video = str(write_video(tmp_path / "a.mp4", 3))
    asked = ["--video", video, "--whisper", "x", "--subtitles", str(tmp_path / "a.vtt"), "--ask", "?"]
    monkeypatch.setattr("sys.argv", ["infer.py", "--cfg-path", str(cfg), *asked])
    with pytest.raises(SystemExit, match="ffmpeg"):
        infer.main()


def test_one_question_about_a_video(command, model, image, tmp_path, monkeypatch) -> None:
    video = write_video(tmp_path / "a.mp4", 20)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    out = command(
        "--video", video, "--subtitles", tmp_path / "a.srt", "--ask", "?", "--max-new-tokens", 8
    ).out
    file = VideoFile(video, tmp_path / "a.srt")
    assert out.strip() == model.chat("?", videos=file, temperature=0, max_new_tokens=8)

    def write(path: str, out: str, whisper: str, device: str | None) -> None:
        assert (path, whisper, device) == (str(video), "some/whisper", None)
        Path(out).write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")

    monkeypatch.setattr("minigpt4.processors.speech.write_subtitles", write)
    heard = ["--whisper", "some/whisper", "--subtitles", tmp_path / "heard.vtt"]
    for _ in range(2):  # the second time they are there
        assert command("--video", video, *heard, "--ask", "?", "--max-new-tokens", 8).out == out
        monkeypatch.setattr("minigpt4.processors.speech.write_subtitles", None)
    printed = command("--video", video, "--window", 1, "--ask", "?", "--max-new-tokens", 4)
    first, second = printed.err.splitlines()[-2:]
    assert first.startswith("0:00-0:01: ") and second.startswith("0:01-0:02: ")
    with_picture = ["--video", video, "--window", 1, "--ask", "?", "--image", image]
    unclear = [["--window", 1], ["--subtitles", "a.srt", "--ask", "?"], ["--video", "none.mp4"]]
    for words in (*unclear, with_picture):
        with pytest.raises(SystemExit):
            command(*words)


def test_dialogue_in_the_terminal(command, model, image) -> None:
    typed = "what is this?\n/nothing\nand now?\n/undo\n/history\n/reset\n/history\n/quit\nno\n"
    printed = command("--temperature", 0, "--max-new-tokens", 5, typed=f"/image '{image}'\n{typed}")
    chat = model.start_chat()
    first = chat.ask("what is this?", [image], temperature=0, max_new_tokens=5)
    second = chat.ask("and now?", temperature=0, max_new_tokens=5)
    assert printed.out.splitlines() == [
        *(first, second, "removed: and now?", "user: [picture] what is this?", f"assistant: {first}")
    ]
    assert "/nothing" in printed.err


def test_many_are_resumed_after_an_interruption(command, monkeypatch, tmp_path, capsys) -> None:
    for number in range(5):
        picture(number, size=20).save(tmp_path / f"{number}.png")
    words = ("--input", tmp_path, "--ask", "?", "--batch-size", 2, "--max-new-tokens", 4, "--output")
    command(*words, tmp_path / "whole.jsonl")
    replies, asked = minigpt4.serving.chat_model.Engine.replies, []

    def interrupted(self, prompts, settings):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return replies(self, prompts, settings)

    monkeypatch.setattr("minigpt4.serving.engine.Engine.replies", interrupted)
    with pytest.raises(SystemExit) as caught:
        command(*words, tmp_path / "cut.jsonl")
    assert caught.value.code == 130 and not (tmp_path / "cut.jsonl").exists()
    assert "2 answers" in capsys.readouterr().err
    command(*words, tmp_path / "cut.jsonl")
    assert asked == [2, 2, 2, 1]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"{number}.png" for number in range(5)]


def test_shares_are_put_together_by_the_last(command, tmp_path) -> None:
    for number in range(5):
        picture(number, size=20).save(tmp_path / f"{number}.png")
    words = ("--input", tmp_path, "--batch-size", 2, "--max-new-tokens", 4, "--output")
    command(*words, tmp_path / "whole.jsonl")
    out = tmp_path / "shared.jsonl"
    for share in (2, 0):
        command(*words, out, "--num-shards", 3, "--shard-index", share)
    assert not out.exists()
    with pytest.raises(SystemExit) as caught:
        command(*words, out, "--num-shards", 3, "--merge")
    assert "1 of 3" in str(caught.value)
    command(*words, out, "--num-shards", 3, "--shard-index", 1)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(SystemExit) as caught:
        command(*words, out)
    assert "shared.jsonl" in str(caught.value)


def test_merging_looks_for_no_model(command, monkeypatch, tmp_path) -> None:
    picture(1, size=20).save(tmp_path / "a.png")
    words = ("--input", tmp_path, "--output", tmp_path / "out.jsonl", "--num-shards", 2, "--merge")
    monkeypatch.setattr("minigpt4.commands.early.check_model", lambda *_: pytest.fail("looked for"))
    with pytest.raises(SystemExit) as caught:
        command(*words)
    assert "2 of 2" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "x"], "--output"),
        (["--output", "x.jsonl"], "--input"),
        (["--input", "no_such_folder", "--output", "x.jsonl"], "no_such_folder"),
        (["--image", "no_such.png", "--ask", "?"], "no_such.png"),
        (["--ask", "?", "--temperature", "-1"], "temperature"),
        (["--ask", "?", "--video", "a.mp4", "--whisper", "x"], "--subtitles"),
        (["--ask", "?", "--video", "a.mp4", "--whisper", "x", "--subtitles", "a.srt"], "--whisper"),
        (["--ask", "?", "--max-new-tokens", "0"], "max_new_tokens"),
        (["--input", ".", "--output", ".", "--batch-size", "2"], "--output"),
        (["--ask", "?", "--num-shards", "2"], "--input"),
        (["--ask", "?", "--merge"], "--input"),
        (["--input", ".", "--output", "x.jsonl", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_mistakes_are_one_line_before_a_model_is_built(cfg, monkeypatch, tmp_path, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minigpt4.serving.loading.from_config", lambda *_: pytest.fail("a model is built"))
    monkeypatch.setattr("sys.argv", ["infer.py", "--cfg-path", str(cfg), *words])
    with pytest.raises(SystemExit) as caught:
        infer.main()
    assert str(caught.value).startswith("error") and said in str(caught.value)
