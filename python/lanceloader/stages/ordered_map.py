"""A function over items in threads of our own: in order, bounded, and never in the way of exit.

``concurrent.futures`` joins its threads when the interpreter exits, so a function that hangs
would hang the program. These threads are daemons; at exit they are given a moment.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from lanceloader.stop_iteration import as_runtime_error, without_stop_iteration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["OrderedMap"]

# A daemon that is inside C++ or Rust when the interpreter goes takes the process down with an
# abort. Most calls are done within this time; one that hangs delays exit by no more.
GRACE_S = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class OrderedMap(Generic[Item, Result]):
    """What ``call`` makes of each of ``items``, in order, made ahead by threads.

    Threads take items and call the function; whoever asks only waits, so that Ctrl-C works.
    Threads start with the first ``next``. Several threads may ask at once; each result goes
    to one of them. An exception, whether of the items, of the function or of waiting, ends it.

    Args:
        items: Taken by one thread at a time, but not always by the same.
        call: Called from several threads at once.
        threads: Their number. 0 calls in the thread that asks, ahead of nothing.
        ahead: Items that may be taken and not handed over.
        weigh: Gives the weight of an item that was just taken.
        most: Of items that are taken and not handed over, more than one only within this weight,
            as far as the heaviest so far says what the next will weigh.
        timeout: Seconds that one call may take once somebody waits for it.
        late: The message of the ``TimeoutError``, of an item's number and the item.
        name: What the threads are called.
    """

    def __init__(
        self,
        items: Iterable[Item],
        call: Callable[[Item], Result],
        *,
        threads: int,
        ahead: int,
        weigh: Callable[[Item], int] = lambda _: 0,
        most: int = 0,
        timeout: float | None = None,
        late: Callable[[int, Item], str] = lambda number, _: f"item {number} is late",
        name: str,
    ) -> None:
        space = _Space(ahead, weigh, most)
        self._work = _Work(iter(items), call, space, timeout, late)
        self._num_threads = threads
        self._name = name
        self._finalizer = weakref.finalize(self, _stop, self._work)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        work = self._work
        if os.getpid() != work.process:
            raise RuntimeError(
                "this iteration was begun in another process, whose threads a fork does "
                "not copy: begin one here"
            )
        try:
            if not self._num_threads:
                return work.here()
            work.begin(self._num_threads, self._name)
            job = work.take()
        except BaseException:
            self.close()
            raise
        if job is None:
            self.close()
            raise StopIteration
        if job.error is None:
            return cast("Result", job.result)
        self.close()
        error, job.error = job.error, None
        try:
            raise as_runtime_error(error)
        finally:
            # Its traceback holds this frame, which would hold it.
            del error

    @property
    def num_ready(self) -> int:
        """Results that were made and not handed over."""
        work = self._work
        with work.lock:
            return sum(job.is_done for job in work.jobs)

    def close(self) -> None:
        """Take no more items. Calls that run are not waited for; what they make is dropped."""
        self._finalizer()


class _Job(Generic[Item, Result]):
    """One item on its way."""

    __slots__ = ("error", "is_done", "item", "number", "result", "started", "weight")

    def __init__(self, number: int, item: Item | None) -> None:
        self.number = number
        self.item = item
        self.started = time.monotonic()
        self.weight = 0
        self.is_done = False
        self.result: Result | None = None
        self.error: BaseException | None = None


class _Space(Generic[Item]):
    """How many items may be under way: of those that are, their number and weight."""

    def __init__(self, ahead: int, weigh: Callable[[Item], int], most: int) -> None:
        self.ahead = ahead
        self.weigh = weigh
        self.most = most
        self.num_items = 0
        self.weight = 0
        self.heaviest = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may be taken; without any, nothing would go on."""
        return self.num_items == 0 or (
            self.num_items < self.ahead and self.weight + self.heaviest <= self.most
        )

    def add(self, weight: int) -> None:
        self.weight += weight
        self.heaviest = max(self.heaviest, weight)

    def remove(self, weight: int) -> None:
        self.num_items -= 1
        self.weight -= weight


