"""Raw batches, before any format: one interface for the core and for the table's own library."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.numbers import numbers_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader._native import Order
    from lanceloader.units.share import Share

__all__ = [
    "RawBatches",
    "batches_ending_at",
    "batches_of",
    "is_external",
    "stats_of",
    "with_empty_last",
]


@dataclass
class RawBatches:
    """The raw batches of an epoch, and what counts them.

    Attributes:
        batches: The batches, in order. Dropping it stops whatever reads ahead.
        watch: The counters of the core; ``None`` for batches that the table's own library reads.
        size_of: Returns the bytes of a batch, where ``watch`` does not count these batches.
        close: Stops reading ahead at once.
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
    """Read rows in batches of ``size``, or of a size that suits the reader.

    Args:
        reader: A reader of the core, or of the table's own library.
        order: The rows.
        size: Rows of a batch.
        after: Rows to prepare for meanwhile, as they will be read next.
    """
    if isinstance(reader, _native.Reader):
        batches = reader.load(order, size, False, after)  # noqa: FBT003
        return RawBatches(batches, batches.watch())
    return RawBatches(iter(reader.load(order, size, False)))  # noqa: FBT003


def batches_ending_at(
    reader: Any, order: Order, ends: Any, after: Order | None = None
) -> RawBatches:
    """Read rows in batches that end at ``ends``, 64-bit numbers of the core; see ``batches_of``."""
    stops = numbers_of(ends)
    if isinstance(reader, _native.Reader):
        batches = reader.load(order, None, False, after, numpy_of(stops))  # noqa: FBT003
        return RawBatches(batches, batches.watch())
    cuts = pairwise([0, *stops.to_pylist()])
    return RawBatches(reader.read(order, start, stop) for start, stop in cuts)


def with_empty_last(
    raw: RawBatches, share: Share, reader: Any, order: Order
) -> RawBatches:
    """Append a batch without rows if other ranks have one more batch, so that steps stay equal."""
    if share.last_size == 0:
        raw.batches = _followed(raw.batches, lambda: reader.read(order, 0, 0))
    return raw


def _followed(batches: Iterator[Any], last: Callable[[], Any]) -> Iterator[Any]:
    yield from batches
    yield last()


def is_external(reader: Any, orders: list[Order]) -> bool:
    """Return whether rows go through scratch files, which can be prepared for the next epoch."""
    if not orders or not isinstance(reader, _native.Reader):
        return False
    return reader.strategy(orders[-1]) == "external"


def stats_of(reader: Any) -> _native.ReadStats | None:
    """Return what a reader of the core has read so far; ``None`` for other readers."""
    return reader.stats() if isinstance(reader, _native.Reader) else None
