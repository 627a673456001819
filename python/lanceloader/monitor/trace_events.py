"""The events of a trace, on one clock for the core and for Python."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lanceloader import _native

__all__ = ["MAX_EVENTS", "TraceEvent", "start_of_clock"]

MAX_EVENTS = 1 << 20
"""The most events to keep of an iteration, the same as in the core."""

clock = time.perf_counter_ns


class TraceEvent(NamedTuple):
    """A timed event in a Python thread.

    Attributes:
        name: The name of the event.
        thread: The name and the identifier of the thread.
        start: The start, on the clock of ``time.perf_counter_ns``.
        nanos: The duration in nanoseconds.
        args: Further numbers to show.
    """

    name: str
    thread: tuple[str, int]
    start: int
    nanos: int
    args: dict[str, int]


def start_of_clock(watch: _native.Watch) -> int:
    """Return the start of the clock of a watch on the Python clock, as the best of five readings."""
    readings = []
    for _ in range(5):
        before, there, after = clock(), watch.now_nanos, clock()
        readings.append((after - before, (before + after) // 2 - there))
    return min(readings)[1]
