"""Markdown tables that read well as text, too."""

from __future__ import annotations

import re
from collections.abc import Sequence

Row = Sequence[str]
FIGURE = re.compile(r"(?:[\d≥≤-].*)?$")
"""What a cell of figures begins with, if it is not empty."""


def table(rows: Sequence[Row]) -> str:
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
