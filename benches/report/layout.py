"""Markdown tables that read well as text, too, and how figures are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Row = Sequence[str]
NOTHING = "-"
FIGURE = re.compile(r"(?:[\d≥≤-].*)?$")
"""What a cell of figures begins with, if it is not empty."""


def table(rows: Iterable[Row]) -> str:
    """Lay out a table; the first row is the heading."""
    columns = [laid_out(column) for column in zip(*rows, strict=True)]
    lines = [" | ".join(row) for row in zip(*columns, strict=True)]
    return "\n".join(f"| {line} |" for line in lines)


def laid_out(column: tuple[str, ...]) -> list[str]:
    """Pad a column, with the rule below its heading; figures stand on the right."""
    heading, *cells = column
    width = max(3, *map(len, column))
    if all(map(FIGURE.match, cells)):
        return [
            cell.rjust(width) for cell in (heading, "-" * (width - 1) + ":", *cells)
        ]
    return [cell.ljust(width) for cell in (heading, "-" * width, *cells)]


def number(value: float) -> str:
    """Write three digits, and no fewer than the whole number has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
