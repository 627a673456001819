"""One iteration of a loader, in the hands of whoever asks: from any thread, and until exit."""

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
    from collections.abc import Generator, Iterator

    from lanceloader.monitor.metrics import Metrics

__all__ = ["LoaderIterator"]


class LoaderIterator:
    """Passes batches on, each to one of the threads that ask, and measures the waits.

    It ends when it is closed or dropped, or the interpreter exits: later there would be no
    modules left to end it with.
    """

    def __init__(self, batches: Iterator[Any], running: Metrics) -> None:
        self._batches = measured(batches, running)
        self._running = running
        # Reentrant: a transform that asks for a batch is told so, and does not wait for itself.
        self._lock = threading.RLock()
        self._is_closed = False
        _register(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            with self._lock:
                if self._is_closed:
                    raise StopIteration
                return next(self._batches)
        finally:
            if self._is_closed:
                self._end()

    def close(self) -> None:
        """End it. A thread that waits for a batch gets that one; there is no other."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        # Whoever has the lock ends it afterwards.
        if self._lock.acquire(blocking=False):
            try:
                self._batches.close()
            finally:
                self._lock.release()


def measured(batches: Iterator[Any], running: Metrics) -> Generator[Any, None, None]:
    """Pass batches on, measure the waits, and say once what did not go as it should."""
    try:
        while True:
            running.asked()
            try:
                batch = next(batches)
            except StopIteration:
                break
            running.handed()
            yield batch
            if running.num_handed == 1:
                say(running)
    finally:
        running.ended()
        say(running)


_SAID: set[str] = set()
"""What this process was warned of."""


def say(running: Metrics) -> None:
    """Warn, once, if rows were read in another way than was meant."""
    failure = running.stats().failure
    if failure is not None and cause_of(failure) not in _SAID:
        _SAID.add(cause_of(failure))
        message = f"rows were read in another way than explain() says: {failure}"
        # The caller of `next`.
        warnings.warn(message, DegradedWarning, stacklevel=4)


def cause_of(failure: str) -> str:
    """Return what is the same whichever of the table's files could not be read."""
    what, _, reason = failure.partition(": ")
    return reason if what.startswith("could not read ") else failure


_LIVE: set[weakref.ref[LoaderIterator]] = set()
_is_registered = False


def _register(iteration: LoaderIterator) -> None:
    global _is_registered
    _LIVE.add(weakref.ref(iteration, _LIVE.discard))
    if not _is_registered:
        # Not before: what ends first is what was registered last.
        atexit.register(_close_all)
        _is_registered = True


def _close_all() -> None:
    for each in _LIVE.copy():
        iteration = each()
        if iteration is not None:
            with contextlib.suppress(Exception):
                iteration.close()


def _in_child() -> None:
    # Threads that had a lock are not there.
    for each in _LIVE.copy():
        iteration = each()
        if iteration is not None:
            iteration._lock = threading.RLock()
            iteration._running.unlock()


os.register_at_fork(after_in_child=_in_child)
