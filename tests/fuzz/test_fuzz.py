"""A short, seeded part of `make fuzz`: some mutated inputs of each kind, and the unchanged one."""

import sys

import pytest

from tests.fuzz.cases import UNCHANGED, run_cases
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")

SECONDS = 0.6  # for each target, about


@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_from_outside_is_used_counted_or_refused(name: str, tmp_path) -> None:
    cases = range(UNCHANGED, max(1, int(SECONDS / TARGETS[name].seconds)))
    faults = [str(case) for case in run_cases(name, 0, cases, tmp_path) if case.is_fault]
    assert not faults, "\n".join(faults)
