"""The rows of a permutation as units, and the base class of all units of a permutation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Order
from lanceloader.numbers import rows_at
from lanceloader.randomness import RowKeys
from lanceloader.units.batches import batches_of, stats_of, with_empty_last
from lanceloader.units.plan import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from lanceloader import _native
    from lanceloader.sources import RowReader, Source
    from lanceloader.units.batches import RawBatches
    from lanceloader.units.share import Share
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["RowUnits", "ViewUnits", "epoch_of", "offsets_at", "order_of", "places_of"]


class ViewUnits:
    """Units made from a permutation, in its format.

    Attributes:
        convert: Converts a raw batch to the format of the permutation.
    """

    is_drawn = False

    def __init__(self, view: ReadVerbs, *, by_column: bool = False) -> None:
        """Make units of a permutation.

        Args:
            view: The permutation; its format is that of the batches.
            by_column: Whether raw batches must have the columns of the permutation, for example to
                be split into rows; otherwise the core may make a matrix of rows.
        """
        self._view = view
        self._by_column = by_column
        self.convert = view.converter()
        self._known: dict[str, int | str] | None = None

    @property
    def view(self) -> ReadVerbs:
        """The permutation."""
        return self._view

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the rows."""
        if self._known is None:
            self._known = plan_of(self._view)
        return self._known

    @property
    def record(self) -> dict[str, Any] | None:
        """``None``, as the order does not depend on when an epoch begins."""
        return None

    def begin(self, epoch: int | None, record: dict[str, Any] | None) -> Any:
        """Return these units, which are the same whenever an epoch begins."""
        del epoch, record
        return self

    def readers(self, epoch: int | None) -> Iterator[tuple[RowReader, Order]]:
        """Yield the reader of the table, and the rows of an epoch that it reads."""
        yield self._view.open_reader(), epoch_of(self._view.order, epoch)

    def reads(self) -> _native.ReadStats | None:
        """Return the counters of the reader."""
        return stats_of(self._view.open_reader())

    def batch_text(self, size: int) -> str:
        """Return what a batch of so many units holds."""
        return f"{size:,} rows" if size != 1 else "1 row"

    def is_planned(self, epoch: int | None) -> bool:
        """Return whether ``num_units`` is known: it is."""
        del epoch
        return True

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows in a share: one for each unit."""
        del epoch
        return share.num_assigned

    def explain(self) -> str:
        """Return the lines that units add to ``Permutation.explain``: none."""
        return ""

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return ``None``, as the rows of a unit are unknown."""
        del epoch, share, number, ats
        return None

    def row_keys(self, epoch: int | None, share: Share, number: int) -> RowKeys:
        """Return what random operations on the rows of a batch draw from."""
        seed, own = self._view.randomness

        def find() -> tuple[int, int, np.ndarray[Any, Any]]:
            places = self.places(epoch, share, number)
            return seed, own if epoch is None else epoch, places

        return RowKeys(find)

    def places(
        self, epoch: int | None, share: Share, number: int
    ) -> np.ndarray[Any, Any]:
        """Return the place of each row of a batch in its table, as a ``uint64`` array."""
        raise NotImplementedError

    def _reader(self) -> Any:
        return self._view.open_format_reader(by_column=self._by_column)

    def __getstate__(self) -> dict[str, Any]:
        state = {
            name: value for name, value in self.__dict__.items() if name != "convert"
        }
        # Pickles are the same whether the plan is known or not.
        return state | {"_known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.convert = self._view.converter()


class RowUnits(ViewUnits):
    """The rows of a permutation. Units are rows."""

    unit = "row"

    def num_units(self, epoch: int | None) -> int:
        """Return the number of rows, which is the same in every epoch."""
        del epoch
        return self._view.num_rows

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share."""
        order, after = self._view.order, None
        if following is not None:
            next_epoch, next_share = following
            after = order_of(epoch_of(order, next_epoch), next_share)
        return self.load_order(epoch_of(order, epoch), share, after)

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some positions of a batch."""
        order = epoch_of(self._view.order, epoch)
        return self._view.source, offsets_at(order, share, number, ats)

    def places(
        self, epoch: int | None, share: Share, number: int
    ) -> np.ndarray[Any, Any]:
        """Return the row offset of each row of a batch, as a ``uint64`` array."""
        return places_of(epoch_of(self._view.order, epoch), share, number)

    def load_order(self, order: Order, share: Share, after: Order | None) -> RawBatches:
        """Return the raw batches of a share of an order of the table.

        Args:
            order: The rows of the epoch, of all ranks.
            share: The rows to read.
            after: The rows that will be read next, which the reader prepares for.
        """
        reader = self._reader()
        batches = batches_of(reader, order_of(order, share), share.size, after)
        return with_empty_last(batches, share, reader, order)


def epoch_of(order: Order, epoch: int | None) -> Order:
    """Return the order of an epoch."""
    return order if epoch is None else order.with_epoch(epoch)


def offsets_at(
    order: Order, share: Share, number: int, ats: Sequence[int]
) -> list[int]:
    """Return the row offsets at some positions of a batch of a share."""
    units = share.batch(number)
    return [order.at(units[at] % share.num_units) for at in ats]


def places_of(order: Order, share: Share, number: int) -> np.ndarray[Any, Any]:
    """Return the row offsets of a batch of a share, as a ``uint64`` array."""
    import numpy as np

    parts = [rows_at(order, range(*run)) for run in share.runs(number)]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def order_of(order: Order, share: Share) -> Order:
    """Return the rows of a share as an order, batch after batch."""
    if share.num_assigned == 0:
        return order.slice(0, 0)
    if share.is_run:
        return order.slice(share.first, share.num_assigned)
    parts = []
    if share.num_full:
        whole = share.num_full * share.size
        parts.append(order.blocks(share.first, share.size, share.stride, whole))
    if share.last_size:
        end = share.last_start + share.last_size
        laps = -(-end // share.num_units)
        parts.append(order.repeat(laps).slice(share.last_start, share.last_size))
    return parts[0] if len(parts) == 1 else Order.concat(parts)
