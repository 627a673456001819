"""Groups of batches in the messages of workers of torch's own ``DataLoader``.

torch expects one message per batch. Workers send groups only after the trainer has accepted the offer in
their first message, by replacing the queues of its iterator.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from lanceloader.transport.groups import groups_of, prefetch_first
from lanceloader.transport.inbox import receive
from lanceloader.transport.queues import DirectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["BatchGroup", "GroupedQueues", "GroupingIterator", "receive_offer"]


OF_TORCH = (
    "_data_queue",
    "_dataset_kind",
    "_index_queues",
    "_prefetch_factor",
    "_task_info",
    "_worker_result_queue",
)
"""The attributes that an iterator of torch must have, which are private to torch and may change."""
DEFAULT_PREFETCH = 2
"""The default ``prefetch_factor`` of torch."""


class BatchGroup:
    """A group of batches, which a worker sends as a list.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches


class GroupingIterator:
    """The iterator of a loader in a worker, which yields groups of batches once the parent requests them.

    Args:
        batches: The iterator of the loader.
    """

    are_offered = False
    """Whether this process can send groups."""
    are_wanted = False
    """Whether the parent has requested a group."""

    def __init__(self, batches: Any) -> None:
        # Do not wait for the first request: the parent may still be starting other workers.
        self._batches = prefetch_first(with_sizes(batches))
        self._groups: Iterator[list[Any]] | None = None
        GroupingIterator.are_offered = True

    @classmethod
    def is_offering(cls) -> bool:
        """Return whether this process can send groups and the parent has not requested one yet."""
        return cls.are_offered and not cls.are_wanted

    def __iter__(self) -> GroupingIterator:
        return self

    def __next__(self) -> Any:
        if not GroupingIterator.are_wanted:
            return next(self._batches)[0]
        if self._groups is None:
            self._groups = groups_of(self._batches)
        return BatchGroup(next(self._groups))


def with_sizes(batches: Any) -> Iterator[tuple[Any, int]]:
    """Yield each batch of a loader, and the number of bytes of its rows."""
    before = 0
    for batch in batches:
        _, so_far = batches.metrics.size_yielded
        yield batch, so_far - before
        before = so_far


def note_requests(queue: Any) -> None:
    """Replace ``get`` of the queue of a worker by one that notes requests for groups."""
    get = queue.get

    def get_and_note(*arguments: Any, **options: Any) -> Any:
        request = get(*arguments, **options)
        if is_group(request):
            GroupingIterator.are_wanted = True
        return request

    queue.get = get_and_note


def is_group(message: Any) -> bool:
    """Return whether a message requests a group, or is the answer to such a request."""
    return type(message) is tuple and type(message[0]) is int and message[0] < 0


def receive_offer(*arguments: Any) -> Any:
    """Return a message of a worker that offers groups, and accept the offer if possible.

    The arguments are those of ``receive``.
    """
    import sys

    message = receive(*arguments)
    frame = sys._getframe(1).f_back
    if frame is not None:
        iterator = iterator_of(frame)
        # Messages of the previous iteration may arrive while torch resumes persistent workers.
        if iterator is not None and message[0] in iterator._task_info:
            GroupedQueues(iterator, message)
    return message


def iterator_of(frame: FrameType) -> Any:
    """Return the iterator of torch that reads a queue in a frame, or ``None`` if it cannot take groups.

    Subclasses and threads that pin memory may inspect messages themselves. A ``prefetch_factor`` other
    than the default limits the batches made ahead, so messages then have one batch.
    """
    from torch.utils.data import dataloader

    kind = getattr(dataloader, "_MultiProcessingDataLoaderIter", None)
    kinds = getattr(dataloader, "_DatasetKind", None)
    if kinds is None or end_of_worker() is None:
        return None
    read = getattr(kind, "_try_get_data", None)
    if read is None or frame.f_code is not read.__code__:
        return None
    iterator: Any = frame.f_locals.get("self")
    if type(iterator) is not kind or not all(hasattr(iterator, at) for at in OF_TORCH):
        return None
    queue = iterator._data_queue
    if (
        iterator._dataset_kind != kinds.Iterable
        or queue is not iterator._worker_result_queue
        or iterator._prefetch_factor != DEFAULT_PREFETCH
        or "get" in queue.__dict__
        or not hasattr(queue, "_rlock")
    ):
        return None
    return iterator


def end_of_worker() -> Any:
    """Return the class of the message that ends the batches of a worker of torch, or ``None``."""
    from torch.utils.data._utils import worker

    return getattr(worker, "_IterableDatasetStopIteration", None)


