"""What is said in a video, written as subtitles: by a recorded Whisper, from the sound that ffmpeg gives."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

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


@pytest.fixture
def whisper(tmp_path) -> Path:
    """The folder of a tiny Whisper with random weights."""
    torch.manual_seed(0)
    folder = tmp_path / "whisper"
    tokenizer = WhisperTokenizer(vocab={chr(33 + index): index for index in range(90)}, merges=[])
    named = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": named})
    tokenizer.add_tokens([f"<|{0.02 * index:.2f}|>" for index in range(1501)])
    start, english, transcribe, untimed = tokenizer.convert_tokens_to_ids(named)
    ends = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), tokenizer.eos_token_id)
    ends["decoder_start_token_id"] = start
    sizes = {"d_model": 16, "num_mel_bins": 8, "max_target_positions": 32, "vocab_size": len(tokenizer)}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_ffn_dim": 16, f"{part}_layers": 1, f"{part}_attention_heads": 1}
    config = WhisperConfig(**sizes, **ends)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **ends,
        no_timestamps_token_id=untimed,
        max_initial_timestamp_index=1,
        lang_to_id={"<|en|>": english},
        task_to_id={"transcribe": transcribe},
        is_multilingual=False,
        max_length=24,
    )
    for part in (model, tokenizer, WhisperFeatureExtractor(feature_size=8)):
        part.save_pretrained(folder)
    return folder


def test_sound_is_read_from_this_file_alone(ffmpeg, video) -> None:
    sound = read_sound(video)
    assert (sound.dtype, sound.tolist()) == (np.float32, [0.0, 0.5, -1.0])
    asked = (ffmpeg / "asked").read_text()
    assert f"-protocol_whitelist file -i file:{video} -vn" in asked and f"-ac 1 -ar {RATE}" in asked


def test_what_is_heard_becomes_subtitles(ffmpeg, video, whisper, tmp_path, monkeypatch) -> None:
    asked = []

    def pipeline(task, model, **settings):
        def recognize(heard, **how):
            asked.append(
                (task, type(model), heard["raw"].tolist(), heard["sampling_rate"], how["return_timestamps"])
            )
            texts = [((0.0, 1.5), " Hello you\n there."), ((1.5, 2.0), " "), ((2.0, None), " Bye.")]
            return {"chunks": [{"timestamp": when, "text": text} for when, text in texts]}

        return recognize

    monkeypatch.setattr(transformers, "pipeline", pipeline)
    write_subtitles(video, tmp_path / "a.vtt", str(whisper))
    assert asked == [
        ("automatic-speech-recognition", WhisperForConditionalGeneration, [0.0, 0.5, -1.0], RATE, True)
    ]
    first, last = read_subtitles(tmp_path / "a.vtt")
    assert first == Cue(0.0, 1.5, ("Hello you there.",))
    assert (last.start, last.lines) == (2.0, ("Bye.",))


def test_the_code_of_a_whisper_folder_is_never_run(ffmpeg, video, whisper, tmp_path, monkeypatch) -> None:
    """Of every kind that a folder can bring, and whoever is asked says yes."""
    marker = tmp_path / "marker"
    (whisper / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: ...\n")
    for name, own in {
        "config.json": {"AutoConfig": "own.Own", "AutoModelForSpeechSeq2Seq": "own.Own"},
        "preprocessor_config.json": {"AutoFeatureExtractor": "own.Own", "AutoProcessor": "own.Own"},
        "tokenizer_config.json": {"AutoTokenizer": ["own.Own", None]},
    }.items():
        config = json.loads((whisper / name).read_text())
        (whisper / name).write_text(json.dumps(config | {"auto_map": own}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    write_subtitles(video, tmp_path / "a.vtt", str(whisper))
    assert read_subtitles(tmp_path / "a.vtt") and not marker.exists()

    config = json.loads((whisper / "config.json").read_text())
    (whisper / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    with pytest.raises(ConfigError, match="own code") as error:
        write_subtitles(video, tmp_path / "b.vtt", str(whisper))
    assert str(whisper) in str(error.value)
    assert not marker.exists() and not (tmp_path / "b.vtt").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "config.json"),
        ("{", "config.json"),
        ("{}", "model_type"),
        ('{"model_type": "llama"}', "'llama'"),
        ('{"model_type": "whisper"}', "model.safetensors"),
    ],
)
def test_a_folder_that_is_no_whisper_model_is_one_line(ffmpeg, video, tmp_path, content, found) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"--whisper: .*{folder}.*({found}).*whisper-tiny") as error:
        write_subtitles(video, tmp_path / "a.vtt", str(folder))
    assert "\n" not in str(error.value) and not (tmp_path / "a.vtt").exists()


def test_without_ffmpeg_a_sound_or_a_model_there_is_one_line(ffmpeg, video, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"--whisper: '.*no such folder' is not a") as error:
        write_subtitles(video, tmp_path / "a.vtt", str(tmp_path / "no such folder"))
    assert "\n" not in str(error.value)
    (ffmpeg / "ffmpeg").write_text("#!/bin/sh\necho 'no audio stream' >&2; exit 1\n")
    with pytest.raises(DataError, match=r"The sound of a\.avi cannot be read: no audio stream"):
        read_sound(video)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="ffmpeg, which is not installed"):
        read_sound(video)
    assert not (tmp_path / "a.vtt").exists()
