"""The algorithms of ``docs/determinism.md``, run from that page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "determinism.md"


def load() -> Any:
    """Give the functions of the page as attributes."""

    class Reference:
        pass

    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    reference = Reference()
    reference.__dict__.update(names)
    return reference


def tables() -> list[list[list[str]]]:
    """Give the cells of the tables of the page, without their heads."""
    found: list[list[list[str]]] = []
    in_table = False
    for line in PAGE.read_text().splitlines():
        if line.startswith("|"):
            if not in_table:
                found.append([])
            found[-1].append([cell.strip(" `") for cell in line.strip("|").split("|")])
        in_table = line.startswith("|")
    return [rows[2:] for rows in found]
