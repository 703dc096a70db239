"""How fast frames of videos are read, beside a reader that decodes every frame and converts it.

    python -m benchmarks.video
    python -m benchmarks.video --train train_configs/minigpt4_tiny_video.yaml

The videos are drawn here, of 640x480 pixels, in three codecs: noise that moves, with a number on it. Every
reading is checked: the frames must be those of the decode-everything reader to the bit. With `--train`, the
clips a second of a config are measured as well: videos read, frames encoded, forward, backward and update, in
one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from minigpt4.processors.video import read_frames, uniform

CODECS = {"mp4": "mp4v", "avi": "MJPG", "webm": "VP80"}
SIZE, FPS = (640, 480), 30


def draw(path: Path, frames: int) -> None:
    """Writes a video of blurred noise that moves."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=np.uint8)
    noise = cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]]), FPS, SIZE)
    for number in range(frames):
        writer.write(cv2.putText(np.roll(noise, 3 * number, 1), str(number), (40, 240), 0, 3, (255,) * 3, 5))
    writer.release()


def read_everything(path: Path, count: int) -> list[np.ndarray]:
    """Decodes and converts every frame, and keeps the wanted ones."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), []
    while True:
        found, frame = capture.read()
        if not found:
            return [frames[place] for place in uniform(len(frames), count)]
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def seconds(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The shortest of some rounds, and what the work gave."""
    best, result = float("inf"), None
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def measure(path: Path, count: int, rounds: int) -> tuple[float, float]:
    """Seconds of the project's reader, and of the one that decodes everything."""
    ours, frames = seconds(lambda: read_frames(path, np.copy, count), rounds)
    everything, expected = seconds(lambda: read_everything(path, count), rounds)
    for frame, right in zip(frames, expected, strict=True):
        if not np.array_equal(frame.image, right):
            raise SystemExit(f"{path.name}: the frame at {frame.time} s differs")
    return ours, everything


def clips_per_second(cfg_path: str, steps: int) -> float:
    """Of a training config, after one step to warm up."""
    from argparse import Namespace

    import torch

    from minigpt4.common.config import Config
    from minigpt4.datasets.collate import BatchStream
    from minigpt4.datasets.stream import Reading
    from minigpt4.tasks import setup_task

    cfg = Config(Namespace(cfg_path=cfg_path, options=[]))
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, "cpu", datasets)
    ((builder, splits),) = datasets.values()
    batches = iter(
        BatchStream(
            splits["train"], builder.batch_size, reading=Reading(training=True), prompts=model.prompts
        )
    )
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    start = 0.0
    for step in range(steps + 1):
        start = time.perf_counter() if step == 1 else start
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(next(batches))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * builder.batch_size / (time.perf_counter() - start)


def main() -> None:
    """Draws, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=900, help="of each video (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of which the fastest counts (%(default)s)")
    parser.add_argument("--train", metavar="YAML", help="also measure how fast this config trains")
    parser.add_argument("--steps", type=int, default=10, help="of --train (%(default)s)")
    args = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}")
    print("| video | frames wanted | frames/s | decoding everything, frames/s | times as fast |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in CODECS:
            path = Path(folder, f"video.{suffix}")
            draw(path, args.frames)
            for count in (8, 45):
                ours, everything = measure(path, count, args.rounds)
                speeds = f"{count / ours:.0f} | {count / everything:.0f} | {everything / ours:.1f}"
                print(f"| {args.frames} frames, {CODECS[suffix]} | {count} | {speeds} |")
    if args.train:
        print(f"{clips_per_second(args.train, args.steps):.1f} clips a second are trained")


if __name__ == "__main__":
    main()
