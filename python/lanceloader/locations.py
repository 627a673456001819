"""The locations of the rows of a batch, for errors and the log: row offsets, and row ids if known."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from lanceloader._native import Order
from lanceloader.numbers import numbers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanceloader.sources import Source

__all__ = [
    "RowLocation",
    "add_note",
    "list_numbers",
    "location_of_rows",
    "name_rows",
    "noting",
]

MOST = 8
"""The most rows to list one by one."""

MARK = "lanceloader: "
"""The prefix of the notes added here; an exception that is raised several times keeps one of them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class RowLocation:
    """The name of a batch, and the locations of its rows.

    Args:
        batch: The name of the batch.
        name: Returns a text that names the rows at some positions of the batch. It is called with
            the positions to list and the number of all rows.
    """

    def __init__(
        self, batch: str, name: Callable[[Sequence[int], int], str] | None = None
    ) -> None:
        self.batch = batch
        self._name = name

    def rows(self, ats: Sequence[int]) -> str:
        """Return a text that names the rows at some positions of the batch."""
        # An error of the lookup must not replace the error that is reported.
        with contextlib.suppress(Exception):
            if self._name is not None:
                return self._name(ats[:MOST], len(ats))
        return list_numbers("row", ats[:MOST], len(ats))

    def note(self, error: BaseException, num_rows: int, more: str = "") -> None:
        """Add a note to an error, which names the batch and its rows."""
        rows = "" if num_rows == 0 else f": {self.rows(range(num_rows))}"
        size = "1 row" if num_rows == 1 else f"{num_rows:,} rows"
        add_note(error, f"in {self.batch} of {size}{rows}{more}")

    def note_row(self, error: BaseException, at: int) -> None:
        """Add a note to an error, which names the row and its batch."""
        add_note(error, f"at {self.rows([at])}, in {self.batch}")


def noting(
    call: Callable[[Item], Result], locations: Callable[[int], RowLocation]
) -> Callable[[Item], Result]:
    """Return a function that calls ``call`` with each batch, and adds the location to its errors.

    Args:
        call: The function of a batch.
        locations: Returns the location of a batch, by its number in the order of calls.
    """
    number = -1

    def noted(batch: Item) -> Result:
        nonlocal number
        number += 1
        try:
            return call(batch)
        except Exception as error:
            locations(number).note(error, num_rows_of(batch))
            raise

    return noted


def location_of_rows(
    source: Source, order: Order, positions: Sequence[int], batch: str = "a batch"
) -> RowLocation:
    """Return the location of a batch that holds the rows at some positions of an order."""

    def name(ats: Sequence[int], num_rows: int) -> str:
        offsets = [order.at(int(positions[at])) for at in ats]
        return name_rows(source, offsets, num_rows)

    return RowLocation(batch, name)


def name_rows(source: Source, offsets: Sequence[int], num_rows: int) -> str:
    """Return a text that names rows of a table, which are the first of ``num_rows``."""
    if source.rows_are_ids:
        return list_numbers("`_rowid`", offsets, num_rows)
    named = list_numbers("row offset", offsets, num_rows)
    ids = None
    with contextlib.suppress(Exception):
        ids = ids_of(source, offsets)
    return (
        named if ids is None else f"{named} ({list_numbers('`_rowid`', ids, len(ids))})"
    )


def ids_of(source: Source, offsets: Sequence[int]) -> list[int] | None:
    """Return the row ids of row offsets, or ``None`` if finding them would take a scan."""
    native = getattr(source, "native", None)
    if native is None or source.version is None:
        return None
    found = native.row_ids(Order.listed(offsets), 0, len(offsets))
    ids: list[int] = numbers_of(found).to_pylist()
    return ids


def list_numbers(what: str, numbers: Sequence[int], count: int) -> str:
    """Return a text that lists numbers, which are the first of ``count``."""
    text = ", ".join(map(str, numbers))
    if count > len(numbers):
        text += f" and {count - len(numbers):,} more"
    is_one = count == 1 or what.startswith("`")
    return f"{what}{'' if is_one else 's'} {text}"


def num_rows_of(batch: Any) -> int:
    """Return the number of rows of a raw batch."""
    return int(getattr(batch, "num_rows", 0))


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an error, in place of an earlier one with the same prefix."""
    notes = [
        note for note in getattr(error, "__notes__", ()) if not note.startswith(MARK)
    ]
    with contextlib.suppress(Exception):
        error.__notes__ = [*notes, MARK + text]
