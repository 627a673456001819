"""Traces of the work of all threads, in the format of chrome://tracing and ui.perfetto.dev.

The "Trace Event Format" has complete events (``"ph": "X"``), with times in microseconds, and metadata
that names the rows. A rank is a process of the trace, and a thread is a row. Slices of a row nest by time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, Self

from lanceloader.choices import path_of
from lanceloader.monitor import measurements

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.trace_events import TraceEvent

__all__ = ["Trace"]

ROWS = 1000
"""The rows per iteration. Iterations do not share rows, as their threads may overlap in time."""

FIRST_READER, FIRST_PYTHON = 1, 500
"""The first rows of the threads of the core and of Python threads; row 0 is the training loop."""

THREAD_PREFIX = "lanceloader-"
"""The prefix of the names of lanceloader's Python threads, which start anew in each epoch."""


class Traceable(Protocol):
    """A loader that can be traced."""

    def set_trace(self, trace: Trace | None) -> None:
        """Start to trace iterations that are requested from now on, or stop."""


class Trace:
    """A context manager that traces the iterations of a loader; made by ``Loader.trace``."""

    def __init__(self, loader: Traceable, path: str | os.PathLike[str]) -> None:
        self._loader = loader
        self._path = path_of("path", path)
        self._all_metrics: list[Metrics] = []

    def __enter__(self) -> Self:
        self._loader.set_trace(self)
        try:
            # Fail now, not at the end of an epoch, if the path cannot be written.
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
        """Add an iteration that starts."""
        self._all_metrics.append(metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the JSON file: all events so far."""
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
    """Yield the events of an iteration and the names of its rows, with times in nanoseconds."""
    world = metrics.world
    suffix = f", {world}" if world.world_size > 1 else ""
    yield name_event(world.rank, 0, "process_name", f"lanceloader{suffix}")
    title = f" (iteration {number + 1})" if number else ""
    rows: dict[int, str] = {}
    found = [*slices_of_core(metrics, rows), *slices_of_python(metrics, rows)]
    for row in sorted(rows):
        place = number * ROWS + row
        yield name_event(world.rank, place, "thread_name", f"{rows[row]}{title}")
        sort = {"sort_index": place}
        yield metadata_event(world.rank, place, "thread_sort_index", sort)
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
"""The row, name, start, duration in nanoseconds, and arguments of an event."""


def slices_of_core(metrics: Metrics, rows: dict[int, str]) -> Iterator[Slice]:
    """Yield the windows of the threads that read, and the stages within each window.

    The core only sums the time of each stage of a window, so stages are shown one after the other:
    their durations are exact, their starts are not.
    """
    for watch, began in metrics.watches:
        for thread, start, nanos, stages, num_rows, num_bytes in watch.events():
            # Thread 0 takes batches, which the events of Python show in more detail.
            if thread == 0:
                continue
            row = FIRST_READER + thread - 1
            rows[row] = f"reading {thread}"
            at, end = began + start, began + start + nanos
            args = {"rows": num_rows, "bytes": num_bytes}
            yield row, "window", at, nanos, args
            for name, spent in zip(measurements.READING, stages, strict=True):
                spent = min(spent, end - at)
                if spent > 0:
                    yield row, name, at, spent, {}
                    at += spent


def slices_of_python(metrics: Metrics, rows: dict[int, str]) -> Iterator[Slice]:
    """Yield the events of the training loop and of lanceloader's Python threads."""
    events = list(metrics.events or ())
    trainers = [event.thread[1] for event in events if event.name == "wait"]
    threads: dict[str | int, int] = {trainers[0]: 0} if trainers else {}
    for event in events:
        key = key_of(event)
        if key not in threads:
            threads[key] = FIRST_PYTHON + len(threads)
        row = threads[key]
        title = event.thread[0].removeprefix(THREAD_PREFIX)
        rows[row] = "training loop" if event.thread[1] in trainers else title
        yield row, event.name, event.start, event.nanos, event.args


def key_of(event: TraceEvent) -> str | int:
    name, thread = event.thread
    return name if name.startswith(THREAD_PREFIX) else thread


def name_event(pid: int, tid: int, what: str, name: str) -> dict[str, Any]:
    return metadata_event(pid, tid, what, {"name": name})


def metadata_event(
    pid: int, tid: int, what: str, args: dict[str, Any]
) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
