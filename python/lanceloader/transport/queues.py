"""Queues of ``multiprocessing`` whose messages are written to their pipe without a feeder thread."""

from __future__ import annotations

import queue as queues
import select
import time
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DirectWriter", "read_directly", "write_directly"]

MOST_DIRECT = select.PIPE_BUF - 64
"""The maximum size of a message that always fits into a pipe which is ready for writing."""
LOCK_S = 0.1
"""The seconds to wait for the lock, which other processes hold while they write to the pipe."""


class DirectWriter:
    """Puts messages into a queue: directly if its pipe has room, or else through its feeder thread.

    It must be used from the first message on, or messages may overtake earlier ones.

    Args:
        queue: The queue.
        put: The ``put`` of the queue.
    """

    def __init__(self, queue: Any, put: Callable[..., None]) -> None:
        self._put = put
        # The lock is missing where writes to pipes are atomic.
        self._is_direct = getattr(queue, "_wlock", None) is not None
        if self._is_direct:
            self._capacity, self._lock = queue._sem, queue._wlock
            self._writer = queue._writer
            self._poll = select.poll()
            self._poll.register(self._writer.fileno(), select.POLLOUT)

    def put(
        self,
        message: Any,
        block: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,
    ) -> None:
        """Send a message, as ``Queue.put`` does."""
        if not self._is_direct or not self._send(message):
            self.put_later(message, block, timeout)

    def put_later(
        self,
        message: Any,
        block: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,
    ) -> None:
        """Send this and all following messages through the feeder thread, to keep their order."""
        self._is_direct = False
        self._put(message, block, timeout)

    def _send(self, message: Any) -> bool:
        """Write a message unless that would block until the reader reads; return whether it was written."""
        pickled = ForkingPickler.dumps(message)
        if len(pickled) > MOST_DIRECT or not self._lock.acquire(timeout=LOCK_S):
            return False
        try:
            if not self._poll.poll(0) or not self._capacity.acquire(block=False):
                return False
            self._writer.send_bytes(pickled)
        finally:
            self._lock.release()
        return True


class DirectReader:
    """Takes messages from a queue, with a single system call to wait for one.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: Any) -> None:
        self._lock, self._reader = queue._rlock, queue._reader
        self._capacity = queue._sem
        self._poll = select.poll()
        self._poll.register(self._reader.fileno(), select.POLLIN)

    def get(
        self,
        block: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,
    ) -> Any:
        """Return a message, as ``Queue.get`` does.

        Raises:
            queue.Empty: If there is none within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(block, timeout):
            raise queues.Empty
        try:
            timeout_ms: float | None = None
            if not block:
                timeout_ms = 0.0
            elif deadline is not None:
                timeout_ms = max(0.0, deadline - time.monotonic()) * 1000
            if not self._poll.poll(timeout_ms):
                raise queues.Empty
            message = self._reader.recv_bytes()
            self._capacity.release()
        finally:
            self._lock.release()
        return ForkingPickler.loads(message)


def write_directly(queue: Any) -> None:
    """Replace ``put`` of a new queue by one that writes without the feeder thread."""
    # The queue refers to the writer, which must not keep the queue alive.
    put = weakref.WeakMethod(queue.put)

    def put_through_thread(*arguments: Any) -> None:
        method = put()
        if method is not None:
            method(*arguments)

    queue.put = DirectWriter(queue, put_through_thread).put


def read_directly(queue: Any) -> None:
    """Replace ``get`` of a queue by one that does not create a selector for each call."""
    if all(hasattr(queue, name) for name in ("_rlock", "_reader", "_sem")):
        queue.get = DirectReader(queue).get