class _Work(Generic[Item, Result]):
    """What the threads share. It does not know ``OrderedMap``, whose end is how they end."""

    def __init__(
        self,
        items: Iterator[Item],
        call: Callable[[Item], Result],
        space: _Space[Item],
        timeout: float | None,
        late: Callable[[int, Item], str],
    ) -> None:
        self.items = items
        self.call = call
        self.space = space
        self.timeout = timeout
        self.late = late
        self.process = os.getpid()
        self.threads: list[threading.Thread] = []
        # Reentrant: a collection of garbage may stop the work in a thread that holds it.
        self.lock = threading.RLock()
        self.done = threading.Condition(self.lock)
        self.room = threading.Condition(self.lock)
        self.taking = threading.Lock()
        self.jobs: deque[_Job[Item, Result]] = deque()
        self.num_taken = 0
        self.is_over = False
        self.is_stopped = False

    def begin(self, threads: int, name: str) -> None:
        """Start the threads, unless they were."""
        if self.threads:
            return
        with self.lock:
            if self.threads or self.is_stopped:
                return
            self.threads = [
                threading.Thread(target=self.work, name=f"{name}-{at}", daemon=True)
                for at in range(threads)
            ]
            _at_exit(self)
            for thread in self.threads:
                thread.start()

    def work(self) -> None:
        """Call for one item after the other, until there are no more."""
        while (job := self.next_job()) is not None:
            self.run(job)
            # What was made must not wait here for the next item.
            del job

    def next_job(self) -> _Job[Item, Result] | None:
        """Wait until another item may be taken, and take it; ``None`` if there are no more."""
        with self.taking:
            with self.lock:
                while not (self.space.has_room or self.is_at_end):
                    self.room.wait()
                if not self.is_at_end:
                    self.space.num_items += 1
            job = None if self.is_at_end else self.taken()
            if not self.is_stopped:
                return job
            self.drop_items()
            return None

    @property
    def is_at_end(self) -> bool:
        return self.is_over or self.is_stopped

    def taken(self) -> _Job[Item, Result] | None:
        """Take an item, with the place in order that it has thereby."""
        try:
            item = next(self.items)
            job = _Job[Item, Result](self.num_taken, item)
            job.weight = self.space.weigh(item)
        except StopIteration:
            with self.lock:
                self.is_over = True
                self.done.notify_all()
            return None
        except BaseException as error:
            job = _Job(self.num_taken, None)
            job.error, job.is_done = error, True
        with self.lock:
            self.num_taken += 1
            self.space.add(job.weight)
            self.jobs.append(job)
            self.is_over = self.is_over or job.is_done
            # Whoever waits for the first in line may have waited before it was there.
            if job.is_done or len(self.jobs) == 1:
                self.done.notify_all()
        return None if job.is_done else job

    def run(self, job: _Job[Item, Result]) -> None:
        try:
            job.result = self.call(cast("Item", job.item))
        except BaseException as error:
            job.error = error
        with self.lock:
            job.item = None
            job.is_done = True
            self.done.notify_all()

    def take(self) -> _Job[Item, Result] | None:
        """Wait for what is next in order.

        Raises:
            TimeoutError: If it takes too long to make.
        """
        with self.lock:
            while not self.is_stopped:
                if self.jobs and self.jobs[0].is_done:
                    job = self.jobs.popleft()
                    self.space.remove(job.weight)
                    self.room.notify()
                    return job
                if self.is_over and not self.jobs:
                    return None
                self.done.wait(self.seconds_left())
        return None

    def seconds_left(self) -> float | None:
        if self.timeout is None or not self.jobs:
            return None
        job = self.jobs[0]
        left = job.started + self.timeout - time.monotonic()
        if left <= 0:
            raise TimeoutError(self.late(job.number, cast("Item", job.item)))
        return left

    def here(self) -> Result:
        """Call in this thread."""
        with self.taking:
            if self.is_stopped:
                raise StopIteration
            item = next(self.items)
        return without_stop_iteration(self.call)(item)

    def stop(self) -> None:
        with self.lock:
            self.is_stopped = True
            self.jobs.clear()
            self.room.notify_all()
            self.done.notify_all()
        # Whoever is taking an item lets go of them afterwards.
        if self.taking.acquire(blocking=False):
            try:
                self.drop_items()
            finally:
                self.taking.release()

    def drop_items(self) -> None:
        items, self.items = self.items, iter(())
        close = getattr(items, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):
                close()


def _stop(work: _Work[Item, Result]) -> None:
    # After a fork the locks may be held, by threads that are not there.
    if os.getpid() == work.process:
        work.stop()


_RUNNING: weakref.WeakSet[_Work[object, object]] = weakref.WeakSet()
_is_registered = False


def _at_exit(work: _Work[Item, Result]) -> None:
    global _is_registered
    _RUNNING.add(cast("_Work[object, object]", work))
    if not _is_registered:
        atexit.register(_let_finish)
        _is_registered = True


def _let_finish() -> None:
    """Stop all threads, and wait a moment for those in the middle of a call."""
    end = time.monotonic() + GRACE_S
    running = [work for work in _RUNNING if work.process == os.getpid()]
    for work in running:
        work.stop()
    for work in running:
        for thread in work.threads:
            thread.join(max(0.0, end - time.monotonic()))
