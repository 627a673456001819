"""Reordering the short rows of a table larger than the memory of tasks, in two passes.

In pass 1, each task reads a range of the table once and assigns every row to the bucket of its position:
the task writes a piece for each bucket to Ray's object store. In pass 2, each task gets the pieces of one
bucket, and yields their rows in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader._native import Order
from lanceloader.monitor.progress import reported
from lanceloader.numbers import numbers_of, numpy_of
from lanceloader.options import ReadOptions
from lanceloader.ray.batches import (
    arrow_batches,
    limit_of,
    ranges,
    row_bytes_of,
    strategy_of,
)
from lanceloader.ray.nodes import RETRIES, as_completed, count_cpus
from lanceloader.ray.recipe import credentials_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa

    from lanceloader._permutation import Permutation
    from lanceloader._typing import Progress
    from lanceloader.ray.recipe import Recipe
    from lanceloader.ray.stopping import Stop

    Piece = tuple[np.ndarray, pa.Buffer] | None

__all__ = ["Passes", "in_order"]

FEW_TASKS = 6
"""Up to this many tasks may each scan the whole table.

On two cores, two passes took 0.75 times as long as scans by 8 tasks, and 0.45 times as long as by 16.
"""

MOST_PIECES = 1 << 20
"""The maximum number of pieces, as the driver keeps a reference to each."""

MOST_BYTES = 1 << 30
"""The maximum bytes of rows that a task of pass 1 holds, and about those of a bucket."""

CHUNKS = 4
"""The number of reads that fill the memory of a task; fewer do where rows are longer than average."""

BATCH_BYTES = 4 << 20
"""The bytes of rows that a task of pass 2 sorts at a time."""

NOT_INVERTIBLE = {"listed", "draws", "mixed", "repeat", "concat"}
"""The kinds of maps of an order that do not give each row a single position."""


@dataclass(frozen=True)
class Passes:
    """The parameters of the two passes, which tasks of pass 1 get.

    Attributes:
        recipe: The permutation.
        buckets: The positions of each bucket: adjacent ranges from 0 on.
        sources: The rows of the table that each task reads.
        chunk_rows: The number of rows that are read together.
        held_bytes: The bytes of rows at which a task writes its pieces.
        stop: Tells tasks to stop.
    """

    recipe: Recipe
    buckets: list[range]
    sources: list[range]
    chunk_rows: int
    held_bytes: int
    stop: Stop

    @classmethod
    def of(
        cls, perm: Permutation, recipe: Recipe, num_tasks: int, stop: Stop
    ) -> Passes | None:
        """Return the passes for a permutation, or ``None`` if they would not pay or are not possible.

        Args:
            perm: The permutation.
            recipe: The same permutation, as tasks read it.
            num_tasks: The minimum number of tasks that write. There are more if their rows would not
                fit into memory.
            stop: Tells tasks to stop.
        """
        row_bytes = row_bytes_of(perm)
        if num_tasks <= FEW_TASKS or not row_bytes or not perm.num_rows:
            return None
        if strategy_of(perm) != "external":
            return None
        reduced: Any = perm.order.__reduce__()
        _, maps = reduced[1]
        if any(kind in NOT_INVERTIBLE for kind, *_ in maps):
            return None
        num_rows = len(perm.source.all_rows())
        held_bytes = max(row_bytes, min(MOST_BYTES, limit_of(perm) // 2))
        buckets = max(num_tasks, -(-perm.num_rows * row_bytes // held_bytes))
        sources = max(count_cpus(), -(-num_rows * row_bytes // held_bytes))
        if buckets * sources > MOST_PIECES:
            return None
        return cls(
            recipe,
            ranges(perm.num_rows, buckets),
            ranges(num_rows, sources),
            max(1, held_bytes // CHUNKS // row_bytes),
            held_bytes,
            stop,
        )

    def dealt(self, source: range) -> Iterator[Piece]:
        """Yield the pieces of some rows of the table: one for each bucket, in one or more rounds."""
        held, size = [], 0
        with credentials_hint():
            perm = self.recipe.open()
            stored = perm.with_rows(perm.source.all_rows())
            stored = stored.with_read_options(ReadOptions("direct"))
            starts = range(source.start, source.stop, self.chunk_rows)
            for start in self.stop.before_each(starts):
                stop = min(start + self.chunk_rows, source.stop)
                for each in self.sorted_rows(perm.order, stored, range(start, stop)):
                    held.append(each)
                    size += each[1].nbytes
                if size >= self.held_bytes:
                    yield from self.pieces(held)
                    held, size = [], 0
        if held:
            yield from self.pieces(held)

    def sorted_rows(
        self, order: Order, stored: Permutation, rows: range
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yield batches of the rows that have a position, sorted by position within each batch."""
        import numpy as np

        positions = positions_of(order, rows)
        served = np.flatnonzero(positions >= 0)
        if not len(served):
            return
        wanted = (
            Order.all(rows.stop).slice(rows.start, len(rows))
            if len(served) == len(rows)
            else Order.set((served + rows.start).astype(np.uint64))
        )
        positions, first = positions[served], 0
        for batch in arrow_batches(stored.with_rows(wanted), range(len(served))):
            places = positions[first : first + batch.num_rows]
            ascending = np.argsort(places)
            yield places[ascending], batch.take(ascending)
            first += batch.num_rows

    def pieces(self, held: list[tuple[np.ndarray, pa.RecordBatch]]) -> Iterator[Piece]:
        """Yield a piece for each bucket: the places of its rows, and the rows as an Arrow stream."""
        import numpy as np

        starts = [bucket.start for bucket in self.buckets]
        cuts = [
            np.append(np.searchsorted(places, starts), len(places))
            for places, _ in held
        ]
        for number, start in enumerate(starts):
            parts = [
                (places[bounds[number] : bounds[number + 1]], batch.slice(*extent))
                for (places, batch), bounds in zip(held, cuts, strict=True)
                if (extent := (bounds[number], bounds[number + 1] - bounds[number]))[1]
            ]
            if not parts:
                yield None
                continue
            places = np.concatenate([places for places, _ in parts]) - start
            yield places.astype(np.uint32), as_stream([batch for _, batch in parts])

    def deal(self, progress: Progress | None) -> Iterator[list[Any]]:
        """Run pass 1, and return an iterator over the pieces of each bucket, as references.

        Args:
            progress: Whether to show a bar. A function is not called in this pass.
        """
        import ray

        remote: Any = ray.remote(
            max_retries=RETRIES, num_returns="streaming", scheduling_strategy="SPREAD"
        )
        task, shared = remote(Passes.dealt), ray.put(self)
        running = {}
        for source in self.sources:
            pieces = task.remote(shared, source)
            running[pieces.completed()] = source, pieces
        found: list[list[Any]] = [[] for _ in self.buckets]
        done, total = 0, self.sources[-1].stop
        progress = None if callable(progress) else progress
        try:
            with reported("shuffling", progress, unit=" rows") as report:
                report(0, total)
                for each, _ in as_completed(running):
                    source, pieces = running[each]
                    for number, piece in enumerate(pieces):
                        found[number % len(found)].append(piece)
                    done += len(source)
                    report(done, total)
        except BaseException:
            self.stop.set()
            raise
        running.clear()
        # Each reference is dropped once a task of pass 2 has it.
        return (found.pop(0) for _ in self.buckets)


