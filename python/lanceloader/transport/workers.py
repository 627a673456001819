"""What a worker process of torch's ``DataLoader`` does for our datasets.

Its batches go through shared memory, and it ends when the process that started it has ended. Both
hold from the start of the process if its dataset holds an object of ours, and otherwise from the
first time that rows are read in it.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
from multiprocessing import util
from types import ModuleType
from typing import Any

from lanceloader.transport.outbox import Outbox
from lanceloader.transport.parent import end_with

__all__ = ["attach"]

MOST_OBJECTS = 200
"""How many objects are looked at to find one of ours in a dataset."""

_attached: int | None = None
"""The process that ``attach`` was called in."""


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
    end_with(parent)
    queue = arguments.get("data_queue")
    if hasattr(os, "memfd_create") and hasattr(queue, "put"):
        Outbox(queue, parent.pid)


def arguments_of_worker() -> dict[str, Any] | None:
    """Return the arguments of the function that this process runs, if it is a worker of torch."""
    process: Any = multiprocessing.current_process()
    target: Any = getattr(process, "_target", None)
    module = getattr(target, "__module__", None) or ""
    if getattr(target, "__name__", None) != "_worker_loop" or (
        module.partition(".")[0] not in ("torch", "torchdata")
    ):
        return None
    try:
        found = inspect.signature(target).bind(*process._args, **process._kwargs)
    except (TypeError, ValueError):
        return None
    return dict(found.arguments)


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
    """Attach a process that ``multiprocessing`` has just started, before it calls its function."""
    del marker
    arguments = arguments_of_worker()
    if arguments is None:
        return
    dataset = arguments.get("dataset_holder", arguments.get("dataset"))
    if holds_ours(dataset):
        attach()


class _Marker:
    """What the registration is tied to, and lives as long as this module."""


util.register_after_fork(_Marker, _after_start)
