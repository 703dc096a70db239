"""Write easy-VQA as JSONL: 48,248 questions about 5,000 pictures, with its published splits.

It comes as a package (`pip install '.[easy-vqa]'`, MIT licence, Victor Zhou 2020). The group of a question is
`yes_no` or `which`.

example:
  python dataset/convert_easy_vqa.py --out output/easy_vqa

writes OUT/train.jsonl and OUT/val.jsonl (the published training split: 38,334 questions, and the 241 about
its last pictures, for validation while training), OUT/test.jsonl (9,673), and the pictures below OUT.
"""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

from minigpt4.common import cli
from minigpt4.common.errors import DataError
from minigpt4.common.files import replacing, require_new

SPLITS = ("train", "test")
# Of the pictures of the training split, the last so many are for validation.
VALIDATION = 25


def package_data() -> Path:
    """The folder of the package's data. Raises DataError if it is not installed."""
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise DataError("easy-vqa is not installed: pip install '.[easy-vqa]'")
    return Path(found.origin).parent / "data"


def convert(args: argparse.Namespace) -> None:
    """Copy the pictures, and write the questions of each split beside them."""
    require_new(args.out, "--out")
    for split in SPLITS:
        source = package_data() / split
        shutil.copytree(source / "images", args.out / split)
        questions = json.loads((source / "questions.json").read_text(encoding="utf-8"))
        if split == "train":
            first = len({picture for *_, picture in questions}) - VALIDATION
            write(args.out / "val.jsonl", split, [one for one in questions if one[2] >= first])
            questions = [one for one in questions if one[2] < first]
        write(args.out / f"{split}.jsonl", split, questions)


def write(path: Path, folder: str, questions: list[tuple[str, str, int]]) -> None:
    """Write (question, answer, number of the picture) as lines; the pictures are in `folder` beside it."""
    with replacing(path) as part, part.open("x", encoding="utf-8") as file:
        for question, answer, picture in questions:
            group = "yes_no" if answer in ("yes", "no") else "which"
            line = {
                "image": f"{folder}/{picture}.png",
                "question": question,
                "answer": answer,
                "group": group,
            }
            file.write(json.dumps(line) + "\n")
    print(f"{path}: {len(questions):,} questions")


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    cli.run(convert, parser.parse_args())


if __name__ == "__main__":
    main()
