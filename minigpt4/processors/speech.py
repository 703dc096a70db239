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

from minigpt4.common.errors import ConfigError, DataError
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
    from transformers import pipeline

    name, only_safetensors = expanded(whisper), {"use_safetensors": True}
    task = "automatic-speech-recognition"
    try:
        return pipeline(task, model=name, device=device or "cpu", model_kwargs=only_safetensors)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--whisper: {whisper!r} is no folder or name of a Whisper model: {reason}"
        ) from error
