"""Questions about held-out scenes of the drawn world: as JSONL for evaluate.py, as parquet for lmms-eval.

example:
  python -m benchmarks.lmms_eval.make_data --out output/tiny_scenes --questions 300

writes test.jsonl, pictures/ and test.parquet with the same questions in the same order.
"""

import argparse
import json
import random
from pathlib import Path

from dataset.shapes import language, make_shards


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--questions", type=int, default=300, metavar="N", help="(300)")
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    write(args.out, args.questions, args.seed)


def write(folder: Path, count: int, seed: int) -> None:
    """Write both forms of `count` questions, each about a picture of its own."""
    import pyarrow
    from pyarrow import parquet

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng, rows, lines = random.Random(seed), [], []
    for number, (scene, picture) in enumerate(make_shards.samples("test", count, seed)):
        turn = language.ask(scene, rng)
        (folder / f"pictures/{number}.jpg").write_bytes(picture)
        rows.append({"image": picture, "question": turn.question, "answer": turn.answer})
        line = {"image": f"pictures/{number}.jpg", "question": turn.question, "answer": turn.answer}
        lines.append(json.dumps(line) + "\n")
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test.parquet")


if __name__ == "__main__":
    main()
