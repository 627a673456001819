"""Reads of all streams by one loader of the core, in the order in which they are needed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from lanceloader.streaming.ordered_rows import joined_order
from lanceloader.units.batches import batches_ending_at

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.prefetch import RowStream


class EngineReads:
    """The batches of several streams, which the core reads ahead.

    Args:
        streams: The streams.
        samples: Of each stream, the rows that were yielded before. The one with the fewest rows
            is needed first.
        size: The rows of a batch.
        counters: The counters of the dataset.
    """

    def __init__(
        self,
        streams: list[RowStream],
        samples: list[int],
        size: int,
        counters: Counters,
    ) -> None:
        import numpy as np

        self.counters = counters
        self.parked: list[deque[pa.RecordBatch]] = [deque() for _ in streams]
        perms = list({id(stream.perm): stream.perm for stream in streams}.values())
        starts = np.cumsum([0, *(perm.num_rows for perm in perms)])
        base = {id(perm): start for perm, start in zip(perms, starts, strict=False)}
        reads = sorted(
            (samples[i] + start, i, start)
            for i, stream in enumerate(streams)
            for start in range(0, stream.num_rows, size)
        )
        self.turns = iter([i for _, i, _ in reads])
        positions = [
            base[id(streams[i].perm)]
            + np.asarray(
                streams[i].offsets(start, min(start + size, streams[i].num_rows))
            )
            for _, i, start in reads
        ]
        order = joined_order(perms, np.concatenate(positions).astype(np.uint64))
        ends = np.cumsum([len(each) for each in positions])
        self.raw = batches_ending_at(perms[0].reader, order, ends)
        self.nanos = 0

    def next_of(self, i: int) -> pa.RecordBatch:
        """Return the next batch of stream ``i``."""
        import pyarrow as pa

        parked = self.parked[i]
        while not parked:
            batch = pa.record_batch(next(self.raw.batches))
            nanos = sum(self.raw.watch.stats().stage_nanos)
            seconds, self.nanos = (nanos - self.nanos) * 1e-9, nanos
            self.counters.add(bytes_loaded=batch.nbytes, fetch_time=seconds)
            self.parked[next(self.turns)].append(batch)
        return parked.popleft()
