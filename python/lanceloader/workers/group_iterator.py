"""``GroupsIterator``: torch's iterator over what workers send, for groups of batches."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data._utils.worker import _IterableDatasetStopIteration

from lanceloader.workers.starting import WorkersIterator

__all__ = ["GroupsIterator"]


class GroupsIterator(WorkersIterator):
    """The iterator of torch, for workers that send groups of batches.

    The batches of the workers come in turn. Each worker makes as many groups ahead as torch's make
    batches.
    """

    def _reset(self, loader: Any, first_iter: bool = False) -> None:  # noqa: FBT001, FBT002
        numbers = range(self._num_workers)
        self._turn = 0
        """The worker whose batch is next."""
        self._rest: list[list[Any]] = [[] for _ in numbers]
        """What is left of the current group of each worker, in reverse order."""
        self._groups: list[deque[Any]] = [deque() for _ in numbers]
        """The groups that have arrived."""
        self._num_asked = [0 for _ in numbers]
        """The number of groups that each worker was asked for and that have not arrived."""
        super()._reset(loader, first_iter)

    def __next__(self) -> Any:
        # What torch does round `_next_data` is done for each group.
        return self._taken() if self._rest[self._turn] else super().__next__()

    def _taken(self) -> Any:
        """Return the next batch, which has arrived."""
        turn = self._turn
        self._turn = (turn + 1) % self._num_workers
        batch = self._rest[turn].pop()
        if isinstance(batch, ExceptionWrapper):
            # It could not be sent.
            batch.reraise()  # type: ignore[no-untyped-call]
        return batch

    def _next_data(self) -> Any:
        while True:
            turn = self._turn
            if self._rest[turn]:
                return self._taken()
            if self._groups[turn]:
                group = self._groups[turn].popleft()
                self._ask(turn)
                if isinstance(group, ExceptionWrapper):
                    group.reraise()  # type: ignore[no-untyped-call]
                self._rest[turn] = group[::-1]
            elif self._num_asked[turn]:
                self._receive()
            elif any(itertools.chain(self._num_asked, self._groups, self._rest)):
                # This worker has no more batches.
                self._turn = (turn + 1) % self._num_workers
            else:
                if not self._persistent_workers:
                    self._shutdown_workers()
                raise StopIteration

    def _receive(self) -> None:
        """Wait for a message of any worker."""
        worker, found = self._get_data()  # type: ignore[no-untyped-call]
        if not isinstance(found, _IterableDatasetStopIteration):
            self._num_asked[worker] -= 1
            self._groups[worker].append(found)
            return
        self._num_asked[worker] = 0
        if self._persistent_workers:
            self._workers_status[worker] = False
        else:
            self._mark_worker_as_unavailable(worker)

    def _try_put_index(self) -> None:
        """Ask the next worker for a group, which torch does when an iteration begins."""
        self._ask(next(self._worker_queue_idx_cycle))

    def _ask(self, worker: int) -> None:
        if self._workers_status[worker]:
            # It returns what stands for the number of a batch, and has a sampler of its own.
            self._index_queues[worker].put((worker, None))
            self._num_asked[worker] += 1
