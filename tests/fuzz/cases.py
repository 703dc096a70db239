"""Cases of a target: a valid input, mutated by a seed, and how reading it ended."""

import io
import random
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.cage import OUTSIDE, Outcome, attempt
from tests.fuzz.data import golden
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS

UNCHANGED = -1  # the number of the case that is the valid input itself


@dataclass(frozen=True)
class Case:
    """One case; written out, it says how it is repeated."""

    name: str
    seed: int
    number: int
    how: str
    outcome: Outcome

    @property
    def is_fault(self) -> bool:
        return self.outcome.is_fault or (self.number == UNCHANGED and self.outcome.kind != "fine")

    def __str__(self) -> str:
        command = f"python -m tests.fuzz --only {self.name} --seed {self.seed} --case {self.number}"
        return f"{command}\n  changed: {self.how}\n  {self.outcome.kind}: {self.outcome.said}\n"


def run_cases(name: str, seed: int, numbers: range, folder: Path) -> Iterator[Case]:
    """Run cases of a target.

    Args:
        name: of `TARGETS`.
        seed, numbers: each case depends on these and the name alone.
        folder: an empty one, for what they read.
    """
    target, template = TARGETS[name], folder / name / "template"
    template.mkdir(parents=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        target.write(template)
        golden()  # here, for otherwise every case would build one
    for number in numbers:
        place = folder / name / str(number) / "in"
        shutil.copytree(template, place)
        outside = place.with_name(OUTSIDE)
        outside.write_text(OUTSIDE)
        rng = random.Random(f"{seed}/{name}/{number}")
        how = "nothing" if number == UNCHANGED else mutate(place, rng, outside if target.replaced else None)
        yield Case(name, seed, number, how, attempt(target.read, place))
        shutil.rmtree(place.parent, ignore_errors=True)
