"""Workers of torch that are killed while a test looks on."""

from __future__ import annotations

import gc
import os
import signal
from collections import deque


def kill_worker(pid):
    """Kill a worker of this process.

    torch makes an error of the signal wherever this process happens to be. Iterators of
    earlier tests that wait to be collected are ended first: while they are, the error
    would be lost in their ``__del__``, which pytest reports.
    """
    gc.collect()
    os.kill(pid, signal.SIGKILL)


def kill_and_drain(batches):
    """Kill the first worker of torch's iterator, and take the batches that lie ready.

    Raises
    ------
    RuntimeError
        Of torch, within a moment.
    """
    kill_worker(batches._workers[0].pid)
    deque(batches, maxlen=0)
