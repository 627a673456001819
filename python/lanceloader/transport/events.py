"""The event by which torch tells the workers of a ``DataLoader`` that they should end."""

from __future__ import annotations

from typing import Any

__all__ = ["check_without_lock"]


class DoneEvent:
    """Replaces ``is_set`` of the event of a worker by one that takes no lock while batches are requested.

    The process that trains takes the lock of the event, too, and would wait for ever if a worker was
    killed while it held the lock, in which it checks the event once for each batch.

    Args:
        event: The event.
        get: The ``get`` of the queue by which the worker receives requests.
    """

    def __init__(self, event: Any, get: Any) -> None:
        self._flag, self._is_set = event._flag, event.is_set
        self._get = get
        self._is_last = False
        """Whether the last request was the one to end, which says that the event may be set."""

    def get(self, *arguments: Any, **options: Any) -> Any:
        """Return a request, as ``Queue.get`` does."""
        request = self._get(*arguments, **options)
        self._is_last = request is None
        return request

    def is_set(self) -> bool:
        """Return whether the event is set.

        Before the request to end, an event that was set a moment ago may count as not set: others that
        check it clear its flag for that time.
        """
        if self._is_last:
            found: bool = self._is_set()
            return found
        return bool(self._flag.get_value())


def check_without_lock(event: Any, queue: Any) -> None:
    """Have a worker check an event without its lock while batches are requested, where that is possible.

    Args:
        event: The ``multiprocessing.Event`` that is set before the request to end, which is ``None``.
        queue: The queue by which the worker receives requests.
    """
    try:
        event._flag.get_value()
    except (AttributeError, NotImplementedError):
        # Another kind of event, or a system whose semaphores do not tell their value.
        return
    if not hasattr(queue, "get"):
        return
    done = DoneEvent(event, queue.get)
    event.is_set, queue.get = done.is_set, done.get
