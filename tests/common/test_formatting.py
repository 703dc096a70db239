"""Numbers and tables for people."""

import pytest

from minigpt4.common.formatting import format_bytes, format_count, format_duration, format_table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")),
        *((4.56e8, "456.0 MB"), (12_345_678_901, "12.3 GB"), (9.9996e11, "1.0 TB"), (2.5e15, "2500.0 TB")),
    ],
)
def test_format_bytes_takes_the_unit_that_suits(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (3569, "59 min"), (3571, "1 h 00 min")),
        *((7500, "2 h 05 min"), (86_399, "1 d 00 h"), (100 * 3600, "4 d 04 h")),
    ],
)
def test_format_duration_takes_the_units_that_suit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_format_count_says_one_or_many() -> None:
    assert format_count(1, "step") == "1 step"
    assert [format_count(n, "process", "processes") for n in (0, 1200)] == ["0 processes", "1,200 processes"]


def test_format_table_aligns_columns() -> None:
    rows = [("part", "size", ""), ("a", "1,234", "x"), ("longer", "5", "")]
    assert format_table(rows, right=(1,)).split("\n") == [
        "part     size",
        "a       1,234  x",
        "longer      5",
    ]
