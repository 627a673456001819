"""What one iteration of a loader does, while it does it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lanceloader._native import Histogram
from lanceloader.loading.transforming import Counts
from lanceloader.stats import Stats, reads_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader import _native
    from lanceloader.loading.served import Served
    from lanceloader.world import World

__all__ = ["Running"]

NANOS = 1e9


class Running:
    """Counts what an iteration hands out, and the time that it takes.

    Attributes:
        counts: What transforms did.
        num_handed: Batches handed out.
    """

    def __init__(self, served: Served, world: World, *, is_traced: bool) -> None:
        self.counts = Counts()
        self.num_handed = 0
        self.is_traced = is_traced
        self.events: list[tuple[str, int, int]] = []
        """Name, start on the clock of ``time.perf_counter_ns``, and nanoseconds."""
        self.watches: list[tuple[_native.Watch, int]] = []
        """What counts in the core, and when its clock began on ours."""
        self._served = served
        self._world = world
        self._before = served.reads()
        self._waits = Histogram()
        self._started = time.monotonic()
        self._first = 0.0
        self._waited = 0.0
        self._stages = {"format": 0.0, "copy": 0.0}
        self._others: Stats | None = None

    def watch(self, raw: Iterator[Any]) -> None:
        """Count what a loader of the core does, too."""
        watch = getattr(raw, "watch", None)
        if watch is None:
            return
        watched: _native.Watch | None = watch()
        if watched is None:
            return
        if self.is_traced:
            watched.trace()
        began = time.perf_counter_ns() - watched.now_nanos
        self.watches.append((watched, began))

    def timed(self, stage: str, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Make a function count its time; for one thread at a time."""
        stages, clock = self._stages, time.perf_counter_ns

        def timed(value: Any) -> Any:
            start = clock()
            made = call(value)
            spent = clock() - start
            stages[stage] += spent / NANOS
            if self.is_traced:
                self.events.append((stage, start, spent))
            return made

        return timed

    def waited(self, nanos: int) -> None:
        """Count a batch that was handed out after a wait."""
        seconds = nanos / NANOS
        self._waited += seconds
        if self.num_handed == 0:
            self._first = seconds
        else:
            self._waits.add(nanos)
        self.num_handed += 1

    def told(self, stats: Stats) -> None:
        """Take what a helper process did from what it says itself."""
        self._others = stats

    def stats(self) -> Stats:
        """Give what was done so far."""
        found: dict[str, Any] = {}
        if self._others is not None:
            found = {
                name: getattr(self._others, name) for name in Stats.__dataclass_fields__
            }
        else:
            found = self._of_core() | reads_between(self._before, self._served.reads())
            found["rows_skipped"] = self.counts.rows_skipped
            found["rows_filled"] = self.counts.rows_filled
            found["batches_skipped"] = self.counts.batches_skipped
        found |= {
            "batches": self.num_handed,
            "seconds": time.monotonic() - self._started,
            "first_batch_seconds": self._first,
            "wait_seconds": self._waited,
            "wait_p50": self._waits.quantile(0.5) / NANOS,
            "wait_p95": self._waits.quantile(0.95) / NANOS,
            "wait_p99": self._waits.quantile(0.99) / NANOS,
            "waits": tuple((end / NANOS, n) for end, n in self._waits.counts()),
            "rank": self._world.rank,
            "world_size": self._world.world_size,
        }
        return Stats(**found)

    def _of_core(self) -> dict[str, Any]:
        loads = [watch.stats() for watch, _ in self.watches]
        stages = dict(self._stages)
        stages["transform"] = self.counts.seconds
        names = ("order", "plan", "read", "gather")
        for load in loads:
            for name, nanos in zip(names, load.stage_nanos, strict=True):
                stages[name] = stages.get(name, 0.0) + nanos / NANOS
        batches = sum(load.batches for load in loads)
        return {
            "rows": sum(load.rows for load in loads),
            "bytes": sum(load.bytes for load in loads),
            "stage_seconds": stages,
            "ready": sum(load.ready for load in loads) / batches if batches else 0.0,
        }
