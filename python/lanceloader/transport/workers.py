"""Setup of the worker processes of torch's ``DataLoader`` for datasets of this package.

A worker sends its batches through shared memory, and ends when its parent has ended. Both hold from the
start of the process if its dataset refers to an object of this package, and otherwise from the first time
that rows are read in the process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing import util
from types import ModuleType
from typing import Any

from lanceloader.transport.events import check_without_lock
from lanceloader.transport.outbox import Outbox
from lanceloader.transport.parent import when_ended
from lanceloader.transport.queues import read_directly
from lanceloader.transport.torch_groups import note_requests

__all__ = ["attach"]

MOST_OBJECTS = 200
"""The maximum number of objects that are inspected to find one of this package in a dataset."""

PERIOD_S = 0.01
"""The seconds between two checks whether a spawned process has received its arguments."""

_attached_pid: int | None = None
"""The identifier of the process in which ``attach`` has run, which differs in forks."""
_watched_pid: int | None = None
"""The identifier of the process that waits for the end of its parent."""
_lock = threading.Lock()
"""Held while ``_watched_pid`` is changed."""


def attach() -> None:
    """Send the batches of this process through shared memory if it is a worker of a ``DataLoader``."""
    global _attached_pid
    parent = multiprocessing.parent_process()
    # Without a parent, this process is not a worker, or is still unpickling its arguments.
    if parent is None or parent.pid is None or _attached_pid == os.getpid():
        return
    _attached_pid = os.getpid()
    arguments = arguments_of_worker()
    if arguments is None:
        return
    end_with_parent(parent)
    requests = arguments.get("index_queue")
    read_directly(requests)
    if hasattr(requests, "get"):
        note_requests(requests)
    check_without_lock(arguments.get("done_event"), requests)
    queue = arguments.get("data_queue")
    if hasattr(os, "memfd_create") and hasattr(queue, "put"):
        Outbox(queue, parent.pid)


def end_with_parent(parent: Any) -> None:
    """Have this process end once its parent has ended. Later calls do nothing."""
    global _watched_pid
    with _lock:
        if _watched_pid == os.getpid():
            return
        _watched_pid = os.getpid()
    when_ended(parent, exit_immediately)


def exit_immediately() -> None:
    """End this process without cleanup."""
    os._exit(1)


def arguments_of_worker() -> dict[str, Any] | None:
    """Return the arguments of the function that this process runs, if it is a worker of torch."""
    process: Any = multiprocessing.current_process()
    target: Any = getattr(process, "_target", None)
    module = getattr(target, "__module__", None) or ""
    if getattr(target, "__name__", None) != "_worker_loop" or (
        module.partition(".")[0] not in ("torch", "torchdata")
    ):
        return None
    # `inspect.signature` would take a considerable part of the start of a worker.
    code = getattr(target, "__code__", None)
    if code is None or len(process._args) > code.co_argcount:
        return None
    found: dict[str, Any] = dict(zip(code.co_varnames, process._args, strict=False))
    found.update(process._kwargs)
    return found


def is_worker_of_torch() -> bool:
    """Return whether this process is a worker of torch's own ``DataLoader``."""
    process: Any = multiprocessing.current_process()
    module = getattr(getattr(process, "_target", None), "__module__", None) or ""
    return module.partition(".")[0] == "torch"


def refers_to_package(dataset: Any) -> bool:
    """Return whether a dataset is, or refers to, an object of this package."""
    level = [dataset]
    seen: set[int] = set()
    while level and len(seen) < MOST_OBJECTS:
        next_level: list[Any] = []
        for value in level:
            kind = type(value)
            if kind.__module__.partition(".")[0] == "lanceloader":
                return True
            if id(value) in seen or isinstance(value, type | ModuleType):
                continue
            seen.add(id(value))
            if isinstance(value, list | tuple):
                next_level += value[:MOST_OBJECTS]
            elif isinstance(value, dict):
                next_level += list(value.values())[:MOST_OBJECTS]
            else:
                next_level += getattr(value, "__dict__", {}).values()
        level = next_level[:MOST_OBJECTS]
    return False


def _after_start(marker: type[Any]) -> None:
    """Attach a forked process before it runs its function."""
    del marker
    arguments = arguments_of_worker()
    if arguments is None:
        return
    if refers_to_package(arguments.get("dataset_holder", arguments.get("dataset"))):
        attach()


def _when_imported() -> None:
    """End this process with its parent, if it is a worker of torch that was not forked.

    Unpickling the dataset imports this module, while the worker starts or when it runs. After that, the
    worker may wait forever for a parent that has ended.
    """
    while (parent := multiprocessing.parent_process()) is None:
        time.sleep(PERIOD_S)
    if arguments_of_worker() is not None:
        end_with_parent(parent)


def _in_child() -> None:
    global _lock
    # Another thread may have held the lock during the fork.
    _lock = threading.Lock()


class _Marker:
    """Keeps the callback after a fork registered for as long as this module lives."""


os.register_at_fork(after_in_child=_in_child)
util.register_after_fork(_Marker, _after_start)
if getattr(multiprocessing.current_process(), "_inheriting", False):
    # The process is still unpickling its arguments.
    threading.Thread(
        target=_when_imported, name="lanceloader-start", daemon=True
    ).start()
elif multiprocessing.parent_process() is not None:
    _when_imported()
