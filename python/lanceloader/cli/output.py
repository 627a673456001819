"""What commands print: tables, lines, JSON and bars."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lanceloader.monitor.formatting import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "bar",
    "cell",
    "plain",
    "print_json",
    "print_line",
    "print_table",
    "quantity",
    "size",
]

_WIDEST_CELL = 40
_MOST_VALUES = 4
_WITHOUT_A_TERMINAL = 1000


def print_line(text: str = "") -> None:
    """Print a line to standard output."""
    sys.stdout.write(f"{text}\n")


def print_json(value: Any) -> None:
    """Print a value as JSON, indented; NaN and infinities become strings."""
    print_line(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Return a value of a row as a value that JSON can represent.

    Binary becomes base64; dates, times, decimals and paths become strings, and so do ``NaN`` and
    infinities, which JSON does not have.
    """
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def cell(value: Any) -> str:
    """Return a value as a short text without line breaks or control characters."""
    if value is None:
        return "null"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value):,} bytes>"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        first = ", ".join(cell(each) for each in value[:_MOST_VALUES])
        rest = f", … {len(value):,} values" if len(value) > _MOST_VALUES else ""
        return f"[{first}{rest}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{name}: {cell(each)}" for name, each in value.items())
        return shortened(f"{{{inner}}}")
    return shortened(str(value))


def shortened(text: str) -> str:
    """Return the beginning of a text, with control characters as escapes."""
    is_long = len(text) > _WIDEST_CELL
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:_WIDEST_CELL]
    )
    return f"{text}…" if is_long else text


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
) -> None:
    """Print a table to standard output.

    Args:
        headers: The names of the columns.
        rows: The cells.
        right: The headers of the columns that are aligned to the right.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        table.add_column(
            Text(header),
            justify="right" if header in right else "left",
            overflow="ellipsis",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    width = None if sys.stdout.isatty() else _WITHOUT_A_TERMINAL
    console = Console(file=sys.stdout, highlight=False, width=width)
    with console.capture() as capture:
        console.print(table)
    # Rows are padded to the width of the table.
    for line in capture.get().splitlines():
        print_line(line.rstrip())


def size(number: float | None) -> str:
    """Return a number of bytes with a unit, or ``unknown``."""
    return "unknown" if number is None else readable(number)


def quantity(number: float) -> str:
    """Return a number with three digits, as in ``3.14 M``."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return (
                f"{number / limit:.3g}{unit}"
                if number < 1000 * limit
                else f"{number / limit:,.0f}{unit}"
            )
    return f"{number:.3g}"


@contextmanager
def bar(
    what: str, *, show: bool | None, in_bytes: bool = False
) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error; yield a function that sets its position and length.

    Args:
        what: What the bar is called.
        show: Whether to show it; by default on a terminal.
        in_bytes: Whether it counts bytes, and not rows.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda _done, _total: None
        return
    # If it was requested, the bar is shown without a terminal, too.
    console = Console(file=sys.stderr, force_terminal=True if show else None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
