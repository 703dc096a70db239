"""Small copies of the benchmarks of `evaluation_datasets:`, in their published formats."""

import json
import pickle
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = [(200, 30, 30), (30, 30, 200), (30, 160, 30)]
MEMES = [{"id": n, "img": f"img/{n}.png", "label": n % 2, "text": f"text {n}"} for n in range(3)]


def write_benchmarks(folder: Path) -> dict[str, Any]:
    """Write all of them, three entries each -> the section `evaluation_datasets:`."""
    pictures = folder / "pictures"
    names = [
        *(f"COCO_train2014_{n:012d}.jpg" for n in range(3)),  # RefCOCO
        *(f"{n:012d}.jpg" for n in range(3)),  # OK-VQA, VSR, captions
        *(f"{n}.jpg" for n in range(3)),  # GQA
        *(f"VizWiz_val_{n}.jpg" for n in range(3)),
        *(f"{n}/image.png" for n in range(3)),  # IconQA
        *(f"img/{n}.png" for n in range(3)),  # Hateful Memes
    ]
    for number, name in enumerate(names):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40), COLOURS[number % 3]).save(pictures / name)
    for path, content in _files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        lines = path.endswith(".jsonl")
        text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
        (folder / path).write_text(text)
    places = {"okvqa": "okvqa", "vizwiz": "vizwiz/val.json", "iconvqa": "iconvqa", "gqa": "gqa", "vsr": "vsr"}
    places |= {
        "hm": "hm/dev.jsonl",
        "refcoco": "",
        "refcoco+": "",
        "refcocog": "",
        "coco_caption": "captions",
    }
    common = {"img_path": str(pictures), "max_new_tokens": 4, "batch_size": 3}
    return {name: {"eval_file_path": str(folder / place), **common} for name, place in places.items()}


def as_published(folder: Path) -> None:
    """Put RefCOCO, OK-VQA and IconQA as their authors publish them in place of the original's JSON."""
    for name, divided_by in {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}.items():
        refs, boxes = [], []
        for path in sorted((folder / name).glob("*.json")):
            for entry in json.loads(path.read_text()):
                number = 70 + len(refs)
                image = int(entry["img_id"][15:27])
                said = [{"raw": entry["sents"], "sent": entry["sents"].lower()}]
                split = path.stem.rpartition("_")[2]
                refs.append({"ann_id": number, "image_id": image, "split": split, "sentences": said})
                boxes.append({"id": number, "image_id": image, "bbox": entry["bbox"]})
            path.unlink()
        (folder / name / f"refs({divided_by}).p").write_bytes(pickle.dumps(refs, protocol=0))
        images = [{"id": n, "width": 80, "height": 40} for n in range(3)]
        (folder / name / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    for path in (folder / "okvqa").glob("*_clean.json"):
        path.rename(path.with_name(path.name.replace("_clean", "")))
    listed = folder / "iconvqa" / "choose_text_val.json"
    for entry in json.loads(listed.read_text()):
        place = folder / "iconvqa/iconvqa_images" / entry["image_id"] / "data.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        answer = entry["choices"].index(entry["answer"])
        place.write_text(
            json.dumps({key: entry[key] for key in ("question", "choices")} | {"answer": answer})
        )
    listed.unlink()


def _files() -> dict[str, Any]:
    """Path -> content; JSON lines where the path says so."""
    files: dict[str, Any] = {}
    for name, splits in {
        "refcoco": "val testA testB",
        "refcoco+": "val testA testB",
        "refcocog": "val test",
    }.items():
        for split in splits.split():
            files[f"{name}/{name}_{split}.json"] = [
                {
                    **{"img_id": f"COCO_train2014_{n // 2:012d}_{n}", "sents": f"thing {n}"},
                    **{"bbox": [8.0, 4.0, 33.0, 10.0 + n], "height": 40, "width": 80},
                }
                for n in range(3)
            ]
    answers = [{"answer": "red", "answer_id": n} for n in range(7)] + [
        {"answer": "a car", "answer_id": 8}
    ] * 3
    asked = [{"image_id": n, "question_id": 10 + n, "question": f"What {n}?"} for n in range(3)]
    given = [{"image_id": n, "question_id": 10 + n, "answers": answers} for n in (2, 0, 1)]
    files["okvqa/OpenEnded_mscoco_val2014_questions_clean.json"] = {"questions": asked}
    files["okvqa/mscoco_val2014_annotations_clean.json"] = {"annotations": given}
    files["vizwiz/val.json"] = [
        {"image": f"VizWiz_val_{n}.jpg", "question": "Which can?", "answers": answers} for n in range(3)
    ]
    files["iconvqa/choose_text_val.json"] = [
        {"image_id": str(n), "question": "How many?", "choices": ["one", "two"][: n + 1], "answer": "one"}
        for n in range(3)
    ]
    files["gqa/testdev_balanced_questions.json"] = {
        f"20{n}": {"imageId": str(n), "question": "Is it red?", "answer": ["yes", "no"][n % 2]}
        for n in range(3)
    }
    files["vsr/test.jsonl"] = [
        {
            **{"image": f"{n:012d}.jpg", "image_link": f"http://images.example/{n}.jpg"},
            **{"caption": "The cat is on the mat.", "label": n % 2},
        }
        for n in range(3)
    ]
    files["hm/dev.jsonl"] = MEMES
    files["captions/captions_val2014.json"] = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(3)],
        "annotations": [{"image_id": n % 3, "caption": f"a caption {n}"} for n in range(6)],
    }
    return files
