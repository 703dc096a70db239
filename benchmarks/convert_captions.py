#!/usr/bin/env python
"""How fast a published caption list is converted, and in how much memory, compared with json.load.

Writes a list with BLIP's format and entry length, converts it to TSV and parquet in fresh processes, and does
the same the simple way: json.load, then write.

example:
  python benchmarks/convert_captions.py --json output/convert_captions.json
  python benchmarks/convert_captions.py --gigabytes 0.1      # small, to try it
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("a", "the", "dog", "cat", "man", "street", "photo", "of", "sitting", "with", "red", "large", "front")
WAYS = {"streamed to TSV": "out.tsv", "streamed to parquet": "out.parquet", "json.load to TSV": "plain.tsv"}


def main() -> None:
    """Write the list, convert it each way, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the list (2)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "list.json"
        write_list(source, int(args.gigabytes * 1e9))
        figures["gigabytes"] = round(source.stat().st_size / 1e9, 2)
        for way, name in WAYS.items():
            again = [sys.executable, __file__, "--measure", way, str(source), f"{folder}/{name}"]
            done = subprocess.run(again, stdout=subprocess.PIPE, text=True)
            # Killed by a signal: out of memory.
            figures[way] = json.loads(done.stdout) if done.returncode == 0 else f"failed ({done.returncode})"
            Path(folder, name).unlink(missing_ok=True)
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def write_list(path: Path, size: int) -> None:
    """Captions of about 60 characters and URLs of about 70, in blocks that repeat."""
    rng = random.Random(0)
    block = ", ".join(
        json.dumps(
            {
                "caption": " ".join(rng.choices(WORDS, k=11)),
                "url": f"https://images.example.com/{rng.getrandbits(128):032x}/{n}.jpg",
            }
        )
        for n in range(10_000)
    )
    with path.open("w") as file:
        file.write("[" + block)
        for _ in range(size // len(block)):
            file.write(", " + block)
        file.write("]")


def measure(way: str, source: str, target: str) -> dict[str, float]:
    """Seconds, rows per second, and the process's peak memory in MB."""
    started = time.perf_counter()
    if way.startswith("streamed"):
        from minigpt4.commands.convert_captions import convert

        rows = convert(Path(source), Path(target)).rows
    else:
        with open(source, encoding="utf-8") as file:
            entries = json.load(file)
        rows = len(entries)
        with open(target, "w", encoding="utf-8") as file:
            file.writelines(f"{entry['url']}\t{entry['caption']}\n" for entry in entries)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_mb": round(peak),
    }


if __name__ == "__main__":
    main()
