"""Numbers, names and tables for people: one spelling for all commands."""

import re
from collections.abc import Collection, Sequence


def format_bytes(size: float) -> str:
    """A number of bytes: `512 B`, `7.0 kB`, `456.0 MB`, `12.3 GB`, `1.5 TB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `2 h 05 min` or `3 d 04 h`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24:02} h"


def format_count(count: int, one: str, many: str = "") -> str:
    """`1 step`, `1,200 steps`, `2 processes`; `many` is the plural where `one` + s is not."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def writable(text: str) -> str:
    """A text with what UTF-8 cannot hold (half of a character, a byte of a name) written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def format_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells as lines of columns, each as wide as its widest cell.

    Args:
        rows: all of the same length.
        right: numbers of the columns that are aligned at their right edge.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(cells)]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def format_markdown(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells as a table in Markdown; the first row is the heading, and `right` is as above."""
    lines = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    edges = ("---:" if column in right else "---" for column in range(len(rows[0])))
    return "\n".join([lines[0], f"| {' | '.join(edges)} |", *lines[1:]]) + "\n"


def _markdown_cell(text: str) -> str:
    """A text on one line in which nothing is a mark or a tag."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)
