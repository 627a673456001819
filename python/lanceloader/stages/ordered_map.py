"""``OrderedMap``: maps a function over items in threads, in order and with bounded memory.

Unlike ``concurrent.futures``, which joins its threads at the exit of the interpreter, the threads are
daemons, so a function that hangs does not block the exit. Calls get ``GRACE_S`` seconds to finish.
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

# A daemon thread in C++ or Rust code aborts the process when the interpreter is finalised, so the
# exit waits for calls, but no longer than this.
GRACE_S = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class OrderedMap(Generic[Item, Result]):
    """An iterator over ``call(item)`` for each item, in order, which threads compute ahead.

    The thread that calls ``next`` only waits, so that Ctrl-C works. Threads start on the first
    ``next``. Several threads may call ``next``; each result is returned to one of them. An exception
    of the items, of the function or of waiting ends the iteration.

    Args:
        items: The items, which are taken by one thread at a time, but not always the same one.
        call: The function, which several threads call at the same time.
        threads: The number of threads. With 0, the thread that calls ``next`` calls the function,
            without computing ahead.
        ahead: The most items in flight, which are taken from ``items`` and not yielded yet.
        weigh: Returns the weight of the item that was taken last.
        max_weight: The limit of the total weight of items in flight, if there are more than one. An
            item is only taken if the total would stay within it for the heaviest item so far.
        timeout: The most seconds of a call, if its result is being waited for.
        timeout_message: Returns the message of the ``TimeoutError`` from the number of an item and
            the item.
        name: The prefix of the names of the threads.
    """

    def __init__(
        self,
        items: Iterable[Item],
        call: Callable[[Item], Result],
        *,
        threads: int,
        ahead: int,
        weigh: Callable[[Item], int] = lambda _: 0,
        max_weight: int = 0,
        timeout: float | None = None,
        timeout_message: Callable[[int, Item], str] = lambda number, _: (
            f"item {number} timed out"
        ),
        name: str,
    ) -> None:
        space = _Space(ahead, weigh, max_weight)
        self._work = _Work(iter(items), call, space, timeout, timeout_message)
        self._num_threads = threads
        self._name = name
        self._finalizer = weakref.finalize(self, _stop, self._work)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        work = self._work
        if os.getpid() != work.process:
            raise RuntimeError(
                "this iterator was made in another process, whose threads do not exist after a "
                "fork: call iter() in this process"
            )
        try:
            if not self._num_threads:
                return work.call_next()
            work.start(self._num_threads, self._name)
            job = work.wait_for_next()
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
            # The traceback refers to this frame: avoid a reference cycle.
            del error

    @property
    def runs_ahead(self) -> bool:
        """Whether results are computed before they are requested."""
        return self._num_threads > 0

    @property
    def num_ready(self) -> int:
        """The number of results that were computed and not yielded yet."""
        work = self._work
        with work.lock:
            return sum(job.is_done for job in work.jobs)

    def close(self) -> None:
        """Take no more items. Running calls are not waited for, and their results are dropped."""
        self._finalizer()


class _Job(Generic[Item, Result]):
    """An item in flight."""

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
    """The number and weight of the items in flight, and their limits."""

    def __init__(
        self, ahead: int, weigh: Callable[[Item], int], max_weight: int
    ) -> None:
        self.ahead = ahead
        self.weigh = weigh
        self.max_weight = max_weight
        self.num_items = 0
        self.weight = 0
        self.heaviest = 0

    @property
    def has_room(self) -> bool:
        """Whether another item may be taken; the first one always may."""
        return self.num_items == 0 or (
            self.num_items < self.ahead
            and self.weight + self.heaviest <= self.max_weight
        )

    def add(self, weight: int) -> None:
        self.weight += weight
        self.heaviest = max(self.heaviest, weight)

    def remove(self, weight: int) -> None:
        self.num_items -= 1
        self.weight -= weight


class _Work(Generic[Item, Result]):
    """The shared state of the threads.

    It must not refer to the ``OrderedMap``, whose finalizer stops the threads.
    """

    def __init__(
        self,
        items: Iterator[Item],
        call: Callable[[Item], Result],
        space: _Space[Item],
        timeout: float | None,
        timeout_message: Callable[[int, Item], str],
    ) -> None:
        self.items = items
        self.call = call
        self.space = space
        self.timeout = timeout
        self.timeout_message = timeout_message
        self.process = os.getpid()
        self.threads: list[threading.Thread] = []
        # Reentrant: garbage collection may call stop() in a thread that holds the lock.
        self.lock = threading.RLock()
        self.done = threading.Condition(self.lock)
        self.room = threading.Condition(self.lock)
        self.taking = threading.Lock()
        self.jobs: deque[_Job[Item, Result]] = deque()
        self.num_taken = 0
        self.is_over = False
        self.is_stopped = False

    def start(self, threads: int, name: str) -> None:
        """Start the threads, if they were not started."""
        if self.threads:
            return
        with self.lock:
            if self.threads or self.is_stopped:
                return
            _at_exit(self)
            for at in range(threads):
                thread = threading.Thread(
                    target=self.work, name=f"{name}-{at}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    message = (
                        f"thread {at + 1} of {threads} could not be started: pass fewer "
                        "threads, or raise the limit of the system"
                    )
                    raise RuntimeError(message) from error
                # Only those that run can be waited for.
                self.threads.append(thread)

    def work(self) -> None:
        """Run one job after the other, until there are no more."""
        while (job := self.next_job()) is not None:
            self.run(job)
            # Do not keep the result alive while waiting for the next item.
            del job

    def next_job(self) -> _Job[Item, Result] | None:
        """Wait until another item may be taken, and return its job; ``None`` if there are no more."""
        with self.taking:
            with self.lock:
                while not (self.space.has_room or self.is_at_end):
                    self.room.wait()
                if not self.is_at_end:
                    self.space.num_items += 1
            job = None if self.is_at_end else self.take_job()
            if not self.is_stopped:
                return job
            self.drop_items()
            return None

    @property
    def is_at_end(self) -> bool:
        return self.is_over or self.is_stopped

    def take_job(self) -> _Job[Item, Result] | None:
        """Return the job of the next item, whose number is its position in the order."""
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
            # A consumer may have waited for the first job before there was one.
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

    def wait_for_next(self) -> _Job[Item, Result] | None:
        """Wait for the next job in order, and return it; ``None`` if there are no more.

        Raises:
            TimeoutError: If its call takes too long.
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
            raise TimeoutError(self.timeout_message(job.number, cast("Item", job.item)))
        return left

    def call_next(self) -> Result:
        """Return the result for the next item, computed in this thread."""
        with self.taking:
            if self.is_stopped:
                raise StopIteration
            item = next(self.items)
            if self.is_stopped:
                # It was stopped meanwhile, and `stop` could not take the items away.
                self.drop_items()
        return without_stop_iteration(self.call)(item)

    def stop(self) -> None:
        with self.lock:
            self.is_stopped = True
            self.jobs.clear()
            self.room.notify_all()
            self.done.notify_all()
        # A thread that is taking an item drops the items afterwards.
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
    # After a fork, locks may be held by threads that do not exist.
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
    """Stop all threads, and wait up to ``GRACE_S`` for running calls."""
    end = time.monotonic() + GRACE_S
    running = [work for work in _RUNNING if work.process == os.getpid()]
    for work in running:
        work.stop()
    for work in running:
        for thread in work.threads:
            thread.join(max(0.0, end - time.monotonic()))
