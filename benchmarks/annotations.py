#!/usr/bin/env python
"""Memory and time of MiniGPT-v2's data sets at their real sizes, with made-up annotations.

Writes annotation files with as many entries as the published ones (at about their size), and links to one
picture. Then opens all 22 data sets in a new process, reads batches with worker processes, and prints the
time and the memory of all processes together (their proportional set size: pages that several share count
once); a second time, with the entries stored by the first.

example:
  python -m benchmarks.annotations --folder /tmp/annotations --json output/annotations.json
"""

import argparse
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

WORDS = ["a", "man", "in", "red", "shirt", "holding", "small", "white", "dog", "near", "the", "old", "table"]
SETS = (
    *("multitask_conversation", "unnatural_instruction", "llava_detail", "llava_reason"),
    *("llava_conversation", "refcoco", "refcocop", "refcocog", "invrefcoco", "invrefcocop", "invrefcocog"),
    *("refvg", "textcaps_caption", "coco_vqa", "ok_vqa", "aok_vqa", "gqa", "flickr_grounded_caption"),
    *("flickr_CaptionToPhrase", "flickr_ObjectToPhrase", "ocrvqa", "coco_caption"),
)
COCO, GENOME, BOOKS, OTHERS = 82_783, 108_077, 207_572, 1000  # pictures
COUNTED = ("COCO", "GENOME", "BOOKS", "OTHERS")
READ_ENTRIES = 20_000
POOL = 5000  # texts of a length that are drawn from


def main() -> None:
    """Generate, open twice, print, remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the files; must not exist")
    parser.add_argument("--share", type=float, default=1.0, help="of the entries and pictures (1)")
    parser.add_argument("--workers", type=int, default=6, help="processes that read (6)")
    parser.add_argument("--batches", type=int, default=100, help="of 6 samples at 448 pixels (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--open", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(opened(args)))
        return
    args.folder.mkdir(parents=True)
    try:
        figures: dict[str, Any] = {"annotation_gb": generate(args.folder, args.share)}
        for name in ("first", "again"):
            command = [sys.executable, "-m", "benchmarks.annotations", *sys.argv[1:], "--open"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures[name] = json.loads(done.stdout.splitlines()[-1])
        figures["stored_gb"] = sum(file.stat().st_size for file in args.folder.rglob("*.entries")) / 1e9
    finally:
        shutil.rmtree(args.folder)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")


def opened(args: argparse.Namespace) -> dict[str, Any]:
    """Open all data sets, and read batches of them."""
    import yaml

    os.environ["MINIGPT4_DATA"] = str(args.folder)
    import minigpt4.datasets.builders  # noqa: F401
    from minigpt4.common.config import Config, plain
    from minigpt4.datasets.builders import build_datasets
    from minigpt4.datasets.mixing import TrainStream

    processors = {"vis_processor": {"train": {"name": "blip2_image_train", "image_size": 448}}}
    sections = {name: {"batch_size": 6, **processors} for name in SETS}
    config = args.folder / "config.yaml"
    config.write_text(yaml.safe_dump({"datasets": sections}))
    start, busy = time.monotonic(), time.process_time()
    cfg = Config(argparse.Namespace(cfg_path=config, options=[]))
    datasets = build_datasets(plain(cfg.datasets_cfg))
    seconds, busy = time.monotonic() - start, time.process_time() - busy
    lengths = {name: splits["train"].size for name, (_, splits) in datasets.items()}
    regions: Any = datasets["refvg"][1]["train"]
    rng, start = random.Random(0), time.process_time()
    for _ in range(READ_ENTRIES):
        regions.annotation[rng.randrange(len(regions))]
    per_second = READ_ENTRIES / (time.process_time() - start)
    state = {"drawn": 0, "loaders": {}}
    options: dict[str, Any] = {"rank": 0, "world_size": 1, "workers": args.workers}
    options |= {"max_bad_fraction": 0.5, "pin_memory": False}
    most = 0.0
    with TrainStream.of(datasets, ["train"], 0, state, **options) as stream:
        for number in range(args.batches):
            next(stream)
            if number % 50 == 49 or number == args.batches - 1:
                sizes = [os.getpid(), *(worker.pid for worker in stream.loader.workers)]
                memory = [gigabytes(process, "Pss") for process in sizes]
                most = max(most, sum(memory))
        bad = stream.bad()
    return {
        "seconds_to_open": round(seconds, 1),
        "processor_seconds_to_open": round(busy, 1),
        "entries": sum(lengths.values()),
        "entries_of": lengths,
        "entries_per_processor_second": round(per_second),
        "pss_gb": round(most, 2),
        "pss_gb_of_each": [round(size, 2) for size in memory],
        "rss_gb_of_each": [round(gigabytes(process, "Rss"), 2) for process in sizes[:1]],
        "skipped": dict(bad),
    }


def gigabytes(process: int, what: str) -> float:
    """Memory of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024 / 1e9


