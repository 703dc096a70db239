"""Check a JSONL file of pictures and texts before training on it.

Prints what is wrong, line by line, as FILE:LINE: MESSAGE, then what the good lines hold. The exit code is 0
if all lines are good, else 1. Lines too long for training, which will skip or shorten them, get
a warning; their lengths in tokens are estimated. dataset/README_YOUR_DATA.md describes the format.

example:
  minigpt4 validate data/train.jsonl --open-images
"""

import argparse
import os
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common.cli import new_parser, run

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.jsonl_format import Entry

# English text; a Q-Former's image.
CHARACTERS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 32


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = new_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="the JSONL file")
    parser.add_argument(
        "--image-path",
        metavar="DIR",
        help="the folder of the pictures (default: the file's own)",
    )
    parser.add_argument(
        "--open-images",
        action="store_true",
        help="decode every picture (some milliseconds each); else only check that the files exist",
    )
    parser.add_argument(
        "--max-context-len",
        type=int,
        default=3800,
        metavar="TOKENS",
        help="model.max_context_len of the training (default: %(default)s)",
    )
    run(validate, parser.parse_args())


def validate(args: argparse.Namespace) -> None:
    """Every line, then the ids, then the totals."""
    from tqdm import tqdm

    from minigpt4.common.errors import DataError
    from minigpt4.common.files import nearest_path
    from minigpt4.common.formatting import format_count
    from minigpt4.datasets.datasets.jsonl_format import Ids, read_lines

    root = Path(args.image_path or Path(args.file).parent)
    if not root.is_dir():
        raise DataError(f"the picture folder {root} does not exist{nearest_path(root)}")
    lines = warnings = 0
    ids, bad = Ids(), set[int]()
    size = Path(args.file).stat().st_size if Path(args.file).is_file() else 0
    with tqdm(total=size, unit="B", unit_scale=True, desc="checking", disable=None) as bar:

        def report(number: int, problem: str) -> None:
            bad.add(number)
            tqdm.write(f"{args.file}:{number}: {problem}", file=sys.stdout)

        for line in read_lines(args.file):
            bar.update(line.offset - bar.n)
            lines += 1
            ids.add(line)
            for problem in line.problems:
                report(line.number, problem)
            if line.entry is not None:
                for problem in _file_problems(line.entry, root, args.open_images):
                    report(line.number, problem)
                for warning in _too_long(line.entry, args.max_context_len):
                    warnings += 1
                    tqdm.write(f"{args.file}:{line.number}: warning: {warning}", file=sys.stdout)
        bar.update(size - bar.n)
        for number, problem in ids.repeated():
            report(number, problem)
    if not lines:
        raise DataError(f"{args.file} has no lines")
    counts = _counts(args.file, bad)
    nouns = ("caption", "question", "conversation", "turn", "picture") + ("video",) * bool(counts["video"])
    print(", ".join([format_count(lines, "line"), *(format_count(counts[noun], noun) for noun in nouns)]))
    if warnings:
        print(f"warnings: {warnings:,}")
    if bad:
        sys.exit(f"{len(bad):,} of {lines:,} lines cannot be used")
    print("all lines can be used")


def _counts(path: str, bad: set[int]) -> Counter[str]:
    """What the lines hold that are not bad; a file that several of them name counts once."""
    import numpy as np

    from minigpt4.datasets.datasets.jsonl_format import read_lines

    # A second reading: which ids are repeated is known after the first.
    counts: Counter[str] = Counter()
    files = {"picture": array("q"), "video": array("q")}  # 8 bytes for each that is named: its hash
    for line in read_lines(path):
        if line.entry is None or line.number in bad:
            continue
        entry = line.entry
        counts[entry.kind] += 1
        counts["turn"] += len(entry.questions) if entry.kind == "conversation" else 0
        files["picture"].extend(hash(os.path.normpath(name)) for name in entry.images)
        files["video"].extend([hash(os.path.normpath(entry.video))] if entry.video else [])
    return counts + Counter({kind: len(np.unique(hashes)) for kind, hashes in files.items()})


def _too_long(entry: "Entry", room: int) -> Iterator[str]:
    """A warning if training will skip the entry or leave turns out because it is too long."""
    from minigpt4.prompts.dialogue import MAX_CHARACTERS, MAX_TURNS
    from minigpt4.prompts.templates import IMAGE_PLACEHOLDER

    turns = [
        (question or "", answer) for question, answer in zip(entry.questions, entry.answers, strict=True)
    ]
    if max(len(text) for turn in turns for text in turn) > MAX_CHARACTERS or 2 * len(turns) > MAX_TURNS:
        yield f"a text of more than {MAX_CHARACTERS:,} characters, or {MAX_TURNS:,} turns: training skips it"
        return
    lengths = [_tokens(question) + _tokens(answer) for question, answer in turns[:-1]]
    first = next((n for n, (question, _) in enumerate(turns[:-1]) if IMAGE_PLACEHOLDER in question), None)
    last = _tokens(turns[-1][0])
    stays = last + (0 if first is None else lengths[first])
    found, what = (
        (stays, "training skips it") if stays > room else (sum(lengths) + last, "turns are left out")
    )
    if found > room:
        yield f"about {found:,} tokens before the last answer, more than max_context_len {room:,}: {what}"


def _tokens(text: str) -> int:
    """About how many tokens a text has, its images included."""
    from minigpt4.prompts.templates import IMAGE_PLACEHOLDER

    return len(text) // CHARACTERS_PER_TOKEN + TOKENS_PER_IMAGE * text.count(IMAGE_PLACEHOLDER)


def _file_problems(entry: "Entry", root: Path, opened: bool) -> Iterator[str]:
    import numpy as np

    from minigpt4.common.errors import BadSample
    from minigpt4.processors.pictures import read_picture
    from minigpt4.processors.subtitles import read_subtitles
    from minigpt4.processors.video import VideoReader

    files: list[tuple[str, str, Callable[[Path], Any]]]
    files = [("picture", name, read_picture) for name in entry.images]
    if entry.video:
        files.append(("video", entry.video, lambda path: VideoReader().read(path, np.shape)))
    if entry.subtitles:
        files.append(("subtitles", entry.subtitles, read_subtitles))
    for kind, name, read in files:
        path = root / name
        if not os.path.isfile(path):  # unlike Path.is_file, this never raises
            yield f"{kind} not found: {name!r} (looked for {path})"
        elif opened:
            try:
                read(path)
            except BadSample as bad:
                yield f"the {kind} {name!r} cannot be opened: {bad}"
            except OSError as error:
                yield f"the {kind} {name!r} cannot be read: {error.strerror}"


if __name__ == "__main__":
    main()
