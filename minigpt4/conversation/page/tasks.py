"""MiniGPT-v2's tasks on the page: identifiers before questions, a sketched box in them, boxes on pictures.

The boxes of a question and of its reply are those of the last picture before the reply; a video
has none.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from minigpt4.conversation.page.messages import COLOURS, Turn
from minigpt4.models.settings import MiniGPTv2Settings, ModelSettings
from minigpt4.processors.boxes import Box, draw_boxes, format_box, parse_boxes, split_boxes, to_grid
from minigpt4.processors.pictures import open_picture
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.serving.videos import is_video

# In the order of the buttons; "" is a question without an identifier.
TASKS = ("", "vqa", "caption", "grounding", "refer", "identify", "detection")
_IDENTIFIED = re.compile(rf"\[(?:{'|'.join(TASKS[1:])})\]")
# Pixels of the longer side of a picture with boxes.
LARGEST = 1024


class Incomplete(Exception):
    """A task lacks something; the message is the name of a label that tells what."""


def tasks_for(settings: ModelSettings) -> tuple[str, ...]:
    """The tasks that a model was trained with; none, except for MiniGPT-v2."""
    return TASKS if isinstance(settings, MiniGPTv2Settings) else ()


def question(task: str, text: str, sketched: str) -> str:
    """The question for a task.

    Args:
        task: one of TASKS.
        text: what was typed. With an identifier of its own it is not changed.
        sketched: a box as the browser writes it, see `sketched_box`. Only `identify` has one.

    Raises:
        Incomplete: without the words, or the box, that the task needs.
    """
    if task not in TASKS[1:] or _IDENTIFIED.match(text):
        return text
    if task == "identify":
        box = sketched_box(sketched)
        if box is None and not parse_boxes(text):
            raise Incomplete("needs_box")
        text = f"{text} {format_box(box)}".strip() if box and not parse_boxes(text) else text
    if text:
        return f"[{task}] {text}"
    alone = Instructions.pool(task).alone
    if not alone:
        raise Incomplete("needs_words")
    return alone[0]


def sketched_box(sketched: str) -> Box | None:
    """`0.1,0.2,0.5,0.9`, in parts of the picture's width and height -> a box; None for anything else."""
    try:
        sides = [float(side) for side in sketched[:200].split(",")]
        return to_grid(sides, (1, 1))
    except ValueError:
        return None


def drawn(turns: Sequence[Turn]) -> str | None:
    """The picture that the last turn is about, with the boxes of its question and reply, as a new file.

    None without boxes, and if the picture is gone.
    """
    turn = turns[-1]
    texts = (turn.text, turn.reply.text if turn.reply else "")
    found = [part for text in texts for part in split_boxes(text) if not isinstance(part, str)]
    files = [path for one in turns for path in one.files]
    if not found or not files or is_video(files[-1]):
        return None
    try:
        picture = open_picture(files[-1])
    except OSError:
        return None  # deleted after a day
    picture.thumbnail((LARGEST, LARGEST))
    boxes = [
        (box, phrase.text, COLOURS[place % len(COLOURS)])
        for place, phrase in enumerate(found)
        for box in phrase.boxes
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "boxes.png"
        Image.fromarray(draw_boxes(np.asarray(picture), boxes)).save(file)
        return save_file_to_cache(file, get_upload_folder())
