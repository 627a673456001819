"""What a ``Loader`` says about its iterations: statistics, reports, traces and replays."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex, cast

from lanceloader.loader.summary import write_report
from lanceloader.monitor.replay import Headspace
from lanceloader.monitor.stats import Stats
from lanceloader.monitor.trace import Trace
from lanceloader.numbers import count

if TYPE_CHECKING:
    import os

    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.replay import Replayable

__all__ = ["MonitoredLoader"]


class MonitoredLoader:
    """The methods of a ``Loader`` that say what its iterations did."""

    _metrics: Metrics | None
    """The metrics of the iteration requested last."""
    _trace: Trace | None
    """The trace of iterations that are requested now."""

    def stats(self) -> Stats:
        """Return the statistics of the iteration requested last, so far."""
        return Stats() if self._metrics is None else self._metrics.stats()

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Trace the work of all threads, for chrome://tracing and ui.perfetto.dev.

        The rows of the trace are the threads that read, those that transform and copy, and the
        training loop with its waits. Tracing takes a few microseconds per batch and about 200 bytes
        of memory per event; the first million events are kept.

        Args:
            path: The JSON file, which is written at the end of the ``with`` block.

        Returns:
            A context manager. Iterations that start in its block are traced.

        Raises:
            RuntimeError: On entering the block, if this loader is already being traced.
            OSError: On entering the block, if the file cannot be written.

        Example:
            >>> loader = perm.loader(5)
            >>> with loader.trace("trace.json"):
            ...     for batch in loader:
            ...         pass
        """
        return Trace(self, path)

    def set_trace(self, trace: Trace | None) -> None:
        """Start to trace iterations that are requested from now on, or stop.

        Raises:
            RuntimeError: If this loader is already being traced.
        """
        if trace is not None and self._trace is not None:
            raise RuntimeError(
                "this loader is already being traced: end that `with` block first"
            )
        self._trace = trace

    def headspace(
        self, after: SupportsIndex = 100, *, keep: SupportsIndex = 8
    ) -> Headspace:
        """Return batches that measure how much faster training would be with batches in memory.

        Args:
            after: The number of batches to read before batches are replayed from memory. The first
                fifth of them is a warm-up, which is not timed.
            keep: The number of batches to keep in memory, the last ones of those read.

        Returns:
            An iterable over as many batches as the next iteration of this loader; ``report()``
            compares the steps per second.

        Raises:
            ValueError: If ``after`` is less than 5, or ``keep`` less than 1.

        Example:
            >>> trial = perm.loader(1).headspace(after=5)
            >>> print(len([batch for batch in trial]), trial.report().steps_replayed)
            10 5
        """
        return Headspace(
            cast("Replayable", self), count(after, "after"), count(keep, "keep")
        )

    def report(
        self, path: str | os.PathLike[str], *, stats: Stats | None = None
    ) -> None:
        """Write a report of the iteration requested last: one HTML file, with pictures.

        It has what is read and how, the verdict, the time of each stage, the throughput over
        time, the waits, and the environment. Without matplotlib it has tables only. Credentials
        are replaced.

        Args:
            path: The file, which is replaced if it exists.
            stats: Other statistics, such as those of all ranks that ``Stats.merged`` returns.

        Raises:
            OSError: If the file cannot be written.
            TypeError: If ``path`` is not a path, or ``stats`` is not a ``Stats``.

        Example:
            >>> loader = perm.loader(5)
            >>> for batch in loader:
            ...     pass
            >>> loader.report("run.html")
        """
        write_report(self, path, stats)
