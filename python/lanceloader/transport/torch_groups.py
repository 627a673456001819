"""Groups of batches in the messages of workers of torch's own ``DataLoader``.

torch expects one message per batch. Workers send groups only after the iterator in the trainer has accepted
the offer in the first message, and its queues were replaced.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from lanceloader.transport.groups import begun, groups_of
from lanceloader.transport.inbox import receive
from lanceloader.transport.queues import DirectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["BatchGroup", "GroupedQueues", "GroupingIterator", "receive_first"]


OF_TORCH = (
    "_data_queue",
    "_dataset_kind",
    "_index_queues",
    "_prefetch_factor",
    "_task_info",
    "_worker_result_queue",
)
"""What an iterator of torch must have: these names are no promise of torch."""
DEFAULT_PREFETCH = 2
"""The ``prefetch_factor`` of torch, where no other one is passed."""


class BatchGroup:
    """What a worker returns for a request of a group, and sends as a list.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches


class GroupingIterator:
    """The iterator of a loader in a worker: it returns groups of batches once the parent asks for them.

    Args:
        batches: The iterator of the loader.
    """

    are_offered = False
    """Whether this process can send groups."""
    are_wanted = False
    """Whether the parent has asked for a group."""

    def __init__(self, batches: Any) -> None:
        # Before the parent asks for a batch, which may be starting other workers.
        self._slots = begun(with_sizes(batches))
        self._groups: Iterator[list[Any]] | None = None
        GroupingIterator.are_offered = True

    @classmethod
    def is_offering(cls) -> bool:
        """Return whether the parent may ask for groups and has not done so yet."""
        return cls.are_offered and not cls.are_wanted

    def __iter__(self) -> GroupingIterator:
        return self

    def __next__(self) -> Any:
        if not GroupingIterator.are_wanted:
            return next(self._slots)[0]
        if self._groups is None:
            self._groups = groups_of(self._slots)
        return BatchGroup(next(self._groups))


def with_sizes(batches: Any) -> Iterator[tuple[Any, int]]:
    """Yield each batch of a loader, and the bytes of its rows."""
    before = 0
    for batch in batches:
        _, so_far = batches.metrics.size_yielded
        yield batch, so_far - before
        before = so_far


def note_requests(queue: Any) -> None:
    """Replace ``get`` of the queue of a worker by one that notes requests of groups."""
    get = queue.get

    def noting(*arguments: Any, **options: Any) -> Any:
        request = get(*arguments, **options)
        if is_group(request):
            GroupingIterator.are_wanted = True
        return request

    queue.get = noting


def is_group(message: Any) -> bool:
    """Return whether a message asks for a group, or answers such a message."""
    return type(message) is tuple and type(message[0]) is int and message[0] < 0


def receive_first(*arguments: Any) -> Any:
    """Return a message of a worker that can send groups, and have its iterator ask for them.

    The arguments are those of ``receive``.
    """
    import sys

    message = receive(*arguments)
    frame = sys._getframe(1).f_back
    if frame is not None:
        iterator = iterator_of(frame)
        # A message of the iteration before arrives while torch waits for workers that stay.
        if iterator is not None and message[0] in iterator._task_info:
            GroupedQueues(iterator, message)
    return message


