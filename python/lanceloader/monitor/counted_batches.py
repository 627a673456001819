"""``CountedBatches``: the raw batches of an epoch, counted as they are taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CountedBatches"]

clock = time.perf_counter_ns


class CountedBatches:
    """An iterator over the raw batches of an epoch, which counts them.

    Args:
        raw: The batches, as ``RawBatches``.
        take: Counts a batch; see ``Metrics.take``.

    Attributes:
        num_bytes: The number of bytes in the batch taken last.
    """

    def __init__(self, raw: Any, take: Callable[..., None]) -> None:
        self._batches = raw.batches
        self._watch = raw.watch
        self._size_of = raw.size_of
        self._close = raw.close
        self._take = take
        self._bytes = 0
        self.num_bytes = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        start = clock()
        batch = next(self._batches)
        watch = self._watch
        if self._size_of is not None:
            size = self._size_of(batch)
        elif watch is None:
            size = batch.nbytes
        else:
            before, self._bytes = self._bytes, watch.stats().bytes
            size = self._bytes - before
        self.num_bytes = size
        is_watched = watch is not None
        self._take(batch.num_rows, size, start, is_watched=is_watched)
        return batch

    def close(self) -> None:
        """Stop reading ahead."""
        self._close()
