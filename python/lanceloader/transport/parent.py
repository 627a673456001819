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


def when_ended(process: Any, callback: Callable[[], None]) -> None:
    """Call a function in a thread once a process has ended, such as the parent of this one.

    A thread waits for the process: ``PR_SET_PDEATHSIG`` would already send its signal when the thread ends
    that started this process.

    Args:
        process: The process, such as ``multiprocessing.parent_process()``.
        callback: The function to call.
    """

    def wait_and_call() -> None:
        wait_until_ended(process)
        callback()

    # `Thread.start` would wait until the thread runs, which delays a worker's first batch.
    _thread.start_new_thread(wait_and_call, ())


def wait_until_ended(process: Any) -> None:
    """Wait until a process has ended.

    The sentinel does not suffice: forks of the process keep it open, and it is ready as soon as the process
    closes its own end. The pidfd is opened again after each wake-up, as other code may have closed it by
    mistake, and its number may belong to another file now.
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