def iterator_of(frame: FrameType) -> Any:
    """Return the iterator of torch that reads a queue in a frame, or ``None`` if it cannot ask for groups.

    Subclasses and threads that pin memory may look at messages themselves. Who limits the batches made
    ahead gets messages of one batch.
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
    """Return the class of what a worker of torch sends when it has no more batches, or ``None``."""
    from torch.utils.data._utils import worker

    return getattr(worker, "_IterableDatasetStopIteration", None)


class WorkerRequests:
    """What torch asked a worker for, and what the worker was asked for.

    Attributes:
        numbers: The numbers of the batches that torch waits for.
        groups: The batches that torch did not ask for yet, by group.
        has_begun: Whether torch has asked for batches of the first of these groups.
        num_asked: The number of groups that the worker was asked for and that have not arrived.
        has_ended: Whether the worker has no more batches.
    """

    def __init__(self, put: Callable[[Any], None]) -> None:
        self.put = put
        self.reset()

    def reset(self) -> None:
        """Begin an iteration."""
        self.numbers: deque[int] = deque()
        self.groups: deque[deque[Any]] = deque()
        self.has_begun = False
        self.num_asked = 0
        self.has_ended = False


class GroupedQueues:
    """Replaces the queues of an iterator of torch by those of groups.

    Batches get the numbers of torch's requests to their worker, in order. A request of torch is one of a
    group while fewer groups are under way than torch would have batches, so that no more batches
    are made ahead than usual where each is a group.

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
        """The messages for torch."""
        self._workers = [
            WorkerRequests(putting(queue)) for queue in iterator._index_queues
        ]
        self._worker_of: dict[int, int] = {}
        """The worker of each batch that was asked for before."""
        for number, (worker, *arrived) in iterator._task_info.items():
            if not arrived and number != message[0]:
                self._worker_of[number] = worker
                self._workers[worker].numbers.append(number)
                self._workers[worker].num_asked += 1
        self._read = DirectReader(iterator._data_queue).get
        iterator._data_queue.get = self.get
        for worker, queue in enumerate(iterator._index_queues):
            queue.put = Putting(self, worker)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
        """Return a message as torch expects it, as ``Queue.get`` does."""
        while not self._ready:
            self._accept(self._read(block, timeout))
        return self._ready.popleft()

    def put(self, worker: int, message: Any) -> None:
        """Note or send a message of torch to a worker."""
        of_worker = self._workers[worker]
        if type(message) is not tuple:
            if message is not None:
                # The next iteration of workers that stay.
                self._num_resuming += 1
                self._ready.clear()
                of_worker.reset()
            of_worker.put(message)
            return
        of_worker.numbers.append(message[0])
        self._match(of_worker)
        num_ahead = len(of_worker.groups) - of_worker.has_begun + of_worker.num_asked
        if num_ahead < self._depth:
            self._ask(worker)

    def _ask(self, worker: int) -> None:
        of_worker = self._workers[worker]
        if not of_worker.has_ended:
            of_worker.num_asked += 1
            of_worker.put((-1 - worker, None))

    def _accept(self, message: tuple[Any, Any]) -> None:
        number, found = message
        if type(number) is not int:
            self._num_resuming -= 1
            self._ready.append(message)
            return
        if self._num_resuming:
            # A batch of the iteration before.
            return
        worker = -1 - number if number < 0 else self._worker_of.pop(number)
        of_worker = self._workers[worker]
        of_worker.num_asked -= 1
        if isinstance(found, self._end):
            of_worker.has_ended = True
        is_list = number < 0 and type(found) is list
        of_worker.groups.append(deque(found if is_list else [found]))
        self._match(of_worker)
        if of_worker.numbers and not of_worker.num_asked:
            self._ask(worker)

    def _match(self, of_worker: WorkerRequests) -> None:
        """Assign the batches that have arrived to the requests of torch."""
        numbers, groups = of_worker.numbers, of_worker.groups
        while numbers and groups:
            self._ready.append((numbers.popleft(), groups[0].popleft()))
            of_worker.has_begun = bool(groups[0])
            if not groups[0]:
                groups.popleft()


class Putting:
    """``put`` of the queue of a worker."""

    def __init__(self, queues: GroupedQueues, worker: int) -> None:
        self._queues = queues
        self._worker = worker

    def __call__(self, message: Any) -> None:
        """Note or send a message."""
        self._queues.put(self._worker, message)


def putting(queue: Any) -> Callable[[Any], None]:
    """Return ``put`` of a queue, which does not keep the queue alive."""
    method = weakref.WeakMethod(queue.put)

    def put(message: Any) -> None:
        found = method()
        if found is not None:
            found(message)

    return put
