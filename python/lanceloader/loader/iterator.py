"""``LoaderIterator``: what ``iter(loader)`` returns. Any thread may ask it, until the interpreter exits."""

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
    """Passes batches on, each to one of the threads that ask, and measures the waits.

    It ends when it is closed or dropped, or when the interpreter exits: later there are no modules
    left to end it with.

    Attributes:
        metrics: What it has done.
    """

    def __init__(self, batches: Iterator[Any], metrics: Metrics) -> None:
        self._batches: Any = batches
        self.metrics = metrics
        # Reentrant: a transform that asks for a batch gets an error, and does not wait for itself.
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
                    warn_if_degraded(metrics)
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
        """End the iteration. A thread that waits for a batch still gets that one."""
        self._is_closed = True
        self._end()

    def __del__(self) -> None:
        self._end()

    def renew_lock(self) -> None:
        """Replace the locks in a forked child, where the threads that hold them may not exist."""
        self._lock = threading.RLock()
        self.metrics.renew_lock()

    def _end(self) -> None:
        # If the lock is taken, the thread that has it ends the iteration afterwards.
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
            warn_if_degraded(self.metrics)


_WARNED: set[str] = set()
"""What this process was warned of."""


def warn_if_degraded(metrics: Metrics) -> None:
    """Warn, once, if rows were read in another way than ``explain()`` says."""
    failure = metrics.stats().failure
    if failure is not None and cause_of(failure) not in _WARNED:
        _WARNED.add(cause_of(failure))
        message = f"rows were read in another way than explain() says: {failure}"
        # The caller of `next`.
        warnings.warn(message, DegradedWarning, stacklevel=4)


def cause_of(failure: str) -> str:
    """Return the part of a message that does not depend on which file could not be read."""
    what, _, reason = failure.partition(": ")
    return reason if what.startswith("could not read ") else failure


_LIVE: set[weakref.ref[LoaderIterator]] = set()
_is_registered = False


def _register(iterator: LoaderIterator) -> None:
    global _is_registered
    _LIVE.add(weakref.ref(iterator, _LIVE.discard))
    if not _is_registered:
        # Not earlier: exit functions run in the reverse order of their registration.
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
