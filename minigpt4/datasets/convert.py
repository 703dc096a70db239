"""Convert annotations in a common format to the JSONL that this project trains on.

What it reads, and how it is told apart (`--format` says it where that fails):

  llava    a JSON list of LLaVA's `conversations`, or of OpenAI's `messages`
  coco     COCO captions: JSON with `images` and `annotations`
  vqa      VQA questions in JSON, with `--answers` for their annotations
  csv      a table (commas, semicolons or tabs) with a column of paths, and columns `caption`, or
           `question` and `answer`
  parquet  a folder of a Hugging Face data set, or a .parquet file, with a column `image`

Every line is checked. Those that cannot be used are left out and counted; with too many of them nothing is
written. Paths stay as they are, relative to the folder of pictures; pictures inside parquet become files.

example:
  minigpt4 convert-data captions_val2017.json --out data/val.jsonl
  minigpt4 convert-data questions.json --answers annotations.json --pictures 'COCO_val2014_{:012}.jpg' \\
      --out data/vqa.jsonl
  minigpt4 convert-data birds.csv --out data/birds.jsonl --columns image=file caption=title
  minigpt4 validate data/birds.jsonl --image-path birds/ --open-images
"""

import argparse
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from minigpt4.common.cli import new_parser, run, user_path

log = logging.getLogger("convert-data")

# The part of all lines that may be unusable.
MOST_BAD = 0.5
FORMATS = ("llava", "coco", "vqa", "csv", "parquet")
Records = Iterator[dict[str, Any]]


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = new_parser(__doc__)
    parser.add_argument("source", type=user_path, metavar="SOURCE", help="the annotations")
    parser.add_argument("--out", type=user_path, required=True, metavar="JSONL", help="the file to write")
    parser.add_argument("--format", choices=FORMATS, help="what SOURCE is")
    parser.add_argument("--answers", type=user_path, metavar="JSON", help="for vqa: the annotations")
    parser.add_argument(
        "--pictures", metavar="NAME", help="for vqa: a picture's name, with {} where its id goes"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="KEY=COLUMN",
        help="for csv and parquet: the columns of image, caption, question, answer, if named differently",
    )
    run(convert, parser.parse_args())


def convert(args: argparse.Namespace) -> None:
    """Arguments, the reader, a checked line per record, the counts."""
    from minigpt4.common.errors import ConfigError, DataError
    from minigpt4.common.files import nearest_path, replacing, require_writable

    if not args.source.exists():
        raise ConfigError(f"no file or folder {args.source.absolute()}{nearest_path(args.source)}")
    require_writable(args.out, "--out")
    if args.out.exists():
        raise ConfigError(f"--out: {args.out} exists already: please remove it or name another file")
    records = _readable(READERS[args.format or _format_of(args.source)](args), args.source)
    good, bad, ids = 0, Counter[str](), set[int]()
    with replacing(args.out) as temporary, temporary.open("x", encoding="utf-8") as file:
        for record in records:
            if (name := hash(str(record.get("id")))) in ids:  # LLaVA's are those of pictures
                record.pop("id", None)
            ids.add(name)
            text, problem = _line(record)
            if problem:
                bad[problem] += 1
                continue
            file.write(text + "\n")
            good += 1
        for problem, count in bad.most_common(5):
            log.warning("%d left out: %s", count, problem)
        if not good or bad.total() > MOST_BAD * (good + bad.total()):
            raise DataError(f"{bad.total()} of {good + bad.total()} records of {args.source} cannot be used")
    log.info("%s: %d lines. `minigpt4 validate` checks its pictures", args.out, good)


def _readable(records: Records, source: Path) -> Records:
    """The same records; a damaged file is one line that names it."""
    from minigpt4.common.errors import DataError, reading

    with reading(source, DataError):
        yield from records


