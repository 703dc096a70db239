"""How long a language model in a .gguf file takes to load: read by transformers alone, and read once.

Both ways alternate in one process, and their weights are compared bit by bit.

example:
  python -m benchmarks.gguf_start weight/gemma-3-270m-q4_k_m.gguf
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import transformers

from minigpt4.models.llm_loading import load_language_model


def main() -> None:
    """Load in turns, compare, print a line for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="F", help="files of language models")
    parser.add_argument("--turns", type=int, default=3, help="how often each is loaded either way")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    for file in args.files:
        # Below its decorator, transformers uses its own readers.
        ways = {"transformers' readers": load_language_model.__wrapped__, "read once": load_language_model}
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        weights = {}
        for _ in range(args.turns):
            for way, load in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                model = load(file, backbone="plain", device=torch.device("cpu")).model
                seconds[way].append((time.perf_counter() - wall, time.process_time() - cpu))
                weights[way] = model.state_dict()
        one, other = weights.values()
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for way, turns in seconds.items():
            wall, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"{file.name}, {way}: {wall:.1f} s, of which the processor {cpu:.1f} s")
        print(f"{file.name}: {len(one)} tensors are {'equal, bit by bit' if same else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
