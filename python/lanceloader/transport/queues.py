"""Queues of ``multiprocessing`` whose messages go through their pipe without a thread."""

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
"""The most bytes that fit into a pipe which is ready for writing."""
LOCK_S = 0.1
"""The seconds to wait for other processes that write to the pipe."""


class DirectWriter:
    """Puts messages into a queue, at once if its pipe has room for them and else by its thread.

    It must be used from the first message on, or messages may overtake earlier ones.

    Args:
        queue: The queue.
        put: Its ``put``.
    """

    def __init__(self, queue: Any, put: Callable[..., None]) -> None:
        self._put = put
        # The lock is missing where writes to pipes are atomic.
        self._is_direct = getattr(queue, "_wlock", None) is not None
        if self._is_direct:
            self._room, self._lock = queue._sem, queue._wlock
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
        """Send a message by the thread of the queue, and so all that follow, to keep their order."""
        self._is_direct = False
        self._put(message, block, timeout)

    def _send(self, message: Any) -> bool:
        """Write a message, if that does not have to wait for the reader; return whether it was written."""
        pickled = ForkingPickler.dumps(message)
        if len(pickled) > MOST_DIRECT or not self._lock.acquire(timeout=LOCK_S):
            return False
        try:
            if not self._poll.poll(0) or not self._room.acquire(block=False):
                return False
            self._writer.send_bytes(pickled)
        finally:
            self._lock.release()
        return True


class DirectReader:
    """Takes messages from a queue with one system call to wait.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: Any) -> None:
        self._lock, self._reader, self._room = queue._rlock, queue._reader, queue._sem
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
        until = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(block, timeout):
            raise queues.Empty
        try:
            left_ms = None
            if not block or until is not None:
                left = 0.0 if until is None else until - time.monotonic()
                left_ms = max(0.0, left) * 1000
            if not self._poll.poll(left_ms):
                raise queues.Empty
            message = self._reader.recv_bytes()
            self._room.release()
        finally:
            self._lock.release()
        return ForkingPickler.loads(message)


def write_directly(queue: Any) -> None:
    """Replace ``put`` of a new queue by one that writes without its thread."""
    # The queue refers to the writer, and must not keep itself alive.
    put = weakref.WeakMethod(queue.put)

    def later(*arguments: Any) -> None:
        method = put()
        if method is not None:
            method(*arguments)

    queue.put = DirectWriter(queue, later).put


def read_directly(queue: Any) -> None:
    """Replace ``get`` of a queue by one that makes no selectors."""
    if all(hasattr(queue, name) for name in ("_rlock", "_reader", "_sem")):
        queue.get = DirectReader(queue).get
