"""Raw batches, before any format, with one interface for the core and the table's own library."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from lanceloader import _native
from lanceloader.sources.core_readers import core_readers
from lanceloader.sources.window_reader import WindowReader
from lanceloader.units.counters import Watches, summed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader._native import Order
    from lanceloader.units.share import Share

__all__ = [
    "RawBatches",
    "arrow_bytes",
    "batches_ending_at",
    "batches_of",
    "is_external",
    "stats_of",
    "with_empty_last",
]


@dataclass
class RawBatches:
    """The raw batches of an epoch, and their counters.

    Attributes:
        batches: The batches, in order. Reading ahead stops when this iterator is dropped.
        watch: The counters of the core; ``None`` for batches that the table's own library reads.
        size_of: Returns the number of bytes in a batch, if ``watch`` counts other batches.
        close: Stops reading ahead.
    """

    batches: Iterator[Any]
    watch: Any = None
    size_of: Callable[[Any], int] | None = None
    close: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def batches_of(
    reader: Any, order: Order, size: int | None, after: Order | None = None
) -> RawBatches:
    """Return the rows of an order in batches of a fixed size.

    Args:
        reader: A reader of the core, of windows, or of the table's own library.
        order: The rows.
        size: The number of rows in a batch; by default the reader chooses.
        after: The rows that will be read next, which the reader prepares for.
    """
    if isinstance(reader, _native.Reader):
        batches = reader.load(order, size, False, after)  # noqa: FBT003
        return RawBatches(batches, batches.watch())
    if isinstance(reader, WindowReader):
        return _windows(reader, order, size, after, None)
    return RawBatches(iter(reader.load(order, size, False)))  # noqa: FBT003


def batches_ending_at(
    reader: Any, order: Order, ends: Any, after: Order | None = None
) -> RawBatches:
    """Return the rows of an order in batches that end at some positions; see ``batches_of``.

    Args:
        reader: A reader of the core, of windows, or of the table's own library.
        order: The rows.
        ends: The end of each batch, as an array of 64-bit integers.
        after: The rows that will be read next, which the reader prepares for.
    """
    if isinstance(reader, _native.Reader):
        batches = reader.load(order, None, False, after, ends)  # noqa: FBT003
        return RawBatches(batches, batches.watch())
    if isinstance(reader, WindowReader):
        return _windows(reader, order, None, after, ends)
    cuts = pairwise([0, *ends.tolist()])
    return RawBatches(reader.read(order, start, stop) for start, stop in cuts)


def _windows(
    reader: WindowReader, order: Order, size: int | None, after: Order | None, ends: Any
) -> RawBatches:
    """Return the windows of the rows of an order; the arguments are those of ``batches_of``."""
    batches = reader.load(order, size, False, after, ends)  # noqa: FBT003
    watches = batches.watches()
    watch = None if watches is None else Watches(watches)
    return RawBatches(batches, watch, size_of=attrgetter("nbytes"))


def arrow_bytes(batch: Any) -> int:
    """Return the number of bytes of a batch as Arrow data."""
    import pyarrow as pa

    return int(pa.record_batch(batch).nbytes)


def with_empty_last(
    raw: RawBatches, share: Share, reader: Any, order: Order
) -> RawBatches:
    """Append an empty batch if other ranks have one more, so that all take the same number of steps."""
    if share.last_size == 0:
        raw.batches = _with_last(raw.batches, lambda: reader.read(order, 0, 0))
    return raw


def _with_last(batches: Iterator[Any], last: Callable[[], Any]) -> Iterator[Any]:
    yield from batches
    yield last()


def is_external(reader: Any, orders: list[Order]) -> bool:
    """Return whether rows are shuffled through scratch files, which can be prepared in advance."""
    if not orders or not isinstance(reader, _native.Reader):
        return False
    return reader.strategy(orders[-1]) == "external"


def stats_of(reader: Any) -> _native.ReadStats | None:
    """Return the counters of what the core reads; ``None`` if another library reads a column."""
    if (readers := core_readers(reader)) is None:
        return None
    found = [each.stats() for each in readers]
    # `SummedReadStats` has the attributes of `ReadStats`.
    return found[0] if len(found) == 1 else cast("Any", summed(found))
