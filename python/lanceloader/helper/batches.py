"""The batches of a loader that runs in a helper process."""

from __future__ import annotations

import pickle
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.transport.blocks import share
from lanceloader.transport.groups import MOST_BATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.helper.kept import KeptHelper
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.stats import Stats

__all__ = ["batches_of_helper"]

PERIOD_S = 0.1
"""The seconds between two reports of statistics, which may take longer to make than a batch."""


class HelperReport(NamedTuple):
    """The state of the helper's loader, which is sent with each batch.

    Attributes:
        checkpoint: The checkpoint of its loader.
        rows: The number of rows yielded so far.
        num_bytes: The number of bytes yielded so far.
        stats: The statistics, every ``PERIOD_S`` seconds and at the end; otherwise ``None``.
    """

    checkpoint: Any
    rows: int
    num_bytes: int
    stats: Stats | None


class HelperLoop:
    """Iterates a loader in the helper process, and reports its state.

    Args:
        loader: The loader. Its cursor is replaced at the start of each iteration.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._batches: Any = None
        self._reported = 0.0
        self._num_bytes = 0

    @property
    def most_items(self) -> int:
        """The maximum number of batches in a message."""
        return MOST_BATCHES

    def items(self, argument: Any) -> Iterator[Any]:
        """Return an iterator over the batches.

        Args:
            argument: The cursor of the loader.
        """
        self._batches, self._reported, self._num_bytes = None, 0.0, 0
        self._loader.cursor = argument
        loader = self._loader
        loader.pipeline = loader.pipeline.for_sending(loader.units)
        if loader.pipeline.sends_in_place(loader.units, loader.batch_size):
            share()
        self._batches = iter(loader)
        batches: Iterator[Any] = self._batches
        return batches

    def num_bytes(self) -> int:
        """Return the number of bytes of the rows of the last batch."""
        before = self._num_bytes
        _, self._num_bytes = self._batches.metrics.size_yielded
        return self._num_bytes - before

    def report(self) -> HelperReport | None:
        """Return the state of the loader; ``None`` if the iteration could not start."""
        if self._batches is None:
            return None
        now, metrics = time.monotonic(), self._batches.metrics
        stats = None
        if now - self._reported >= PERIOD_S or metrics.has_ended:
            self._reported, stats = now, metrics.stats()
        checkpoint = self._loader.cursor.checkpoint
        rows, num_bytes = metrics.size_yielded
        return HelperReport(checkpoint, rows, num_bytes, stats)


def batches_of_helper(
    helper: KeptHelper,
    loader: Any,
    cursor: Any,
    finish: Callable[[Iterator[Any]], Iterator[Any]],
    metrics: Metrics,
    on_batch: Callable[[Any], None],
    on_end: Callable[[Any], None],
) -> Iterator[Any]:
    """Yield the batches of a loader that a helper process iterates.

    Args:
        helper: The helper process of the loader.
        loader: The loader, which is sent to the helper.
        cursor: The cursor of the loader, at the start of the iteration. It is sent separately, so that
            the helper can keep a loader that has not changed otherwise, and the data it has read.
        finish: Applies the stages that run in this process to the batches.
        metrics: The counters of the iteration, which are updated with those of the helper.
        on_batch: Called with the checkpoint of the helper before each batch is yielded.
        on_end: Called with the checkpoint of the helper after the last batch.

    Raises:
        TypeError: If a function of the loader cannot be pickled.
    """
    try:
        items = helper.iterate(HelperLoop(loader), pickle.dumps(cursor))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = (
            "`in_process`=False sends the functions of the loader to another process, which cannot "
            f"pickle one of them ({error}): pass functions that are defined in a module"
        )
        raise TypeError(message) from error
    # The stages of this process may run ahead of the batches that are yielded.
    reports: deque[HelperReport] = deque()

    def received() -> Iterator[Any]:
        for item in items:
            reports.append(items.statistics)
            yield item
        reports.append(items.statistics)

    def next_checkpoint() -> Any:
        checkpoint, rows, num_bytes, stats = reports.popleft()
        metrics.update(rows, num_bytes, stats)
        return checkpoint

    with closing(items):
        for value in finish(received()):
            on_batch(next_checkpoint())
            yield value
        on_end(next_checkpoint())
