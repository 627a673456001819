"""What a loader serves: units in a fixed order, of which batches are made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader import _native
from lanceloader._native import Order
from lanceloader.units.batches import batches_of, stepping_along

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader.loader.share import Share
    from lanceloader.sources import Source
    from lanceloader.verbs.base import View
    from lanceloader.verbs.reading import ReadVerbs

__all__ = [
    "RowUnits",
    "Units",
    "ViewUnits",
    "epoch_of",
    "offsets_at",
    "order_of",
    "plan_of",
]


class Units(Protocol):
    """What a loader serves in batches."""

    unit: str
    """What it is counted in, for messages: ``"row"``, ``"block"`` or ``"batch"``."""

    @property
    def view(self) -> View:
        """The permutation that rows come from, for messages and statistics."""

    def num_units(self, epoch: int | None) -> int:
        """Count the units of an epoch; ``None`` is the epoch of the permutation itself."""

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the raw batches of a share; ``following`` is what will be loaded next."""

    def convert(self, raw: Any) -> Any:
        """Give a raw batch in its format."""

    def plan(self) -> dict[str, int | str]:
        """Give what decides which unit stands where, but for the epoch, for states and messages."""

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Say where in a table the rows at some places of a batch lie, for messages."""

    # Those that are more than rows have `explain()` too.

    def reads(self) -> _native.ReadStats | None:
        """Say what was read so far, by all readers of the same rows in this process, if it is known."""


class ViewUnits:
    """What is served in the format of a permutation."""

    def __init__(self, view: ReadVerbs, *, by_column: bool = False) -> None:
        """Serve a permutation, in its format.

        Args:
            view: The permutation.
            by_column: Whether raw batches must have its columns, as for taking them apart by
                row; the core may else put the values of each row side by side.
        """
        self._view = view
        self._by_column = by_column
        self._convert = view._converter()
        self._known: dict[str, int | str] | None = None

    @property
    def view(self) -> ReadVerbs:
        """The permutation."""
        return self._view

    def convert(self, raw: Any) -> Any:
        """Give a raw batch in the format of the permutation."""
        return self._convert(raw)

    def plan(self) -> dict[str, int | str]:
        """Give what decides which row stands where."""
        if self._known is None:
            self._known = plan_of(self._view)
        return self._known

    def reads(self) -> _native.ReadStats | None:
        """Say what was read so far."""
        reader = self._view._ensure_open()
        return reader.stats() if isinstance(reader, _native.Reader) else None

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Say where in the table the rows at some places of a batch lie: here it is not known."""
        del epoch, share, number, ats
        return None

    def _reader(self) -> Any:
        return self._view._open_for_format(by_column=self._by_column)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_convert": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._convert = self._view._converter()


class RowUnits(ViewUnits):
    """The rows of a permutation, one by one."""

    unit = "row"

    def num_units(self, epoch: int | None) -> int:
        """Count the rows; every epoch has the same ones."""
        del epoch
        return self._view.num_rows

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the raw batches of a share."""
        order, after = self._view._order, None
        if following is not None:
            next_epoch, next_share = following
            after = order_of(epoch_of(order, next_epoch), next_share)
        return self.load_order(epoch_of(order, epoch), share, after)

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Say where in the table the rows at some places of a batch lie."""
        order = epoch_of(self._view._order, epoch)
        return self._view._source, offsets_at(order, share, number, ats)

    def load_order(
        self, order: Order, share: Share, after: Order | None
    ) -> Iterator[Any]:
        """Give the raw batches of a share of any order of the table; ``after`` is loaded next."""
        reader = self._reader()
        batches = batches_of(reader, order_of(order, share), share.size, after)
        return stepping_along(batches, share, reader, order)


def epoch_of(order: Order, epoch: int | None) -> Order:
    """Give an order as it is in an epoch."""
    return order if epoch is None else order.with_epoch(epoch)


def offsets_at(
    order: Order, share: Share, number: int, ats: Sequence[int]
) -> list[int]:
    """Return what an order has at some places of a batch of a share."""
    units = share.batch(number)
    return [order.at(units[at] % share.num_units) for at in ats]


def order_of(order: Order, share: Share) -> Order:
    """Give the units of a share, one batch after another."""
    if share.num_served == 0:
        return order.slice(0, 0)
    if share.is_run:
        return order.slice(share.first, share.num_served)
    parts = []
    if share.num_full:
        whole = share.num_full * share.size
        parts.append(order.blocks(share.first, share.size, share.stride, whole))
    if share.last_size:
        end = share.last_start + share.last_size
        laps = -(-end // share.num_units)
        parts.append(order.repeat(laps).slice(share.last_start, share.last_size))
    return parts[0] if len(parts) == 1 else Order.concat(parts)


def plan_of(view: View) -> dict[str, int | str]:
    """Give what decides which row of a permutation stands where, in every epoch.

    The table is known by the names of its files, so it may be moved or copied; data in memory by
    their columns and the number of rows. Hashing a filter or a list of rows costs some nanoseconds
    a row, anything else nothing.
    """
    source, order = view._source, view._order.with_epoch(0)
    as_it_is = view._order.fingerprint()
    native = getattr(source, "native", None)
    table = None if native is None else native.identity
    text = repr(order).removeprefix("<Order of ").removesuffix(">")
    return {
        "table": table or described(source),
        "version": source.version or 0,
        "rows": order.num_rows,
        "order": text,
        "fingerprint": f"{order.fingerprint():016x}",
        "as it is": f"{as_it_is:016x}",
    }


MAX_TEXT = 200


def described(source: Source) -> str:
    """Tell a table from others that has no files of its own."""
    if source.version is not None:
        return f"{source.name} at version {source.version}"
    columns = ", ".join(f"{field.name}: {field.type}" for field in source.schema)
    if len(columns) > MAX_TEXT:
        hashed = hashlib.blake2b(columns.encode(), digest_size=8).hexdigest()
        columns = f"{len(source.schema):,} columns, {hashed}"
    return f"{source.name} of {source.num_rows:,} rows of {columns}"
