"""The batches of a sampler, which this process reads and whose positions it sends to workers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from lanceloader.units.locations import BatchLocations
from lanceloader.units.share import Share
from lanceloader.workers.batches import SkippedBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.loader.checkpoint import EpochProgress
    from lanceloader.loader.iteration import Iteration
    from lanceloader.loader.loader import Loader
    from lanceloader.monitor.metrics import Metrics

__all__ = ["StepDataset", "StepSampler", "Steps"]


class Steps:
    """The steps of an iteration over the rows of a sampler, which is read as they are sent.

    Attributes:
        sent: The places of the batches that were sent to workers and not yet received.
        last: The progress of the epoch begun last.
    """

    def __init__(self, iteration: Iteration) -> None:
        self._iteration = iteration
        self.sent: deque[tuple[EpochProgress, int]] = deque()
        self.last: EpochProgress | None = None

    def __iter__(self) -> Iterator[tuple[int | None, int, Any]]:
        """Yield the epoch, the number of the step and the positions of each batch."""
        for start in self._iteration.starts():
            schedule, begun = self._iteration.schedule.begin(start)
            if self.last is None:
                self._iteration.cursor.move(self._iteration.number, begun)
            self.last = schedule.progress(begun)
            step = begun.position // self.last.global_batch_size
            units: Any = schedule.units
            for number, batch in enumerate(self.last.share.batches()):
                self.sent.append((self.last, number + 1))
                yield begun.epoch, step + number, units.positions_of(batch)
            num_batches = self.last.num_batches
            schedule.check_endless(begun, num_batches, num_batches)


class StepSampler:
    """What torch takes for a batch sampler: the steps of the iteration that is starting.

    Attributes:
        steps: These steps.
    """

    steps: Steps

    def __iter__(self) -> Iterator[Any]:
        return iter(self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StepDataset:
    """The dataset of a worker that is sent the positions of each batch.

    Args:
        loader: The loader of the parent process.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader.copy_for_process(loader.cursor.next_start)
        sampled: Any = loader.units
        self._loader.units = sampled.without_sampler()
        self._metrics: Metrics | None = None

    def __getitems__(self, step: tuple[int | None, int, Any]) -> Any:
        """Return a batch, or a ``SkippedBatch``."""
        epoch, number, positions = step
        loader = self._loader
        if self._metrics is None:
            self._metrics = loader.request().metrics
        sampled: Any = loader.units
        units, num_rows = sampled.of_positions(positions), len(positions)
        share = Share(0, max(1, num_rows), max(1, num_rows), 0, 0, num_rows, num_rows)
        raw = self._metrics.count(units.load(epoch, share, None))
        locations = BatchLocations(units, epoch, share, number, 1)
        batches = loader.pipeline.run(raw, units, self._metrics, locations, number)
        batch = next(iter(batches), SkippedBatch())
        self._metrics.next_size()
        return batch