def generate(folder: Path, share: float) -> float:
    """Write all files. Returns gigabytes."""
    rng = random.Random(0)
    pictures = {name: max(int(count * share), 20) for name, count in globals().items() if name in COUNTED}
    link_pictures(folder, pictures)
    for name, count, entry in entries(pictures, share):
        write_list(folder / name, (entry(number, rng) for number in range(count)))
    write_books(folder / "ocrvqa/dataset.json", pictures["BOOKS"], rng)
    write_references(folder / "refcoco_annotations", pictures["COCO"], share, rng)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in (".json", ".p")) / 1e9


@cache
def texts(words: int) -> list[str]:
    """Made-up texts of so many words."""
    rng = random.Random(words)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(POOL)]


def say(rng: random.Random, words: int) -> str:
    """One of them."""
    return texts(words)[int(POOL * rng.random())]


def coco(number: int) -> str:
    """The name of a picture of COCO."""
    return f"COCO_train2014_{number:012}.jpg"


def entries(pictures: dict[str, int], share: float) -> Iterable[tuple[str, int, Callable[..., Any]]]:
    """File, number of entries, and what makes one, of the sets whose files are lists."""
    n = pictures["COCO"]

    def question(number: int, rng: random.Random) -> Any:
        answers = [say(rng, 1) for _ in range(10)]
        image = f"train2014/{coco(number % n)}"
        return {"question_id": number, "question": say(rng, 7), "answer": answers, "image": image} | {
            "dataset": "vqa",
            "direct_answers": answers,
        }

    def talk(turns: int, words: int) -> Callable[..., Any]:
        def one(number: int, rng: random.Random) -> Any:
            said = [{"from": "human", "value": say(rng, 10)}, {"from": "gpt", "value": say(rng, words)}]
            return {"id": f"{number % n:012}", "image": coco(number % n), "conversations": said * turns}

        return one

    def scene(number: int, rng: random.Random) -> Any:
        image = f"{number % pictures['OTHERS']}.jpg"
        return {"image": image, "question": say(rng, 9), "answer": say(rng, 1), "question_id": f"{number:08}"}

    def caption(number: int, rng: random.Random) -> Any:
        return {
            "caption": say(rng, 11),
            "image": f"train2014/{coco(number % n)}",
            "image_id": f"coco_{number}",
        }

    def grounded(number: int, rng: random.Random) -> Any:
        text = f"<p>{say(rng, 3)}</p> {{<1><2><30><40>}} {say(rng, 4)} " * 3
        return {"image_id": str(number % pictures["OTHERS"]), "grounded_caption": text, "output": text} | {
            "caption": say(rng, 12),
            "phrase": say(rng, 3),
            "bbox": "{<1><2><30><40>}",
        }

    def text(_: int, rng: random.Random) -> Any:
        return {
            "instances": [
                {"instruction_with_input": say(rng, 60), "constraints": None, "output": say(rng, 30)}
            ]
        }

    def written(number: int, rng: random.Random) -> Any:
        return {"image_id": str(number % pictures["OTHERS"]), "caption_str": say(rng, 12)} | {
            "reference_strs": [say(rng, 12) for _ in range(5)]
        }

    def regions(number: int, rng: random.Random) -> Any:
        found = [
            {"region_id": number * 50 + k, "width": 20 + 4 * k, "height": 180 - 2 * k, "image_id": number}
            | {"phrase": say(rng, 5), "y": 7 * k, "x": number % 500}
            for k in range(50)
        ]
        return {"regions": found, "id": number}

    def size(number: int, _: random.Random) -> Any:
        url = f"https://cs.example.org/VG_100K/{number % pictures['OTHERS']}.jpg"
        return {"image_id": number, "url": url, "width": 800, "height": 600, "coco_id": None}

    published = (
        *(("vqav2/vqa_train.json", 443_757, question), ("vqav2/vqa_val.json", 214_354, question)),
        *(("okvqa/okvqa_train.json", 9_009, question), ("aokvqa/aokvqa_v1p0_train.json", 17_056, question)),
        ("gqa/train_balanced_questions.json", 943_000, scene),
        ("coco_captions/annotations/coco_karpathy_train.json", 566_747, caption),
        ("llava/conversation_58k.json", 56_681, talk(4, 40)),
        ("llava/detail_23k.json", 23_240, talk(1, 100)),
        ("llava/complex_reasoning_77k.json", 76_643, talk(1, 110)),
        ("multitask_conversation/multitask_conversation.json", 12_000, talk(4, 20)),
        ("filtered_flickr/groundedcaption.json", 28_000, grounded),
        ("filtered_flickr/captiontobbox.json", 140_000, grounded),
        ("filtered_flickr/phrasetobbox.json", 250_000, grounded),
        ("unnatural_instructions/filtered_unnatural_instruction.json", 64_000, text),
        ("textcaps/TextCaps_0.1_train.json", 109_765, written),
    )
    yield from ((name, max(int(count * share), 20), entry) for name, count, entry in published)
    yield "visual_genome/region_descriptions.json", pictures["GENOME"], regions
    yield "visual_genome/image_data.json", pictures["GENOME"], size


