"""Tiny copies of MiniGPT-v2's data sets: their files as published, with made-up pictures and texts.

`write(name, folder)` writes those of one into a folder that `MINIGPT4_DATA` may name, in the layout
of `minigpt4 download-minigptv2`.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.shards import encoded, picture

COCO = ("COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg")
WIDTH, HEIGHT = 40, 20  # of every picture
GUYS = "<p>Two guys</p> {<1><2><30><40>}<delim>{<50><2><80><40>}"


def write(name: str, folder: Path) -> None:
    """The files of a data set, by its registered name."""
    WRITERS[name](folder)


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(number).resize((WIDTH, HEIGHT))))


def _questions(file: str, key: str = "answer") -> Callable[[Path], None]:
    """VQAv2's and others'; the second question is about a picture that is not there."""

    def written(folder: Path) -> None:
        pictures(folder / "coco/images", *COCO)
        names = [f"train2014/{COCO[0]}", "val2014/COCO_val2014_000000000042.jpg", f"train2014/{COCO[1]}"]
        entries = [
            {
                "image": image,
                "question": f"What is {n}?",
                "question_id": 100 + n,
                key: [f"It is {n}", *["No"] * n],
            }
            for n, image in enumerate(names)
        ]
        dump(folder / file, entries)

    return written


def vqav2(folder: Path) -> None:
    _questions("vqav2/vqa_train.json")(folder)
    _questions("vqav2/vqa_val.json")(folder)


def coco_caption(folder: Path) -> None:
    pictures(folder / "coco/images", *COCO)
    captions = [
        {"image": f"train2014/{COCO[0]}", "image_id": "coco_9", "caption": "A Dog, on a sofa."},
        {"image": "val2014/COCO_val2014_000000000042.jpg", "image_id": "coco_42", "caption": "A cat."},
    ]
    dump(folder / "coco_captions/annotations/coco_karpathy_train.json", captions)


def textcaps(folder: Path) -> None:
    pictures(folder / "textcaps/train_images", "0054c91397f2fe05.jpg")
    data = [{"image_id": "0054c91397f2fe05", "image_name": "x", "caption_str": "A sign says STOP."}]
    dump(folder / "textcaps/TextCaps_0.1_train.json", {"dataset_name": "textcaps", "data": data})


def gqa(folder: Path) -> None:
    pictures(folder / "gqa/images", "2405722.jpg")
    entry = {"image": "2405722.jpg", "question": "Is it red?", "question_id": "07333408", "answer": "no"}
    dump(folder / "gqa/train_balanced_questions.json", [entry])


def ocrvqa(folder: Path) -> None:
    pictures(folder / "ocrvqa/images", "0002005018.jpg", "0002.png", "0003.jpg")
    cover = {
        "title": "T",
        "genre": "G",
        "questions": ["Who wrote it?", "Is it old?"],
        "answers": ["Ann Lee", "No"],
    }
    covers = {
        "0002005018": cover | {"split": 1, "imageURL": "http://ecx.example.org/images/I/51.jpg"},
        "0002": cover | {"split": 2, "imageURL": "http://ecx.example.org/images/I/52.png"},
        "0003": cover | {"split": 3, "imageURL": "http://ecx.example.org/images/I/53.gif"},  # saved as .jpg
    }
    dump(folder / "ocrvqa/dataset.json", covers)


def refcoco(folder: Path, dataset: str = "refcoco", divided_by: str = "unc") -> None:
    pictures(folder / "coco/images", *COCO)
    splits = ["train", "train", "val", "testA"]
    refs = [
        {
            "ref_id": n,
            "ann_id": 70 + n,
            "image_id": 9 if n % 2 == 0 else 25,
            "category_id": 1,
            "split": split,
            "file_name": "COCO_train2014_000000000009_0.jpg",
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {"sent_id": 2 * n + k, "raw": raw, "sent": raw.lower(), "tokens": raw.lower().split()}
                for k, raw in enumerate((f"The LEFT one {n}", f"thing {n}"))
            ],
        }
        for n, split in enumerate(splits)
    ]
    target = folder / "refcoco_annotations" / dataset
    target.mkdir(parents=True, exist_ok=True)
    (target / f"refs({divided_by}).p").write_bytes(pickle.dumps(refs, protocol=0))
    instances = {
        "info": {"year": 2014},
        "images": [{"id": n, "width": WIDTH, "height": HEIGHT, "file_name": "x"} for n in (9, 25)],
        "annotations": [
            {"id": 70 + n, "image_id": 9, "bbox": [4.0 + n, 2.0, 10.5, 8], "segmentation": [[1, 2]]}
            for n in range(6)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    dump(target / "instances.json", instances)


def visual_genome(folder: Path) -> None:
    root = folder / "visual_genome"
    pictures(root, "VG_100K_2/1.jpg", "VG_100K/2.jpg")
    images = [
        {"image_id": n, "url": f"https://cs.example.org/rak248/{place}", "width": 400, "height": 200}
        for n, place in ((1, "VG_100K_2/1.jpg"), (2, "VG_100K/2.jpg"))
    ]
    dump(root / "image_data.json", images)
    small = {"x": 100, "y": 50, "width": 120, "height": 130}
    regions = [
        {"id": 1, "regions": [{"region_id": 5, "image_id": 1, "phrase": "The clock", **small}]},
        {
            "id": 2,
            "regions": [
                {
                    "region_id": 6,
                    "image_id": 2,
                    "phrase": "all of it",
                    "x": 0,
                    "y": 0,
                    "width": 400,
                    "height": 200,
                },
                {"region_id": 7, "image_id": 2, "phrase": "a Tree", **small, "x": 399},
            ],
        },
    ]
    dump(root / "region_descriptions.json", regions)


def flickr(folder: Path) -> None:
    root = folder / "filtered_flickr"
    pictures(root / "images", "1000092795.jpg")
    grounded = f"{GUYS} stand by <p>a tree</p> {{<0><0><9><99>}}"
    one = {"image_id": "1000092795"}
    dump(root / "groundedcaption.json", [one | {"grounded_caption": grounded}])
    dump(root / "captiontobbox.json", [one | {"caption": "Two guys stand.", "output": GUYS}])
    dump(
        root / "phrasetobbox.json",
        [one | {"phrase": "Two guys", "bbox": GUYS[16:]}],
    )


def _dialogues(file: str, *turns: str) -> Callable[[Path], None]:
    def written(folder: Path) -> None:
        pictures(folder / "coco/images", *COCO)
        said = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
        dump(folder / file, [{"id": "000000000025", "image": "000000000025.jpg", "conversations": said}])

    return written


def unnatural(folder: Path) -> None:
    instances = [
        {
            "instruction_with_input": "Sort these: b, a.",
            "input": "b, a",
            "constraints": "Use commas.",
            "output": "A, b.",
        },
        {"instruction_with_input": "Say hello.", "input": "", "constraints": None, "output": "Hello!"},
    ]
    entries = [{"instruction": "…", "instances": [one]} for one in instances]
    dump(folder / "unnatural_instructions/filtered_unnatural_instruction.json", entries)


TALK = ("<image>\nWhat IS it?", "A dog.", "Is it old?", "No, it is young.")
TASKS = ("[caption] What is it?\n<image>", "A Dog.", "[refer] the dog", "{<1><2><3><4>}")
WRITERS: dict[str, Callable[[Path], None]] = {
    "coco_caption": coco_caption,
    "textcaps_caption": textcaps,
    "coco_vqa": vqav2,
    "ok_vqa": _questions("okvqa/okvqa_train.json"),
    "aok_vqa": _questions("aokvqa/aokvqa_v1p0_train.json", "direct_answers"),
    "gqa": gqa,
    "ocrvqa": ocrvqa,
    "refcoco": refcoco,
    "refcocop": lambda folder: refcoco(folder, "refcoco+"),
    "refcocog": lambda folder: refcoco(folder, "refcocog", "umd"),
    "invrefcoco": refcoco,
    "invrefcocop": lambda folder: refcoco(folder, "refcoco+"),
    "invrefcocog": lambda folder: refcoco(folder, "refcocog", "umd"),
    "refvg": visual_genome,
    "flickr_grounded_caption": flickr,
    "flickr_CaptionToPhrase": flickr,
    "flickr_ObjectToPhrase": flickr,
    "llava_conversation": _dialogues("llava/conversation_58k.json", *TALK),
    "llava_detail": _dialogues("llava/detail_23k.json", *TALK[:2]),
    "llava_reason": _dialogues("llava/complex_reasoning_77k.json", *TALK[:2]),
    "multitask_conversation": _dialogues("multitask_conversation/multitask_conversation.json", *TASKS),
    "unnatural_instruction": unnatural,
}
