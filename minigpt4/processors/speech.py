"""What is said in a video, written down by Whisper as a file of subtitles.

Only where it is asked for: the user names the model, and FFmpeg's program, which reads the sound, is no
dependency.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt4.common.errors import ConfigError, DataError, in_short
from minigpt4.common.files import expanded, replacing
from minigpt4.processors.containers import FORMATS, check_file
from minigpt4.processors.video import MAX_SECONDS, told_to_people

RATE = 16_000  # samples a second, as Whisper hears them
CHUNK = 30  # seconds, that it hears at once


def read_sound(video: str | Path) -> np.ndarray:
    """The sound of a video: float32 [T] from -1 to 1, RATE a second, all channels together.

    Raises:
        ConfigError: without the program `ffmpeg`.
        DataError: for a file that is no video, or has no sound.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise ConfigError(
            "the sound of a video is read by the program ffmpeg, which is not installed here: "
            "please install it (on Debian and Ubuntu: apt-get install ffmpeg)"
        )
    with told_to_people(video):
        check_file(video)
    # Of a playlist it would open whatever that names.
    only_this = (
        "-format_whitelist",
        FORMATS,
        "-protocol_whitelist",
        "file",
        "-i",
        f"file:{os.path.abspath(video)}",
    )
    raw = ("-vn", "-t", str(MAX_SECONDS), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-")
    done = subprocess.run(
        [program, "-nostdin", "-v", "error", *only_this, *raw], capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["it has none"])[-1]
        raise DataError(f"The sound of {Path(video).name} cannot be read: {reason}")
    return np.frombuffer(done.stdout, "<i2").astype(np.float32) / 2**15


def write_subtitles(video: str | Path, out: str | Path, whisper: str, device: str | None = None) -> None:
    """Write down what is said in a video.

    Args:
        video: its path.
        out: the file of subtitles, `.vtt`.
        whisper: the folder of a Whisper model, or its name on the Hugging Face hub, which is downloaded.
        device: where it runs; None: on the CPU.

    Raises:
        ConfigError: for a model that cannot be loaded, or without ffmpeg.
        DataError: for a video without sound or words.
    """
    import pysubs2

    sound = read_sound(video)
    recognize = _pipeline(whisper, device)
    heard = recognize({"raw": sound, "sampling_rate": RATE}, return_timestamps=True, chunk_length_s=CHUNK)
    file = pysubs2.SSAFile()
    for part in heard["chunks"]:
        start, end = part["timestamp"]
        event = pysubs2.SSAEvent(
            round(1000 * start), round(1000 * (len(sound) / RATE if end is None else end))
        )
        event.plaintext = " ".join(part["text"].split())
        if event.plaintext:
            file.append(event)
    if not len(file):
        raise DataError(f"{whisper} hears no words in {Path(video).name}")
    with replacing(out) as temporary:
        temporary.write_text(file.to_string("vtt"), encoding="utf-8")


def _pipeline(whisper: str, device: str | None) -> Callable[..., Any]:
    from transformers import (
        AutoConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
        pipeline,
    )

    # Explicit: otherwise transformers asks at the terminal whether a folder's own code may be run.
    source = {"pretrained_model_name_or_path": expanded(whisper), "trust_remote_code": False}
    try:
        family = AutoConfig.from_pretrained(**source).model_type
        if family != "whisper":
            raise ValueError(f"its config.json says model_type {family!r}")
        parts = {
            "model": WhisperForConditionalGeneration.from_pretrained(**source, use_safetensors=True),
            "tokenizer": WhisperTokenizer.from_pretrained(**source),
            "feature_extractor": WhisperFeatureExtractor.from_pretrained(**source),
        }
    except Exception as error:  # whatever the readers of a stranger's files raise
        found = in_short(error)
        if "trust_remote_code" in str(error):
            found = "it needs its own code (`auto_map`), which is never run"
        raise ConfigError(
            f"--whisper: {whisper!r} is not a Whisper model's folder or name ({found}); "
            "please name one, such as openai/whisper-tiny"
        ) from error
    return pipeline("automatic-speech-recognition", **parts, device=device or "cpu", trust_remote_code=False)
