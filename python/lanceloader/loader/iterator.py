"""``LoaderIterator``: the iterator of a ``Loader``, which several threads may share."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Self

from lanceloader.errors import DegradedWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.monitor.metrics import Metrics

__all__ = ["LoaderIterator"]


class LoaderIterator:
    """The iterator of a ``Loader``, which measures how long batches are waited for.

    Several threads may call ``next()``; each batch is returned to one of them. The iterator ends when
    it is closed or dropped, and at the exit of the interpreter, before modules are torn down.

    Attributes:
        metrics: The counters of this iteration.
    """

    def __init__(self, batches: Iterator[Any], metrics: Metrics) -> None:
        self._batches: Any = batches
        self.metrics = metrics
        # Reentrant: a transform that calls next() gets an error instead of a deadlock.
        self._lock = threading.RLock()
        self._is_closed = False
        self._has_ended = False
        _register(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        metrics = self.metrics
        try:
            with self._lock:
                if self._is_closed:
                    raise StopIteration
                if metrics.num_yielded == 1:
                    warn_if_degraded(metrics, stacklevel=3)
                metrics.request()
                batch = next(self._batches)
                metrics.yield_batch()
                return batch
        except BaseException:
            self._note_end()
            raise
        finally:
            if self._is_closed:
                self._end()

    def close(self) -> None:
        """End the iteration. A thread that is waiting for a batch still gets it."""
        self._is_closed = True
        self._end()

    def __del__(self) -> None:
        self._end()

    def renew_lock(self) -> None:
        """Replace the locks in a forked child, which lacks the threads that may hold them."""
        self._lock = threading.RLock()
        self.metrics.renew_lock()

    def _end(self) -> None:
        # If another thread holds the lock, it ends the iteration when it is done.
        if self._lock.acquire(blocking=False):
            try:
                self._batches.close()
                self._note_end()
            finally:
                self._lock.release()

    def _note_end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.metrics.end()
            warn_if_degraded(self.metrics, stacklevel=4)


_WARNED: set[str] = set()
"""The causes that this process was warned of."""


def warn_if_degraded(metrics: Metrics, stacklevel: int) -> None:
    """Warn once per cause if rows were read in another way than ``explain()`` states."""
    failure = metrics.stats().failure
    if failure is not None and cause_of(failure) not in _WARNED:
        _WARNED.add(cause_of(failure))
        message = f"rows were read in another way than explain() states: {failure}"
        # Level 4 is the caller of `next`.
        warnings.warn(message, DegradedWarning, stacklevel=stacklevel)


def cause_of(failure: str) -> str:
    """Return the part of a message that is the same for all files that could not be read."""
    what, _, reason = failure.partition(": ")
    return reason if what.startswith("could not read ") else failure


_LIVE: set[weakref.ref[LoaderIterator]] = set()
_is_registered = False


def _register(iterator: LoaderIterator) -> None:
    global _is_registered
    _LIVE.add(weakref.ref(iterator, _LIVE.discard))
    if not _is_registered:
        # Registered late: exit functions run in reverse order, so this one runs early.
        atexit.register(_close_all)
        _is_registered = True


def _live() -> list[LoaderIterator]:
    return [found for each in _LIVE.copy() if (found := each()) is not None]


def _close_all() -> None:
    for iterator in _live():
        with contextlib.suppress(Exception):
            iterator.close()


def _in_child() -> None:
    for iterator in _live():
        iterator.renew_lock()


os.register_at_fork(after_in_child=_in_child)
