"""The batches of a loader that works in a helper process, so that the trainer's own stays quiet."""

from __future__ import annotations

import pickle
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.helper.client import iterate_in_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.stats import Stats

__all__ = ["batches_of_helper"]

PERIOD_S = 0.1
"""The seconds between two reports of statistics: to make one may take longer than a batch."""


class HelperReport(NamedTuple):
    """What the helper sends with a batch.

    Attributes:
        checkpoint: Where its loader stands.
        rows: The rows it has yielded.
        num_bytes: The bytes it has yielded.
        stats: Its statistics, every ``PERIOD_S`` and at the end.
    """

    checkpoint: Any
    rows: int
    num_bytes: int
    stats: Stats | None


class HelperLoop:
    """Iterates a loader in the helper process, and reports where it stands.

    Args:
        loader: The loader, which begins where the helper is to begin.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._batches: Any = None
        self._reported = 0.0

    def batches(self) -> Iterator[Any]:
        """Return the batches."""
        self._batches = iter(self._loader)
        batches: Iterator[Any] = self._batches
        return batches

    def report(self) -> HelperReport | None:
        """Return where the loader stands; ``None`` if it failed before it began."""
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
    loader: Any,
    finish: Callable[[Iterator[Any]], Iterator[Any]],
    metrics: Metrics,
    on_batch: Callable[[Any], None],
    on_end: Callable[[Any], None],
) -> Iterator[Any]:
    """Yield the batches of a loader that a helper process iterates.

    Args:
        loader: The loader to send, which begins where the helper is to begin.
        finish: The stages that run here, applied to the batches that arrive.
        metrics: Takes over what the helper counts.
        on_batch: Called with the helper's checkpoint before each batch is yielded.
        on_end: Called with it behind the last batch.

    Raises:
        TypeError: If a function of the loader cannot be pickled.
    """
    loop = HelperLoop(loader)
    try:
        items = iterate_in_helper(loop.batches, statistics=loop.report)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = (
            "`in_process=False` sends the functions of the loader to another process: pass "
            f"functions that are defined in a module ({error})"
        )
        raise TypeError(message) from error
    # The stages that run here may be ahead of what is yielded.
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
