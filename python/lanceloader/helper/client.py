"""``iterate_in_helper``: items of a helper process, received through shared memory without a copy.

Receiving needs no threads in this process. Linux only.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from lanceloader.helper.child import END, ITEM
from lanceloader.helper.link import ChildLink, check_can_start
from lanceloader.helper.producer import FunctionProducer, PickledProducer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lanceloader.helper.link import Method

__all__ = ["HelperClient", "RemoteTracebackError", "iterate_in_helper"]


class RemoteTracebackError(Exception):
    """The traceback in the helper process, as the cause of an exception raised there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def iterate_in_helper(
    make: Callable[[], Iterable[Any]],
    *,
    depth: int = 2,
    method: Method = "spawn",
    statistics: Callable[[], Any] | None = None,
) -> HelperClient:
    """Iterate in a helper process, which starts at once and ends with the iterator.

    Arrays, tensors and Arrow data are writable views of shared memory, which is reused when nothing
    refers to them; other objects are copies. Exceptions keep their type, with the traceback in the
    helper as ``__cause__``.

    Args:
        make: A function that returns the items, which the helper calls. It is pickled, unless
            ``method`` is ``"fork"``.
        depth: The number of messages to make ahead.
        method: The start method of the process. ``"fork"`` is fast and pickles nothing, but is
            unsafe in processes with threads.
        statistics: A function that the helper calls after each item and at the end. Its result is
            ``HelperClient.statistics`` when the item is yielded. Objects shared with ``make``, such
            as a loader of which both functions are methods, are also shared in the helper.

    Raises:
        ValueError: If ``depth`` is less than 1, or ``method`` is unknown.
        UnsupportedError: If the system is not Linux.
        RuntimeError: If this process is a daemon, such as a worker of a ``DataLoader``.
    """
    if depth < 1:
        message = f"`depth` must be at least 1, got {depth}"
        raise ValueError(message)
    check_can_start()
    producer = FunctionProducer(make, statistics)
    if method == "fork":
        return HelperClient(ChildLink(method, depth, producer), ChildLink.end)
    pickled = PickledProducer(producer)
    link = ChildLink(method, depth)
    client = HelperClient(link, ChildLink.end)
    link.begin(pickled, pickle.dumps(None))
    return client


class HelperClient:
    """An iterator over the items of one iteration of a helper process.

    Several threads may call ``next``.

    Args:
        link: The helper process, in which the iteration begins.
        release: Called with ``link`` when the iterator ends, is closed or is dropped.

    Attributes:
        statistics: The statistics that the helper sent with the last yielded item.
        pid: The process identifier of the helper.
    """

    def __init__(self, link: ChildLink, release: Callable[[ChildLink], None]) -> None:
        self.statistics: Any = None
        self.pid: int = link.process.pid
        self._link = link
        self._segments = link.segments
        self._num_yielded = 0
        self._arrived: deque[tuple[Any, Any]] = deque()
        """The items that have arrived but were not yielded yet, and the statistics after each."""
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, release, link)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if os.getpid() != self._link.owner:
            raise RuntimeError(
                "this iterator was made in another process: call iter() in this process"
            )
        try:
            with self._lock:
                return self._take()
        except StopIteration:
            raise
        except BaseException:
            # A message may have been partly read.
            self._link.end()
            self._finalizer()
            raise

    def _take(self) -> Any:
        if not self._finalizer.alive:
            raise StopIteration
        if not self._arrived:
            kind, value, statistics = self._link.receive(self._num_yielded)
            if kind != ITEM:
                self._update_statistics(statistics)
                if kind == END:
                    self._finalizer()
                    raise StopIteration
                error, text = value
                error.__cause__ = RemoteTracebackError(text)
                raise error
            self._arrived.extend(value)
        item, statistics = self._arrived.popleft()
        self._update_statistics(statistics)
        self._num_yielded += 1
        return item

    def _update_statistics(self, statistics: Any) -> None:
        if self.statistics is None or statistics is not None:
            self.statistics = statistics

    def close(self) -> None:
        """End the iteration without waiting for it. Items that were yielded stay valid."""
        if self._lock.acquire(blocking=False):
            try:
                self._finalizer()
                self._arrived.clear()
            finally:
                self._lock.release()
        elif self._finalizer.alive:
            # Another thread is waiting for an item.
            self._link.end()
            self._finalizer()
