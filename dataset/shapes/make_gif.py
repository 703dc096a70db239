"""Draws a clip of the drawn world with a model's answer, as a GIF.

    python -m dataset.shapes.make_gif --report output/minigpt4_tiny_gemma_video/report.json --out clip.gif

The report is one of `evaluate.py --out`; the clip is the first one of its group that was answered rightly.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minigpt4.common import cli
from minigpt4.processors.video import read_frames

SIDE, MARGIN, FRAMES = 224, 44, 1000
LAST = 6  # times as long as the others the last frame stands


def draw_gif(video: Path, question: str, answer: str, out: Path) -> None:
    """Writes a video as a GIF, with a question and its answer below."""
    frames = read_frames(video, np.copy, FRAMES)
    milliseconds = round(1000 * (frames[-1].time - frames[0].time) / max(len(frames) - 1, 1))
    font = ImageFont.load_default(12)
    drawn = []
    for frame in frames:
        page = Image.new("RGB", (SIDE, SIDE + MARGIN), "white")
        page.paste(Image.fromarray(frame.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        pen = ImageDraw.Draw(page)
        pen.text((8, SIDE + 4), question, "black", font)
        pen.text((8, SIDE + 23), answer, (37, 99, 235), font)
        drawn.append(page)
    durations = [milliseconds] * (len(drawn) - 1) + [LAST * milliseconds]
    drawn[0].save(out, save_all=True, append_images=drawn[1:], duration=durations, loop=0, optimize=True)


def main() -> None:
    """Finds a record, and its clip by the line of the data that it came from."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", default="direction")
    args = parser.parse_args()
    records = json.loads(args.report.read_text(encoding="utf-8"))["records"]
    right = [one for one in records if one["group"] == args.group and one["prediction"] == one["truth"]]
    if not right:
        raise SystemExit(f"no clip of the group {args.group} was answered rightly")
    file, _, number = right[0]["image_id"].rpartition(":")
    line = json.loads(Path(file).read_text(encoding="utf-8").splitlines()[int(number) - 1])
    draw_gif(Path(file).parent / line["video"], line["question"], right[0]["prediction"], args.out)
    print(f"{args.out}: {line['question']} {right[0]['prediction']}")


if __name__ == "__main__":
    main()