class WorkerRequests:
    """The requests of torch to a worker, and the requests that are sent to the worker instead.

    Attributes:
        numbers: The numbers of the batches that torch has requested and that have not arrived.
        groups: The batches that have arrived and that torch has not requested yet, by group.
        is_first_started: Whether torch has taken batches of the first of these groups.
        num_requested: The number of requested messages of the worker that have not arrived.
        has_ended: Whether the worker has no more batches.
    """

    def __init__(self, put: Callable[[Any], None]) -> None:
        self.put = put
        self.reset()

    def reset(self) -> None:
        """Begin an iteration."""
        self.numbers: deque[int] = deque()
        self.groups: deque[deque[Any]] = deque()
        self.is_first_started = False
        self.num_requested = 0
        self.has_ended = False


class GroupedQueues:
    """Replaces the queues of an iterator of torch by queues that exchange groups with workers.

    Batches get the numbers of torch's requests to their worker, in order. A request of torch requests a
    group while fewer groups are ahead than torch would have batches ahead, so that groups of one batch
    are prefetched as far as batches without groups.

    Args:
        iterator: The iterator, which is reading a message.
        message: The message.
    """

    def __init__(self, iterator: Any, message: tuple[Any, Any]) -> None:
        self._depth = iterator._prefetch_factor
        self._end = end_of_worker()
        self._num_resuming = 0
        """The number of workers that have not begun the iteration that torch began."""
        self._ready: deque[tuple[Any, Any]] = deque()
        """The messages that torch can take."""
        self._requests = [
            WorkerRequests(weak_put(queue)) for queue in iterator._index_queues
        ]
        self._worker_of: dict[int, int] = {}
        """The worker of each batch that torch requested before the queues were replaced."""
        for number, (worker, *arrived) in iterator._task_info.items():
            if not arrived and number != message[0]:
                self._worker_of[number] = worker
                self._requests[worker].numbers.append(number)
                self._requests[worker].num_requested += 1
        self._read = DirectReader(iterator._data_queue).get
        iterator._data_queue.get = self.get
        for worker, queue in enumerate(iterator._index_queues):
            queue.put = WorkerPut(self, worker)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
        """Return a message as torch expects it, as ``Queue.get`` does."""
        while not self._ready:
            self._accept(self._read(block, timeout))
        return self._ready.popleft()

    def put(self, worker: int, message: Any) -> None:
        """Handle a message of torch to a worker: a request of a batch, the next iteration, or the end."""
        requests = self._requests[worker]
        if type(message) is not tuple:
            if message is not None:
                # The next iteration of persistent workers.
                self._num_resuming += 1
                self._ready.clear()
                requests.reset()
            requests.put(message)
            return
        requests.numbers.append(message[0])
        self._match(requests)
        num_ahead = (
            len(requests.groups) - requests.is_first_started + requests.num_requested
        )
        if num_ahead < self._depth:
            self._request_group(worker)

    def _request_group(self, worker: int) -> None:
        requests = self._requests[worker]
        if not requests.has_ended:
            requests.num_requested += 1
            requests.put((-1 - worker, None))

    def _accept(self, message: tuple[Any, Any]) -> None:
        number, found = message
        if type(number) is not int:
            self._num_resuming -= 1
            self._ready.append(message)
            return
        if self._num_resuming:
            # A batch of the previous iteration.
            return
        worker = -1 - number if number < 0 else self._worker_of.pop(number)
        requests = self._requests[worker]
        requests.num_requested -= 1
        if isinstance(found, self._end):
            requests.has_ended = True
        is_list = number < 0 and type(found) is list
        requests.groups.append(deque(found if is_list else [found]))
        self._match(requests)
        if requests.numbers and not requests.num_requested:
            self._request_group(worker)

    def _match(self, requests: WorkerRequests) -> None:
        """Assign the batches that have arrived to the requests of torch."""
        numbers, groups = requests.numbers, requests.groups
        while numbers and groups:
            self._ready.append((numbers.popleft(), groups[0].popleft()))
            requests.is_first_started = bool(groups[0])
            if not groups[0]:
                groups.popleft()


class WorkerPut:
    """Replaces ``put`` of the queue of a worker."""

    def __init__(self, queues: GroupedQueues, worker: int) -> None:
        self._queues = queues
        self._worker = worker

    def __call__(self, message: Any) -> None:
        """Handle a message of torch to the worker."""
        self._queues.put(self._worker, message)


def weak_put(queue: Any) -> Callable[[Any], None]:
    """Return ``put`` of a queue as a function that does not keep the queue alive."""
    method = weakref.WeakMethod(queue.put)

    def put(message: Any) -> None:
        found = method()
        if found is not None:
            found(message)

    return put
