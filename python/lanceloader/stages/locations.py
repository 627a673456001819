"""Which rows a batch is made of, for errors and the log: row offsets, and row ids where they are known."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from lanceloader._native import Order
from lanceloader.numbers import numbers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanceloader.loader.share import Share
    from lanceloader.sources import Source
    from lanceloader.units.rows import Units

__all__ = ["BatchLocations", "RowLocation", "noting", "place_of_rows", "rows_named"]

MOST = 8
"""Rows that are named one by one."""

MARK = "lanceloader: "
"""What our notes begin with: an exception that is raised again and again gets one."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class RowLocation:
    """A batch and its rows.

    Args:
        batch: What the batch is called.
        name: Names the rows at some places of it, of which there may be more: how many in all is
            told, too.
    """

    def __init__(
        self, batch: str, name: Callable[[Sequence[int], int], str] | None = None
    ) -> None:
        self.batch = batch
        self._name = name

    def rows(self, ats: Sequence[int]) -> str:
        """Name rows, by their places in the batch."""
        # An error must not be lost because nobody can say where it was.
        with contextlib.suppress(Exception):
            if self._name is not None:
                return self._name(ats[:MOST], len(ats))
        return listed("row", ats[:MOST], len(ats))

    def note(self, error: BaseException, num_rows: int, more: str = "") -> None:
        """Add to an error which batch it was raised for, and of which rows that is."""
        rows = "" if num_rows == 0 else f": {self.rows(range(num_rows))}"
        size = "1 row" if num_rows == 1 else f"{num_rows:,} rows"
        add_note(error, f"in {self.batch} of {size}{rows}{more}")

    def note_row(self, error: BaseException, at: int) -> None:
        """Add to an error which row it was raised for."""
        add_note(error, f"at {self.rows([at])}, in {self.batch}")


class BatchLocations:
    """The batches of an epoch that a loader reads: gives the place of each, by its number.

    Args:
        served: What is served.
        epoch: The epoch.
        share: The part of it.
        first: What the first batch is called by.
        stride: From the number of a batch to that of the next.
    """

    def __init__(
        self, served: Units, epoch: int | None, share: Share, first: int, stride: int
    ) -> None:
        self._served = served
        self._epoch = epoch
        self._share = share
        self._first = first
        self._stride = stride

    def __call__(self, number: int) -> RowLocation:
        """Return the place of a batch, counted from 0."""
        called = f"batch {self._first + number * self._stride}"
        if self._epoch is not None:
            called += f" of epoch {self._epoch}"

        def name(ats: Sequence[int], num_rows: int) -> str:
            found = self._served.rows_at(self._epoch, self._share, number, ats)
            if found is not None:
                return rows_named(*found, num_rows)
            units = self._share.batch(number)
            return listed(self._served.unit, [units[at] for at in ats], num_rows)

        return RowLocation(called, name)


def noting(
    call: Callable[[Item], Result], places: Callable[[int], RowLocation]
) -> Callable[[Item], Result]:
    """Make a function that is called with one batch after another note where it fails."""
    number = -1

    def noted(batch: Item) -> Result:
        nonlocal number
        number += 1
        try:
            return call(batch)
        except Exception as error:
            places(number).note(error, num_rows_of(batch))
            raise

    return noted


def place_of_rows(
    source: Source, order: Order, positions: Sequence[int], batch: str = "a batch"
) -> RowLocation:
    """Return the place of a batch of the rows at some positions of an order."""

    def name(ats: Sequence[int], num_rows: int) -> str:
        offsets = [order.at(int(positions[at])) for at in ats]
        return rows_named(source, offsets, num_rows)

    return RowLocation(batch, name)


def rows_named(source: Source, offsets: Sequence[int], num_rows: int) -> str:
    """Name rows of a table, the first ones of ``num_rows``."""
    if source.rows_are_ids:
        return listed("`_rowid`", offsets, num_rows)
    named = listed("row offset", offsets, num_rows)
    ids = None
    with contextlib.suppress(Exception):
        ids = ids_of(source, offsets)
    return named if ids is None else f"{named} ({listed('`_rowid`', ids, len(ids))})"


def ids_of(source: Source, offsets: Sequence[int]) -> list[int] | None:
    """Look up row ids, where that takes no scan."""
    native = getattr(source, "native", None)
    if native is None or source.version is None:
        return None
    found = native.row_ids(Order.listed(offsets), 0, len(offsets))
    ids: list[int] = numbers_of(found).to_pylist()
    return ids


def listed(what: str, numbers: Sequence[int], count: int) -> str:
    """List numbers of things, the first ones of ``count``."""
    text = ", ".join(map(str, numbers))
    if count > len(numbers):
        text += f" and {count - len(numbers):,} more"
    is_one = count == 1 or what.startswith("`")
    return f"{what}{'' if is_one else 's'} {text}"


def num_rows_of(batch: Any) -> int:
    """Count the rows of a raw batch."""
    return int(getattr(batch, "num_rows", 0))


def add_note(error: BaseException, text: str) -> None:
    """Add a note of ours to an error, in the place of one that it has."""
    notes = [
        note for note in getattr(error, "__notes__", ()) if not note.startswith(MARK)
    ]
    with contextlib.suppress(Exception):
        error.__notes__ = [*notes, MARK + text]
