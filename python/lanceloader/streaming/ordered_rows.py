"""Rows that the core reads in the order in which they are yielded.

Without a transform, the order of an iteration is known when it begins. The core's loader reads
it in batches, ahead of the consumer, which turns them into Python objects one batch at a time,
or into columns for torch's default collate without any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader._native import Order, Reader
from lanceloader.formats.python import LazyRows, rows
from lanceloader.numbers import numpy_of, offsets_of
from lanceloader.streaming.counters import Gauges
from lanceloader.streaming.replaceable import is_pool_replaced, is_replaced, namespace
from lanceloader.units.batches import batches_of
from lanceloader.verbs.taking import TakeVerbs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader.streaming.counters import Counters

MAX_ROWS = 1024
"""The most rows that are read, and turned into Python objects, at once, if reads have fewer."""


class RowOrder(NamedTuple):
    """The rows of an iteration, in the order in which they are yielded."""

    perm: Any
    """A permutation with the source and the columns."""
    order: Order
    turns: int
    """The number of streams that take turns."""
    taken: dict[int, int]
    """Where the number of rows that were yielded is recorded."""
    key: int = 0
    """The key of that number."""


def is_ordinary(perm: Any) -> bool:
    """Return whether the core reads a permutation, and no program replaces how it is read."""
    return (
        type(perm) is namespace.Permutation
        and type(perm).__getitems__ is TakeVerbs.__getitems__
        and not (is_replaced("Permutation") or is_pool_replaced())
        and isinstance(perm.reader, Reader)
    )


def joined_order(perms: list[Any], positions: Any) -> Order:
    """Return the rows at some positions of several permutations, laid end to end."""
    whole = Order.concat([perm.order for perm in perms])
    picked = whole.pick(Order.listed(positions))
    # Evaluated, so that the orders it consists of need not be kept.
    return Order.listed(numpy_of(offsets_of(picked)))


class OrderedRows:
    """The rows of one iteration, and its counters.

    Args:
        plan: The rows.
        read_size: Rows of one read.
        counters: The counters of the dataset.
        is_watched: Whether another process reads the counters, after each turn.
    """

    def __init__(
        self, plan: RowOrder, read_size: int, counters: Counters, *, is_watched: bool
    ) -> None:
        self.plan = plan
        self.read_size = read_size
        self.counters = counters
        self.is_watched = is_watched
        self.num_rows = len(plan.order)
        self.num_read = 0
        plan.taken[plan.key] = 0

    def gauges(self, *, is_over: bool = False) -> Gauges:
        """Return the progress; after the end of the iteration, nothing waits."""
        yielded = self.plan.taken[self.plan.key]
        ready = 0 if is_over else self.num_read - yielded
        return Gauges(self.num_rows - self.num_read, 0, ready, yielded)

    def items(self, batch_size: int | None) -> Iterator[Any]:
        """Yield the rows, or batches of some size."""
        return self._rows() if batch_size is None else self._batches(batch_size)

    def _batches(self, size: int) -> Iterator[LazyRows]:
        """Yield batches of ``size`` rows, which are recorded as yielded."""
        for batch in self._read(size):
            self.plan.taken[self.plan.key] += batch.num_rows
            self.counters.publish(self.gauges())
            lazy = LazyRows(batch, self._make)
            # Neither is kept while the next batch is read.
            del batch
            yield lazy
            del lazy

    def _rows(self) -> Iterator[Any]:
        """Yield the rows."""
        _, _, turns, taken, key = self.plan
        yielded = 0
        size = max(self.read_size, min(MAX_ROWS, turns * self.read_size))
        for batch in self._read(size):
            made = self._make(batch)
            del batch
            for row in made:
                taken[key] = yielded = yielded + 1
                if self.is_watched and yielded % turns == 0:
                    self.counters.publish(self.gauges())
                yield row

    def _make(self, batch: pa.RecordBatch) -> list[Any]:
        began = namespace.time.perf_counter()
        made = rows(batch)
        seconds = namespace.time.perf_counter() - began
        self.counters.add(transform_time=seconds)
        return made

    def _read(self, size: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        raw = batches_of(self.plan.perm.reader, self.plan.order, size)
        before = 0
        for native in raw:
            batch = pa.record_batch(native)
            nanos = sum(raw.watch.stats().stage_nanos)
            seconds, before = (nanos - before) * 1e-9, nanos
            self.counters.add(bytes_loaded=native.nbytes, fetch_time=seconds)
            self.num_read += batch.num_rows
            del native
            yield batch
            del batch
