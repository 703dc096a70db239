"""Questions with short answers: VQAv2, OK-VQA, A-OKVQA, GQA, OCR-VQA."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset.shapes import language
from dataset.shapes.v2.files import write_json
from dataset.shapes.v2.pictures import SPLITS, Picture, draw, of_split, store

PEOPLE = 10  # whose answers VQAv2 and OK-VQA have, of each question
OCR_SPLITS = {"train": 1, "test": 3}  # as OCR-VQA numbers them


def write_coco(pictures: Sequence[Picture], out: Path, rng: random.Random) -> None:
    """`coco_vqa` in two files, of which the second is short, `ok_vqa` and `aok_vqa`, in LAVIS's form."""
    for split in SPLITS:
        asked = of_split(pictures, split)
        write_json(out / f"vqav2/vqa_{split}.json", [_question(one, rng) for one in asked])
    train = of_split(pictures, "train")
    write_json(out / "vqav2/vqa_val.json", [_question(one, rng) for one in train[:100]])
    write_json(out / "okvqa/okvqa_train.json", [_question(one, rng) for one in train])
    write_json(
        out / "aokvqa/aokvqa_v1p0_train.json", [_question(one, rng, "direct_answers") for one in train]
    )


def _question(picture: Picture, rng: random.Random, answers: str = "answer") -> dict[str, Any]:
    turn = language.ask_detail(picture.scene, rng)
    return {
        "image": f"train2014/{picture.coco_name}",
        "question": turn.question,
        "question_id": rng.randrange(10**9),
        answers: [turn.answer] * PEOPLE,
    }


def write_gqa(out: Path, counts: dict[str, int], rng: random.Random) -> None:
    """`gqa`: one answer to a question."""
    pictures = draw(counts, "gqa")
    store(pictures, out / "gqa/images")
    for split in SPLITS:
        entries = []
        for picture in of_split(pictures, split):
            turn = language.ask_detail(picture.scene, rng)
            entries.append(
                {
                    "image": f"{picture.number}.jpg",
                    "question": turn.question,
                    "question_id": f"{picture.number:08d}",
                    "answer": turn.answer,
                }
            )
        write_json(out / f"gqa/{split}_balanced_questions.json", entries)


def write_ocrvqa(out: Path, counts: dict[str, int], rng: random.Random) -> None:
    """`ocrvqa`: covers of books whose title says what is drawn on them."""
    pictures = draw(counts, "ocrvqa")
    store(pictures, out / "ocrvqa/images")
    covers = {}
    for picture in pictures:
        turn = language.ask_detail(picture.scene, rng)
        covers[str(picture.number)] = {
            "imageURL": f"http://example.com/{picture.number}.jpg",
            "questions": ["What is the title of this book?", turn.question],
            "answers": [picture.caption, turn.answer],
            "title": picture.caption,
            "split": OCR_SPLITS[picture.split],
        }
    write_json(out / "ocrvqa/dataset.json", covers)
