"""Write easy-VQA as JSONL: 48,248 questions about 5,000 pictures, with its published splits.

It comes as a package (`pip install '.[easy-vqa]'`, MIT licence, Victor Zhou 2020). The group of a question is
`yes_no` or `which`.

example:
  python dataset/convert_easy_vqa.py --out output/easy_vqa

writes OUT/train.jsonl (38,575 questions) and OUT/test.jsonl (9,673), and the pictures below OUT.
"""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

from minigpt4.common import cli
from minigpt4.common.errors import DataError
from minigpt4.common.files import replacing

SPLITS = ("train", "test")


def package_data() -> Path:
    """The folder of the package's data. Raises DataError if it is not installed."""
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise DataError("easy-vqa is not installed: pip install '.[easy-vqa]'")
    return Path(found.origin).parent / "data"


def convert(args: argparse.Namespace) -> None:
    """Copy the pictures, and write the questions of each split beside them."""
    for split in SPLITS:
        source = package_data() / split
        shutil.copytree(source / "images", args.out / split, dirs_exist_ok=True)
        questions = json.loads((source / "questions.json").read_text(encoding="utf-8"))
        with replacing(args.out / f"{split}.jsonl") as part:
            part.write_text("".join(map(_line, [split] * len(questions), *zip(*questions, strict=True))))
        print(f"{args.out}/{split}.jsonl: {len(questions):,} questions")


def _line(split: str, question: str, answer: str, picture: int) -> str:
    group = "yes_no" if answer in ("yes", "no") else "which"
    line = {"image": f"{split}/{picture}.png", "question": question, "answer": answer, "group": group}
    return json.dumps(line) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    cli.run(convert, parser.parse_args())


if __name__ == "__main__":
    main()
