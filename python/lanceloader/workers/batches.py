"""What a worker yields: batches, and placeholders of those that were skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from lanceloader.loader.checkpoint import Checkpoint, of_halves
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.transport.blocks import share
from lanceloader.transport.groups import groups_of, prefetch_first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from lanceloader.loader.loader import Loader

__all__ = ["BatchCollate", "SkippedBatch", "WorkerDataset", "unchanged"]


class SkippedBatch:
    """The placeholder of a batch that was skipped, as a transform failed for all of its rows."""


class BatchCollate:
    """Calls a function with each batch, or returns the batch if there is no function."""

    def __init__(self, call: Callable[[Any], Any] | None) -> None:
        self._call = call

    def __bool__(self) -> bool:
        """Return whether there is a function."""
        return self._call is not None

    def __call__(self, batch: Any) -> Any:
        """Return what the function returns, or the placeholder of a batch."""
        if self._call is None or isinstance(batch, SkippedBatch):
            return batch
        return without_stop_iteration(self._call)(batch)


def unchanged(value: Any) -> Any:
    """Return the value itself."""
    return value


class WorkerDataset(IterableDataset[Any]):
    """The dataset of a worker: lists of its batches, with a ``SkippedBatch`` for each that was skipped.

    Args:
        loader: The loader of the parent process.
        start: The start of the first iteration.
        signal: Shared memory with the start of the next iteration, for persistent workers.
        collate: Called with each batch.
        most_batches: The most batches of a list.
    """

    def __init__(
        self,
        loader: Loader,
        start: Checkpoint,
        signal: torch.Tensor | None,
        collate: BatchCollate,
        most_batches: int,
    ) -> None:
        self._loader = loader.copy_for_process(start)
        self._signal = signal
        self._collate = collate
        self._most_batches = most_batches

    def __iter__(self) -> Iterator[Any]:
        cursor = self._loader.cursor
        if self._signal is not None:
            first, epoch, position = map(of_halves, self._signal.tolist())
            cursor.renumber(first)
            cursor.jump(Checkpoint(epoch, position or 0))
        # Before the parent asks for a batch, which may be starting other workers.
        return prefetch_first(groups_of(self._slots(), self._most_batches))

    def _slots(self) -> Iterator[tuple[Any, int]]:
        """Yield each batch or its placeholder, and the bytes of its rows."""
        loader, collate = self._loader, self._collate
        if not collate:
            loader.pipeline = loader.pipeline.for_sending(loader.units)
            if loader.pipeline.sends_in_place(loader.units, loader.batch_size):
                share()
        iteration = loader.request()
        metrics = iteration.metrics
        counts = metrics.counts
        num_reported = 0
        for batch in iteration.batches(epoch_end=SkippedBatch()):
            # Skipped batches are reported before the next batch, to keep their order.
            for _ in range(counts.batches_skipped - num_reported):
                num_reported += 1
                yield SkippedBatch(), 0
            # The end of an epoch is yielded only to report skipped batches, and is not a batch.
            if not isinstance(batch, SkippedBatch):
                _, num_bytes = metrics.next_size()
                yield collate(batch), num_bytes
