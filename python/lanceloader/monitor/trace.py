"""What each thread did, and when, in the format of chrome://tracing and ui.perfetto.dev.

"Trace Event Format": complete events (``"ph": "X"``) with times in microseconds, and metadata
that names the rows. A rank is a process, a thread a row. Slices of a row nest by time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from lanceloader.monitor.metrics import Metrics, TraceEvent

__all__ = ["Trace"]

STAGES = ("order", "plan", "read", "gather")
"""The stages of a reading thread, in the order of the core."""

ROWS = 1000
"""Rows of an iteration: the next one has its own, as threads of both may be at work."""

READING, OTHERS = 1, 500
"""Where rows of threads begin: those of the core, and those of Python but for the trainer's."""

OURS = "lanceloader-"
"""What our threads of Python are called, before their number; those of each epoch are new."""


class Traceable(Protocol):
    """A loader, as far as a trace knows it."""

    def set_trace(self, trace: Trace | None) -> None:
        """Trace the iterations requested from now on, or stop."""


class Trace:
    """A block in which the iterations of a loader are traced; ``Loader.trace`` makes one."""

    def __init__(self, loader: Traceable, path: str | os.PathLike[str]) -> None:
        self._loader = loader
        self._path = Path(path)
        self._all_metrics: list[Metrics] = []

    def __enter__(self) -> Self:
        self._loader.set_trace(self)
        try:
            # A path that cannot be written to must be found before an epoch has passed.
            self._path.write_text("[]")
        except BaseException:
            self._loader.set_trace(None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loader.set_trace(None)
        with self._path.open("w") as file:
            json.dump(self.to_dict(), file, separators=(",", ":"))

    def add(self, metrics: Metrics) -> None:
        """Trace an iteration that begins."""
        self._all_metrics.append(metrics)

    def to_dict(self) -> dict[str, Any]:
        """Give what is written: everything that took time so far."""
        events: list[dict[str, Any]] = []
        for number, metrics in enumerate(self._all_metrics):
            events += events_of(metrics, number)
        start = min((each["ts"] for each in events if "ts" in each), default=0)
        for each in events:
            if "ts" in each:
                each["ts"] = (each["ts"] - start) / 1e3
                each["dur"] /= 1e3
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def events_of(metrics: Metrics, number: int) -> Iterator[dict[str, Any]]:
    """Give the events of an iteration, times in nanoseconds on our clock, and names of rows."""
    world = metrics.world
    of = f", {world}" if world.world_size > 1 else ""
    yield named(world.rank, 0, "process_name", f"lanceloader{of}")
    title = f" (iteration {number + 1})" if number else ""
    rows: dict[int, str] = {}
    found = [*slices_of_core(metrics, rows), *slices_of_python(metrics, rows)]
    for row in sorted(rows):
        place = number * ROWS + row
        yield named(world.rank, place, "thread_name", f"{rows[row]}{title}")
        sort = {"sort_index": place}
        yield metadata(world.rank, place, "thread_sort_index", sort)
    for row, name, start, nanos, args in found:
        yield {
            "name": name,
            "cat": "lanceloader",
            "ph": "X",
            "pid": world.rank,
            "tid": number * ROWS + row,
            "ts": start,
            "dur": nanos,
            "args": args,
        }


Slice = tuple[int, str, int, int, dict[str, int]]
"""Row, name, start, nanoseconds, and what else is known."""


def slices_of_core(metrics: Metrics, rows: dict[int, str]) -> Iterator[Slice]:
    """Give what threads that read did: windows, and within each its stages end to end.

    The core adds the stages of a window up: how long each took is right, where it stands not.
    """
    for watch, began in metrics.watches:
        for thread, start, nanos, stages, num_rows, num_bytes in watch.events():
            # 0 is whoever takes batches, which is told better by what it runs.
            if thread == 0:
                continue
            row = READING + thread - 1
            rows[row] = f"reading {thread}"
            at, end = began + start, began + start + nanos
            args = {"rows": num_rows, "bytes": num_bytes}
            yield row, "window", at, nanos, args
            for name, spent in zip(STAGES, stages, strict=True):
                spent = min(spent, end - at)
                if spent > 0:
                    yield row, name, at, spent, {}
                    at += spent


def slices_of_python(metrics: Metrics, rows: dict[int, str]) -> Iterator[Slice]:
    """Give what the training loop and our threads of Python did."""
    events = list(metrics.events or ())
    trainers = [event.thread[1] for event in events if event.name == "wait"]
    threads: dict[str | int, int] = {trainers[0]: 0} if trainers else {}
    for event in events:
        key = key_of(event)
        if key not in threads:
            threads[key] = OTHERS + len(threads)
        row = threads[key]
        title = event.thread[0].removeprefix(OURS)
        rows[row] = "training loop" if event.thread[1] in trainers else title
        yield row, event.name, event.start, event.nanos, event.args


def key_of(event: TraceEvent) -> str | int:
    name, thread = event.thread
    return name if name.startswith(OURS) else thread


def named(pid: int, tid: int, what: str, name: str) -> dict[str, Any]:
    return metadata(pid, tid, what, {"name": name})


def metadata(pid: int, tid: int, what: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