def write_list(path: Path, values: Iterable[Any]) -> None:
    """A JSON list, written in a stream; TextCaps' is in a mapping."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        before = '{"data": [' if "TextCaps" in path.name else "["
        for value in values:
            file.write(before + json.dumps(value))
            before = ",\n"
        file.write("]}" if "TextCaps" in path.name else "]")


def write_books(path: Path, count: int, rng: random.Random) -> None:
    """OCR-VQA's mapping: five questions a cover."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for number in range(count):
            questions = [say(rng, 7) for _ in range(5)]
            book = {"imageURL": "https://example.org/cover.jpg", "questions": questions, "split": 1}
            book |= {"answers": [say(rng, 3) for _ in range(5)], "title": say(rng, 6), "genre": "Travel"}
            file.write(("," if number else "{") + f'"{number}": {json.dumps(book)}')
        file.write("}")


def write_references(folder: Path, pictures: int, share: float, rng: random.Random) -> None:
    """RefCOCO's pickles and instances: 50,000 things with about three expressions each, and all boxes."""
    for name, split_by, things in (
        ("refcoco", "unc", 50_000),
        ("refcoco+", "unc", 49_856),
        ("refcocog", "umd", 49_822),
    ):
        (folder / name).mkdir(parents=True)
        count = max(int(things * share), 20)
        refs, boxes = [], []
        for number in range(count):
            expressions = [
                {"raw": say(rng, 4), "sent": "", "sent_id": number, "tokens": ["a", "b"]} for _ in range(3)
            ]
            refs.append(
                {"ref_id": number, "ann_id": number, "image_id": number % pictures, "split": "train"}
                | {"sentences": expressions, "file_name": coco(number), "category_id": 1}
            )
            polygon = [[float(rng.randint(0, 600)) for _ in range(60)]]
            boxes.append(
                {"id": number, "image_id": number % pictures, "bbox": [1.5, 2.5, 100.0, 50.0]}
                | {"segmentation": polygon}
            )
        with (folder / name / f"refs({split_by}).p").open("wb") as file:
            pickle.dump(refs, file, protocol=2)
        images = [
            {"id": number, "height": 480, "width": 640, "file_name": coco(number)}
            for number in range(pictures)
        ]
        (folder / name / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes}))


def link_pictures(folder: Path, pictures: dict[str, int]) -> None:
    """One picture, under many names."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(folder / "one.jpg")
    for name, count, named in (
        ("coco/images", pictures["COCO"], coco),
        ("visual_genome/VG_100K", pictures["OTHERS"], "{}.jpg".format),
        ("gqa/images", pictures["OTHERS"], "{}.jpg".format),
        ("ocrvqa/images", pictures["BOOKS"], "{}.jpg".format),
        ("filtered_flickr/images", pictures["OTHERS"], "{}.jpg".format),
        ("textcaps/train_images", pictures["OTHERS"], "{}.jpg".format),
    ):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            os.symlink(folder.absolute() / "one.jpg", folder / name / named(number))


if __name__ == "__main__":
    main()
