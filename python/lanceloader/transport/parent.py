"""Ending a process when the one that started it has ended."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["end_with", "files_of"]


def files_of(parent: int) -> list[int]:
    """Return a file that is ready when a process has ended; none if the system has none.

    Raises:
        ProcessLookupError: If the process has ended.
    """
    try:
        return [os.pidfd_open(parent)]
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):
        return []


def end_with(parent: Any) -> None:
    """End this process, without further ado, once its parent has ended.

    A thread waits for it, as a signal at the death of the parent would be sent when only the thread
    ends that started this process. The sentinel of the parent is not enough: other processes that
    it forked keep it open.

    Args:
        parent: The ``multiprocessing.parent_process()``.
    """
    try:
        files = [parent.sentinel, *files_of(parent.pid)]
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(
        target=wait_and_exit, args=(files,), name="lanceloader-parent", daemon=True
    ).start()


def wait_and_exit(files: Iterable[int]) -> None:
    """Wait until one of the files is ready, and end this process."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    while True:
        for file, event in poll.poll():
            if event & (select.POLLIN | select.POLLHUP):
                os._exit(1)
            # Someone closed the file, which says nothing about the parent.
            poll.unregister(file)
