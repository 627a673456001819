"""A loader that works in a helper process, so that the trainer's own stays quiet."""

from __future__ import annotations

import functools
import pickle
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.helper.client import iterate_in_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.loader.checkpoint import Checkpoint
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.stats import Stats

__all__ = ["batches_of_helper"]

PERIOD_S = 0.1
"""How often the helper says what it did: a batch may take less than saying it."""


class HelperReport(NamedTuple):
    """What the helper says with a batch: where its loader stands, and now and then what it did."""

    at: Checkpoint
    rows: int
    num_bytes: int
    stats: Stats | None


class HelperReporter:
    """Says in the helper where its loader stands, and now and then what it did."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._said = 0.0

    def __call__(self) -> HelperReport | None:
        now, running = time.monotonic(), self._loader._running
        if running is None:
            # It failed before it began.
            return None
        stats = None
        if now - self._said >= PERIOD_S or running.has_ended:
            self._said, stats = now, self._loader.stats()
        rows, num_bytes = running.size_handed
        return HelperReport(self._loader._at, rows, num_bytes, stats)


def batches_of_helper(
    loader: Any,
    over: Callable[[Iterator[Any]], Iterator[Any]],
    running: Metrics,
    reached: Callable[[Checkpoint], None],
    ended: Callable[[Checkpoint], None],
) -> Iterator[Any]:
    """Give the batches of a loader that a helper process iterates.

    Args:
        loader: What is sent to the helper, set to where it is to begin.
        over: What is done here with what comes from there, in order.
        running: Takes what the helper says of what it did.
        reached: Takes where training stands, before each batch is handed over.
        ended: Takes it behind the last one.

    Raises:
        TypeError: If a function of the loader does not pickle.
    """
    try:
        items = iterate_in_helper(
            functools.partial(iter, loader), statistics=HelperReporter(loader)
        )
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = (
            f"in_process=False: wanted functions of a module, which pickle ({error})"
        )
        raise TypeError(message) from error
    # What is done here may run ahead of what is handed over.
    told: deque[HelperReport] = deque()

    def noted() -> Iterator[Any]:
        for item in items:
            told.append(items.statistics)
            yield item
        told.append(items.statistics)

    def take() -> Checkpoint:
        at, rows, num_bytes, stats = told.popleft()
        running.told(rows, num_bytes, stats)
        return at

    with closing(items):
        for value in over(noted()):
            reached(take())
            yield value
        ended(take())