def positions_of(order: Order, rows: range) -> np.ndarray:
    """Return the position of each row of the table, or -1 for rows that are left out."""
    import numpy as np

    found = numbers_of(order.positions_of(rows.start, rows.stop))
    # The core marks these with the largest unsigned number, which is -1 as a signed one.
    return numpy_of(found).view(np.int64)


def as_stream(batches: list[pa.RecordBatch]) -> pa.Buffer:
    """Write batches to an Arrow IPC stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def in_order(pieces: tuple[Piece, ...]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a bucket in order.

    The pieces stay in the object store: only the rows of one batch are copied at a time.
    """
    import numpy as np
    import pyarrow as pa

    runs, size = [], 0
    for places, stream in filter(None, pieces):
        size += stream.size
        start = 0
        for batch in pa.ipc.open_stream(stream):
            runs.append((places[start : start + batch.num_rows], batch))
            start += batch.num_rows
    num_rows = sum(batch.num_rows for _, batch in runs)
    step = max(1, num_rows * BATCH_BYTES // size)
    starts = [0] * len(runs)
    for first in range(0, num_rows, step):
        ends = [int(np.searchsorted(places, first + step)) for places, _ in runs]
        parts = [
            (places[begin:end], batch.slice(begin, end - begin))
            for (places, batch), begin, end in zip(runs, starts, ends, strict=True)
            if begin < end
        ]
        starts = ends
        ascending = np.argsort(np.concatenate([places for places, _ in parts]))
        rows = pa.concat_batches([batch for _, batch in parts])
        yield rows.take(pa.array(ascending))
