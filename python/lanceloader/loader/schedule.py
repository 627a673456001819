"""The division of epochs into the batches of each rank and worker: arithmetic, no data."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lanceloader.loader.checkpoint import Checkpoint, EpochProgress
from lanceloader.units.share import Share, share_of
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lanceloader.loader.steps import StepOptions
    from lanceloader.units.base import Units

__all__ = ["Schedule", "worker_of"]


@dataclass(frozen=True)
class Schedule:
    """The batches of this process in each epoch.

    Attributes:
        units: The units that are batched.
        steps: How an epoch is divided into steps.
    """

    units: Units
    steps: StepOptions

    @property
    def world(self) -> World:
        """The rank of this process, and the number of ranks."""
        return self.steps.world or World.found()

    @property
    def worker(self) -> tuple[int, int] | None:
        """The number of this worker process and the number of workers; ``None`` outside of a worker."""
        return worker_of()

    @property
    def global_batch_size(self) -> int:
        """The number of units in a batch of all ranks together."""
        return self.steps.global_size(self.world)

    def share(self, start: int, num_units: int) -> Share:
        """Return the share of this rank of the units from ``start`` on."""
        world = self.world
        return share_of(
            num_units,
            start,
            self.steps.global_size(world),
            world,
            tail=self.steps.tail,
            drop_last=self.steps.drop_last,
        )

    def epoch_share(self, epoch: int | None) -> Share:
        """Return the share of this rank of a whole epoch."""
        return self.share(0, self.units.num_units(epoch))

    def num_batches(self, start: Checkpoint, first_epoch: int) -> int:
        """Return the number of batches of an iteration from ``start`` on.

        Raises:
            TypeError: If the iteration never ends.
        """
        num_epochs = self.steps.epochs
        if num_epochs is None:
            raise TypeError("a loader of epochs=None never ends, so it has no length")
        epoch, rest = start.epoch, range(0)
        if num_epochs != 1:
            first = first_epoch if start.first is None else start.first
            epoch = first if epoch is None else epoch
            rest = range(epoch + 1, first + num_epochs)
        num_units = self.units.num_units(epoch)
        current = self.share(start.position, num_units).num_batches
        if self.units.unit == "row":
            return current + self.share(0, num_units).num_batches * len(rest)
        return current + sum(self.epoch_share(each).num_batches for each in rest)

    def starts(self, start: Checkpoint, first_epoch: int) -> Iterable[Checkpoint]:
        """Return the start of each epoch of an iteration from ``start`` on.

        Raises:
            ValueError: If ``start`` is not in an epoch of this iteration.
        """
        num_epochs = self.steps.epochs
        if num_epochs == 1:
            return [start]
        first = first_epoch if start.first is None else start.first
        epoch = first if start.epoch is None else start.epoch
        if num_epochs is None:
            return _starts_from(replace(start, epoch=epoch), itertools.count(epoch + 1))
        end = first + num_epochs
        if not first <= epoch < end:
            message = (
                f"the state is of epoch {epoch}, but this loader iterates epochs {first} to "
                f"{end - 1}: call set_epoch() with the first epoch of that iteration"
            )
            raise ValueError(message)
        numbered = replace(start, epoch=epoch, first=first)
        return _starts_from(numbered, range(epoch + 1, end))

    def begin(self, start: Checkpoint) -> tuple[Schedule, Checkpoint]:
        """Begin an epoch: return its schedule, and ``start`` with what its rows depend on.

        Raises:
            ValueError: If a sampler would be read in several worker processes.
        """
        units = self.units
        if not units.is_drawn:
            return self, start
        if self.worker is not None:
            raise ValueError(
                "a loader with a sampler cannot be read by the workers of torch's DataLoader, each "
                "of which would read the sampler by itself: pass the loader to "
                "lanceloader.torch.DataLoader, or leave num_workers out"
            )
        drawn = units.begin(start.epoch, start.draw)
        return replace(self, units=drawn), replace(start, draw=drawn.record)

    def progress(self, start: Checkpoint, turn: int = 0) -> EpochProgress:
        """Return the checkpoints after the remaining steps of an epoch."""
        num_units = self.units.num_units(start.epoch)
        worker = self.worker
        return EpochProgress(
            start,
            num_units,
            self.global_batch_size,
            self.share(start.position, num_units),
            turn,
            None if worker is None else worker[1],
        )

    def check_endless(
        self, start: Checkpoint, num_batches: int, num_yielded: int
    ) -> None:
        """Check after a whole epoch that an endless iteration yields batches.

        Raises:
            ValueError: If the epoch had none, as the iteration would then never yield.
        """
        if self.steps.epochs is not None or start.position or num_yielded:
            return
        num_units, steps = self.units.num_units(start.epoch), self.steps
        why = (
            f"all {num_batches:,} were skipped"
            if num_batches
            else f"global_batch_size={self.global_batch_size}, "
            f"drop_last={steps.drop_last}, tail={steps.tail!r}"
        )
        message = (
            f"epoch {start.epoch} of {num_units:,} {self.units.unit}s has no batch ({why}): "
            "with epochs=None the iteration would never end; pass a smaller batch size, "
            "drop_last=False, or a number of epochs"
        )
        raise ValueError(message)


def _starts_from(start: Checkpoint, rest: Iterable[int]) -> Iterator[Checkpoint]:
    yield start
    for epoch in rest:
        yield Checkpoint(epoch, 0, first=start.first)


def worker_of() -> tuple[int, int] | None:
    """Return the number of this worker process of torch's ``DataLoader`` and the number of workers.

    ``None`` outside of a worker.
    """
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return None if info is None else (info.id, info.num_workers)
