"""What was asked, said and true of held-out data: every line for programs, the worst ones for people."""

import json
from collections.abc import Sequence
from pathlib import Path

from minigpt4.common.files import replacing
from minigpt4.common.formatting import format_markdown
from minigpt4.tasks.records import Record, wrong_first

# How many rows the table has, and characters a cell.
ROWS, CHARACTERS = 200, 200


def write_predictions(records: Sequence[Record], path: Path) -> bool:
    """Write what was asked, said and true: one line per record with a prediction, and a table beside it.

    Args:
        records: of an evaluation.
        path: a JSONL file. The table has the suffix `.md`: wrong answers first, `ROWS` at most.

    Returns:
        Whether there was one.
    """
    asked = [record for record in records if record.prediction is not None]
    if not asked:
        return False
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(_line(record), ensure_ascii=False) + "\n" for record in asked)
    first = wrong_first(asked)[:ROWS]
    rows = [["", "picture", "question", "reply", "truth"]]
    for record in first:
        mark = {True: "right", False: "wrong", None: ""}[record.right]
        texts = (_pictures(record), record.prompt or "", record.prediction or "", record.truth)
        rows.append([mark, *map(_short, texts)])
    heading = f"{len(first):,} of {len(asked):,} predictions, wrong ones first; all are in `{path.name}`.\n\n"
    table = heading + format_markdown(rows)
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(table, encoding="utf-8")
    return True


def _line(record: Record) -> dict[str, str | float | None]:
    return {
        "id": record.image_id,
        "picture": _pictures(record),
        "question": record.prompt,
        "reply": record.prediction,
        "truth": record.truth,
        **{name: float(score) for name, score in record.scores.items()},
    }


def _pictures(record: Record) -> str:
    """Their paths below the folder of pictures, line by line, or the key of a sample that is in a shard."""
    return record.cluster or record.image_id


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
