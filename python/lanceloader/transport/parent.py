"""Ending a process when the one that started it has ended."""

from __future__ import annotations

import _thread
import os
import select
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["when_ended"]


def when_ended(process: Any, act: Callable[[], None]) -> None:
    """Call a function in a thread once a process has ended, such as the one that started this one.

    A thread waits for it, as a signal at the death of the parent would be sent when only the thread
    ends that started this process.

    Args:
        process: The process, such as ``multiprocessing.parent_process()``.
        act: The function.
    """

    def wait_and_act() -> None:
        wait_until_ended(process)
        act()

    # `Thread.start` would wait until the thread runs, which delays a worker's first batch.
    _thread.start_new_thread(wait_and_act, ())


def wait_until_ended(process: Any) -> None:
    """Wait until a process has ended.

    Its sentinel does not show that: it stays open in other processes that the process forked, and is
    ready when the process closes its own end. Nor is a file that became ready enough, as other code may
    have closed it by mistake, and its number may be that of another file.
    """
    while True:
        try:
            file = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):
            wait([process.sentinel])
            return
        poll = select.poll()
        poll.register(file, select.POLLIN)
        if any(event & select.POLLIN for _, event in poll.poll(0)):
            return
        poll.poll()
