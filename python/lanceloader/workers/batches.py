"""What a worker yields: batches, and placeholders of those that were skipped."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from lanceloader.loader.checkpoint import Checkpoint, of_halves
from lanceloader.stop_iteration import without_stop_iteration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from lanceloader.loader.loader import Loader

__all__ = ["BatchCollate", "SkippedBatch", "WorkerDataset"]


class SkippedBatch:
    """The placeholder of a batch that was skipped, as a transform failed for all of its rows."""


class WorkerDataset(IterableDataset[Any]):
    """The dataset of a worker: its batches, with a ``SkippedBatch`` for each that was skipped.

    Args:
        loader: The loader of the parent process.
        start: The start of the first iteration.
        signal: Shared memory with the start of the next iteration, for persistent workers.
    """

    def __init__(
        self, loader: Loader, start: Checkpoint, signal: torch.Tensor | None
    ) -> None:
        self._loader = loader.copy_for_process(start)
        self._signal = signal

    def __iter__(self) -> Iterator[Any]:
        cursor = self._loader.cursor
        if self._signal is not None:
            first, epoch, position = map(of_halves, self._signal.tolist())
            cursor.renumber(first)
            cursor.jump(Checkpoint(epoch, position or 0))
        iteration = self._loader.request()
        counts = iteration.metrics.counts
        num_reported = 0
        for batch in iteration.batches(epoch_end=SkippedBatch()):
            # Skipped batches are reported before the next batch, to keep their order.
            num_skipped = counts.batches_skipped
            yield from itertools.repeat(SkippedBatch(), num_skipped - num_reported)
            num_reported = num_skipped
            # The end of an epoch is yielded only to report skipped batches, and is not a batch.
            if not isinstance(batch, SkippedBatch):
                yield batch


class BatchCollate:
    """Calls a function with each batch, or returns the batch if there is no function."""

    def __init__(self, call: Callable[[Any], Any] | None) -> None:
        self._call = call

    def __call__(self, batch: Any) -> Any:
        """Return what the function returns, or a placeholder unchanged."""
        if self._call is None or isinstance(batch, SkippedBatch):
            return batch
        return without_stop_iteration(self._call)(batch)
