"""How workers are started, and what is raised if they cannot be started or end too early."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.transport.queues import read_directly, write_directly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader as TorchLoader

__all__ = ["WorkersIterator", "checked", "started"]

ENDING_S = 1.0
"""The time that a worker takes to end after its connections are closed."""


class WorkersIterator(_MultiProcessingDataLoaderIter):
    """The iterator of torch, whose queues need no threads in this process."""

    @property
    def processes(self) -> list[Any]:
        """The worker processes."""
        found: list[Any] = self._workers
        return found

    def _reset(self, loader: Any, first_iter: bool = False) -> None:  # noqa: FBT001, FBT002
        if first_iter:
            # Nothing was sent yet.
            for queue in self._index_queues:
                write_directly(queue)
            read_directly(self._worker_result_queue)
        super()._reset(loader, first_iter)


def started(loader: TorchLoader[Any], kind: type[WorkersIterator]) -> Any:
    """Start the workers of a loader, and return an iterator of a kind.

    Raises:
        Exception: If a function cannot be sent to workers, with a note that says what to do.
    """
    try:
        loader.check_worker_number_rationality()
        return kind(loader)
    except Exception as error:
        if "pickle" in str(error).lower():
            error.add_note(
                "lanceloader: worker processes are sent the functions of the loader: define them "
                "at the top level of a module, not as a lambda or inside another function"
            )
        raise


def checked(slots: Any) -> Iterator[Any]:
    """Yield the items of workers, and raise a clear error if a worker ends while it sends a batch.

    Raises:
        RuntimeError: If a worker has ended, as torch does if no batch is being sent.
    """
    has_started = False
    try:
        for slot in slots:
            has_started = True
            yield slot
    except RuntimeError as error:
        if not has_started and any(map(could_not_start, slots.processes)):
            error.add_note(UNGUARDED)
        raise
    except (OSError, EOFError) as error:
        # The error may be one of the user's functions, sent by a worker.
        by_sentinel = {worker.sentinel: worker for worker in slots.processes}
        ended = wait(list(by_sentinel), timeout=ENDING_S)
        if not ended:
            raise
        pids = ", ".join(str(by_sentinel[sentinel].pid) for sentinel in ended)
        message = f"DataLoader worker (pid(s) {pids}) exited unexpectedly while it sent a batch: {error!r}"
        raise RuntimeError(message) from error


def could_not_start(worker: Any) -> bool:
    """Return whether a worker probably ended because it could not import the main module."""
    method = worker._start_method or multiprocessing.get_start_method()
    return worker.exitcode == 1 and imports_main(method)
