"""What is said in a video, written as subtitles: by a recorded Whisper, from the sound that ffmpeg gives."""

import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.processors.speech import RATE, read_sound, write_subtitles
from minigpt4.processors.subtitles import Cue, read_subtitles
from tests.support.videos import write_video

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its ffmpeg is a script")


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch) -> Path:
    """A program of that name which writes down its arguments and gives three samples."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(folder / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "sys.stdout.buffer.write(b'\\x00\\x00\\x00\\x40\\x00\\x80')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "a.avi", 3)


def test_sound_is_read_from_this_file_alone(ffmpeg, video) -> None:
    sound = read_sound(video)
    assert (sound.dtype, sound.tolist()) == (np.float32, [0.0, 0.5, -1.0])
    asked = (ffmpeg / "asked").read_text()
    assert f"-protocol_whitelist file -i file:{video} -vn" in asked and f"-ac 1 -ar {RATE}" in asked


def test_what_is_heard_becomes_subtitles(ffmpeg, video, tmp_path, monkeypatch) -> None:
    asked = []

    def pipeline(task, model, **settings):
        def recognize(heard, **how):
            asked.append(
                (task, model, heard["raw"].tolist(), heard["sampling_rate"], how["return_timestamps"])
            )
            texts = [((0.0, 1.5), " Hello you\n there."), ((1.5, 2.0), " "), ((2.0, None), " Bye.")]
            return {"chunks": [{"timestamp": when, "text": text} for when, text in texts]}

        return recognize

    monkeypatch.setattr(transformers, "pipeline", pipeline)
    write_subtitles(video, tmp_path / "a.vtt", "some/whisper")
    assert asked == [("automatic-speech-recognition", "some/whisper", [0.0, 0.5, -1.0], RATE, True)]
    first, last = read_subtitles(tmp_path / "a.vtt")
    assert first == Cue(0.0, 1.5, ("Hello you there.",))
    assert (last.start, last.lines) == (2.0, ("Bye.",))


def test_without_ffmpeg_a_sound_or_a_model_there_is_one_line(ffmpeg, video, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"--whisper: '.*no such folder' is no folder") as error:
        write_subtitles(video, tmp_path / "a.vtt", str(tmp_path / "no such folder"))
    assert "\n" not in str(error.value)
    (ffmpeg / "ffmpeg").write_text("#!/bin/sh\necho 'no audio stream' >&2; exit 1\n")
    with pytest.raises(DataError, match=r"The sound of a\.avi cannot be read: no audio stream"):
        read_sound(video)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="ffmpeg, which is not installed"):
        read_sound(video)
    assert not (tmp_path / "a.vtt").exists()
