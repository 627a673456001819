"""``Iteration``: one pass over a loader, from its first epoch to its last batch."""

from __future__ import annotations

from itertools import chain, starmap
from typing import TYPE_CHECKING, Any

from lanceloader.monitor.preparation import preparing
from lanceloader.monitor.progress import is_wanted, progress_over
from lanceloader.sources.core_readers import core_reads
from lanceloader.units.locations import BatchLocations

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from lanceloader.loader.checkpoint import Checkpoint, EpochProgress
    from lanceloader.loader.cursor import Cursor
    from lanceloader.loader.schedule import Schedule
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.stages.pipeline import BatchPipeline

__all__ = ["Iteration"]


class Iteration:
    """One pass over a loader, which advances the cursor with each batch.

    Attributes:
        number: The number of this iteration, as assigned by the cursor.
        requested: The start at the time of ``iter()``.
        cursor: The checkpoint of the loader.
        schedule: The assignment of units to batches.
        pipeline: The stages that process raw batches.
        metrics: The counters of this iteration.
        progress: Whether to show a progress bar for each epoch; by default as the environment says.
    """

    def __init__(
        self,
        requested: tuple[int, Checkpoint],
        cursor: Cursor,
        schedule: Schedule,
        pipeline: BatchPipeline,
        metrics: Metrics,
        *,
        progress: bool | None,
    ) -> None:
        self.number, self.requested = requested
        self.cursor = cursor
        self.schedule = schedule
        self.pipeline = pipeline
        self.metrics = metrics
        self.progress = progress

    def starts(self) -> Iterator[Checkpoint]:
        """Yield the start of each epoch; the first one is read from the cursor on the first ``next()``."""
        start = self.cursor.start(self.number, self.requested)
        yield from self.schedule.starts(start, self.cursor.first_epoch)

    def batches(self, epoch_end: Any = None) -> Iterator[Any]:
        """Yield the batches of all epochs.

        Args:
            epoch_end: A value to yield after each epoch, for consumers that must notice epochs
                without batches; by default none.
        """
        worker, num_workers = self.schedule.worker or (0, 1)
        turn = None
        num_empty = 0
        for start in self.starts():
            if turn is None:
                of_state = start.turn
                turn = worker if of_state is None else of_state.checked(num_workers)
            schedule, begun = self.schedule.begin(start)
            if schedule is not self.schedule:
                self.cursor.move(self.number, begun)
            progress = schedule.progress(begun, turn)
            rank = schedule.world.rank
            if is_wanted(self.progress, rank):
                # Before reading starts, as some of this may end soon.
                readers = schedule.units.readers(begun.epoch)
                reads = chain.from_iterable(starmap(core_reads, readers))
                with preparing(reads, self.progress, rank):
                    num_yielded = yield from self._epoch(schedule, progress)
            else:
                num_yielded = yield from self._epoch(schedule, progress)
            # Turns continue across epochs, so that the batches of all workers stay in order.
            turn -= progress.num_batches
            num_empty = 0 if num_yielded else num_empty + (start.position == 0)
            if epoch_end is not None:
                yield epoch_end
            # If epochs have batches, each worker has one within `num_workers` epochs.
            elif num_empty == num_workers:
                schedule.check_endless(start, progress.num_batches, 0)
            schedule.check_endless(start, progress.num_batches, progress.num_batches)

    def _epoch(
        self, schedule: Schedule, progress: EpochProgress
    ) -> Generator[Any, None, int]:
        """Yield the remaining batches of an epoch, and return their number."""
        metrics, cursor = self.metrics, self.cursor
        start, turn, num_workers = (
            progress.start,
            progress.turn,
            progress.num_workers or 1,
        )
        share = progress.share.of_worker(turn, num_workers)
        following = cursor.following(start.epoch)
        then = None
        if following is not None and not schedule.units.is_drawn:
            after = schedule.epoch_share(following)
            then = following, after.of_worker(turn - progress.num_batches, num_workers)
        raw = metrics.count(schedule.units.load(start.epoch, share, then))
        step = start.position // progress.global_batch_size
        first = step + turn % num_workers
        values = self.pipeline.run(
            raw,
            schedule.units,
            metrics,
            BatchLocations(schedule.units, start.epoch, share, first, num_workers),
            first,
            num_workers,
        )
        what = "loading" if start.epoch is None else f"epoch {start.epoch}"
        done = 0 if progress.num_workers else step
        values = self.with_bar(values, what, done, done + share.num_batches)
        skipped = metrics.counts.batches_skipped
        num_yielded = 0
        for value in values:
            num_yielded += 1
            num_steps = num_yielded
            if metrics.has_skips_noted:
                num_steps += metrics.skipped() - skipped
            cursor.advance(self.number, progress, num_steps)
            yield value
        cursor.finish(self.number, progress.end())
        return num_yielded

    def with_bar(
        self, values: Iterator[Any], what: str, first: int, total: int | None
    ) -> Iterator[Any]:
        """Return an iterator over ``values`` that shows a progress bar, if bars are wanted."""
        rank = self.schedule.world.rank
        if not is_wanted(self.progress, rank):
            return values
        return progress_over(
            values,
            total,
            what,
            enabled=self.progress,
            rows_of=lambda _: 1,
            unit=" batches",
            first=first,
            postfix=self.metrics.speedometer(),
            rank=rank,
        )
