"""What a worker process of torch's ``DataLoader`` does for our datasets.

Its batches go through shared memory, and it ends when the process that started it has ended. Both
hold from the start of the process if its dataset holds an object of ours, and otherwise from the
first time that rows are read in it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing import util
from types import ModuleType
from typing import Any

from lanceloader.transport.outbox import Outbox
from lanceloader.transport.parent import when_ended
from lanceloader.transport.queues import read_directly
from lanceloader.transport.torch_groups import note_requests

__all__ = ["attach"]

MOST_OBJECTS = 200
"""How many objects are looked at to find one of ours in a dataset."""

PERIOD_S = 0.01
"""How often is looked whether a process that was spawned has its arguments."""

_attached: int | None = None
"""The process that ``attach`` was called in."""
_watched: int | None = None
"""The process that ends with its parent."""
_lock = threading.Lock()
"""Held while ``_watched`` is changed."""


def attach() -> None:
    """Send the batches of this process through shared memory, if it is a worker of a ``DataLoader``."""
    global _attached
    parent = multiprocessing.parent_process()
    # Without a parent, this is no worker, or one that is still unpickling its arguments.
    if parent is None or parent.pid is None or _attached == os.getpid():
        return
    _attached = os.getpid()
    arguments = arguments_of_worker()
    if arguments is None:
        return
    end_with_parent(parent)
    read_directly(arguments.get("index_queue"))
    if hasattr(arguments.get("index_queue"), "get"):
        note_requests(arguments["index_queue"])
    queue = arguments.get("data_queue")
    if hasattr(os, "memfd_create") and hasattr(queue, "put"):
        Outbox(queue, parent.pid)


def end_with_parent(parent: Any) -> None:
    """End this process once its parent has ended, if that was not called before."""
    global _watched
    with _lock:
        if _watched == os.getpid():
            return
        _watched = os.getpid()
    when_ended(parent, exit_at_once)


def exit_at_once() -> None:
    """End this process, without further ado."""
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
    # `inspect.signature` would be a good part of the start of a worker.
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


def holds_ours(dataset: Any) -> bool:
    """Return whether a dataset is an object of this package, or one of those that it refers to is."""
    level = [dataset]
    seen: set[int] = set()
    while level and len(seen) < MOST_OBJECTS:
        following: list[Any] = []
        for value in level:
            kind = type(value)
            if kind.__module__.partition(".")[0] == "lanceloader":
                return True
            if id(value) in seen or isinstance(value, type | ModuleType):
                continue
            seen.add(id(value))
            if isinstance(value, list | tuple):
                following += value[:MOST_OBJECTS]
            elif isinstance(value, dict):
                following += list(value.values())[:MOST_OBJECTS]
            else:
                following += getattr(value, "__dict__", {}).values()
        level = following[:MOST_OBJECTS]
    return False


def _after_start(marker: type[Any]) -> None:
    """Attach a process that was forked, before it calls its function."""
    del marker
    arguments = arguments_of_worker()
    if arguments is None:
        return
    if holds_ours(arguments.get("dataset_holder", arguments.get("dataset"))):
        attach()


def _when_imported() -> None:
    """End this process with its parent, if it is a worker of torch that was not forked.

    Its dataset is unpickled when it starts, or when it runs, which is what imports this module. After
    that it may wait for its parent without end.
    """
    while (parent := multiprocessing.parent_process()) is None:
        time.sleep(PERIOD_S)
    if arguments_of_worker() is not None:
        end_with_parent(parent)


def _in_child() -> None:
    global _lock
    # Another thread may have held it.
    _lock = threading.Lock()


class _Marker:
    """What the registration is tied to, and lives as long as this module."""


os.register_at_fork(after_in_child=_in_child)
util.register_after_fork(_Marker, _after_start)
if getattr(multiprocessing.current_process(), "_inheriting", False):
    # It has no arguments yet.
    threading.Thread(
        target=_when_imported, name="lanceloader-start", daemon=True
    ).start()
elif multiprocessing.parent_process() is not None:
    _when_imported()