def _line(record: dict[str, Any]) -> tuple[str, str]:
    """A record -> its line, and what is wrong with it, or ""."""
    from minigpt4.datasets.datasets.foreign_lines import as_own
    from minigpt4.datasets.datasets.jsonl_format import KEYS, check_line

    kept = {key: value for key, value in as_own(record).items() if key in KEYS and value not in (None, "")}
    try:
        text = json.dumps(kept, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:  # a column of bytes or dates, say
        return "", f"cannot be written as JSON: {error}"
    _, problems = check_line(text.encode("utf-8", "surrogatepass"))
    return text, problems[0] if problems else ""


def _format_of(source: Path) -> str:
    """What a file or folder is, by its name or its first key."""
    from minigpt4.common.errors import ConfigError, DataError, reading
    from minigpt4.common.files import open_regular
    from minigpt4.datasets.datasets.json_stream import stream_mapping

    if source.is_dir() or source.suffix == ".parquet":
        return "parquet"
    if source.suffix in (".csv", ".tsv"):
        return "csv"
    if source.suffix == ".jsonl":
        raise ConfigError(
            f"{source}: JSONL is read as it is, conversations and messages, too: see `minigpt4 validate`"
        )
    if source.suffix != ".json":
        raise ConfigError(f"{source}: please say what it is: --format {' | '.join(FORMATS)}")
    with reading(source, DataError), open_regular(source) as file:
        if file.read(4096).lstrip()[:1] == b"[":
            return "llava"
    keys = {key for key, _ in stream_mapping(source)}
    return "vqa" if "questions" in keys else "coco"


def _llava(args: argparse.Namespace) -> Records:
    from minigpt4.datasets.datasets.json_stream import stream_list

    return (record for record in stream_list(args.source) if isinstance(record, dict))


def _coco(args: argparse.Namespace) -> Records:
    from minigpt4.datasets.datasets.json_stream import stream_list

    names = {image["id"]: image["file_name"] for image in stream_list(args.source, "images")}
    for one in stream_list(args.source, "annotations"):
        yield {
            "image": names.get(one["image_id"]),
            "caption": one.get("caption"),
            "id": str(one.get("id", "")),
        }


def _vqa(args: argparse.Namespace) -> Records:
    from minigpt4.common.errors import ConfigError
    from minigpt4.datasets.datasets.json_stream import stream_list

    if args.answers is None or "{" not in (args.pictures or ""):
        raise ConfigError("vqa needs --answers JSON, and --pictures with {} where an image's id goes")
    answers = {one["question_id"]: _answer(one) for one in stream_list(args.answers, "annotations")}
    for one in stream_list(args.source, "questions"):
        yield {
            "image": args.pictures.format(one["image_id"]),
            "question": one["question"],
            "answer": answers.get(one["question_id"]),
            "id": str(one["question_id"]),
        }


def _answer(annotation: dict[str, Any]) -> str | None:
    """The answer that most people gave."""
    if "multiple_choice_answer" in annotation:
        return annotation["multiple_choice_answer"]
    given = Counter(str(one["answer"]) for one in annotation.get("answers", []))
    return given.most_common(1)[0][0] if given else None


def _csv(args: argparse.Namespace) -> Records:
    import csv

    from minigpt4.common.errors import DataError
    from minigpt4.common.files import open_regular

    columns = _columns(args)
    with io.TextIOWrapper(open_regular(args.source), encoding="utf-8-sig", newline="") as file:
        try:
            heading = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=max(",;\t", key=heading.count))
            _check_columns(args, columns, rows.fieldnames or ())
            for row in rows:
                yield {key: row.get(column) for key, column in columns.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{args.source} is not a table: {error}") from error


def _parquet(args: argparse.Namespace) -> Records:
    """Rows of all files, in order; pictures are written to a folder beside `--out`."""
    from minigpt4.common.errors import ConfigError, reading
    from minigpt4.common.files import open_regular

    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError("parquet needs pyarrow: pip install .[data]") from error
    files = sorted(args.source.rglob("*.parquet")) if args.source.is_dir() else [args.source]
    if not files:
        raise ConfigError(f"{args.source} has no .parquet file")
    columns, folder, number = _columns(args), args.out.with_suffix(""), 0
    for path in files:
        with reading(path), open_regular(path) as file:
            table = parquet.ParquetFile(file)
            _check_columns(args, columns, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    record = {key: row[column] for key, column in columns.items() if column in row}
                    record |= {key: row[key] for key in ("conversations", "messages") if key in row}
                    record["image"] = _saved(record.get("image"), folder, number)
                    number += 1
                    yield record


def _saved(image: Any, folder: Path, number: int) -> Any:
    """A picture inside a row, `{"bytes", "path"}`, becomes a file; a path stays as it is."""
    content = image.get("bytes") if isinstance(image, dict) else None
    if content is None:
        return image.get("path") if isinstance(image, dict) else image
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{number:08}{'.png' if content.startswith(b'%sPNG' % bytes([137])) else '.jpg'}"
    (folder / name).write_bytes(content)
    return f"{folder.name}/{name}"


def _columns(args: argparse.Namespace) -> dict[str, str]:
    """Key of a line -> name of its column."""
    from minigpt4.common.errors import ConfigError

    columns = {key: key for key in ("image", "caption", "question", "answer", "id", "group")}
    for word in args.columns:
        key, equals, column = word.partition("=")
        if not equals or key not in columns:
            raise ConfigError(f"--columns wants KEY=COLUMN with {', '.join(columns)}; found {word!r}")
        columns[key] = column
    return columns


def _check_columns(args: argparse.Namespace, columns: dict[str, str], there: Collection[str]) -> None:
    """Raise ConfigError where a table lacks the pictures, all texts, or a column that `--columns` names."""
    from minigpt4.common.errors import ConfigError

    wanted = ["image", *(word.partition("=")[0] for word in args.columns)]
    if not {columns["caption"], columns["question"], "conversations", "messages"} & set(there):
        wanted.append("caption")
    for key in wanted:
        if columns[key] not in there:
            raise ConfigError(
                f"{args.source} has no column {columns[key]!r}, it has {', '.join(there)}: "
                f"please name the right one with --columns {key}=…"
            )


READERS: dict[str, Callable[[argparse.Namespace], Records]] = {
    "llava": _llava,
    "coco": _coco,
    "vqa": _vqa,
    "csv": _csv,
    "parquet": _parquet,
}

if __name__ == "__main__":
    main()
