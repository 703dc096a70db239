"""Read what may come from outside, mutated at random: it is used, counted or refused, or a fault is shown.

Each case copies a valid input, changes bytes, fields or structure of it, and reads it in a process of its
own. It must end in success or in one clear error of our own, within seconds and 2 GB, write nothing outside
of its folder, start nothing, and ask no other machine. Case -1 of each target changes nothing.

example:
  make fuzz
  python -m tests.fuzz --cases 500 --only gguf shards
  python -m tests.fuzz --only gguf --seed 3 --case 17       # this one again
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import run_cases
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Choose, run, count, show; exit with 1 after a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        *("--only", "-o"), nargs="+", default=list(TARGETS), choices=TARGETS, metavar="NAME", help="targets"
    )
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other cases")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="of each target")
    parser.add_argument("--case", type=int, metavar="N", help="this one alone")
    args = parser.parse_args()
    numbers = range(-1, args.cases) if args.case is None else range(args.case, args.case + 1)
    faults = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name in args.only:
            kinds: Counter[str] = Counter()
            begun = time.monotonic()
            for case in run_cases(name, args.seed, numbers, Path(folder)):
                kinds[case.outcome.kind] += 1
                faults += case.is_fault
                if case.is_fault or args.case is not None:
                    print(case, flush=True)
            print(f"{name:14}{dict(kinds)} in {time.monotonic() - begun:.0f} s", flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
