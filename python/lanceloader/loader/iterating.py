"""What an iteration of a loader goes through: epochs, shares, stages, and where it stands."""

from __future__ import annotations

import copy
import itertools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lanceloader.loader.checkpoint import Checkpoint, EpochProgress, of_halves
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.share import Share, share_of
from lanceloader.loader.trainers import sampler_of
from lanceloader.monitor.progress import check_bar, progress_over
from lanceloader.stages.locations import BatchLocations
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from lanceloader.loader.steps import StepOptions
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.trace import Trace
    from lanceloader.stages.pipeline import BatchPipeline
    from lanceloader.units.rows import Units

__all__ = ["Iterating", "register_as_dataset", "worker_of"]


class Iterating:
    """Iterates what is served, and says where training stands.

    Attributes:
        epoch: The epoch, as ``set_epoch`` set it, or ``None`` for that of the permutation.
    """

    def __init__(
        self,
        served: Units,
        steps: StepOptions,
        finish: BatchPipeline,
        *,
        progress: bool,
        in_process: bool = True,
    ) -> None:
        self.epoch: int | None = None
        self._served = served
        self._steps = steps
        self._finish = finish
        self._progress = progress
        self._in_process = in_process
        self._is_advancing = False
        self._at = self._start = self._first_place()
        self._is_renumbered = False
        """Whether another epoch was set since the last iteration was asked for."""
        self._running: Metrics | None = None
        """The iteration that was begun last."""
        self._leading: Metrics | None = None
        """The one that says where training stands, if it goes on."""
        self._asked_last: Metrics | None = None
        """The one that was asked for last, until its first batch is."""
        self._trace: Trace | None = None
        self._signal: Any = None
        """Shared memory in which another process says where to start."""
        self._sign: Any = None
        """Given behind each epoch, to who must know of epochs without batches."""
        if progress:
            check_bar()
        steps.together(self.world)
        self._meet_torch()

    def _meet_torch(self) -> None:
        """Be what torch and trainers look for, if torch is there."""
        register_as_dataset()
        # Trainers that wrap a loader copy what stands in the instance.
        self.sampler = self.batch_sampler = sampler_of(self)

    @property
    def world(self) -> World:
        """This process among those that train together."""
        return self._steps.world or World.found()

    @property
    def global_batch_size(self) -> int:
        """Rows of a batch of all ranks together."""
        return self._steps.together(self.world)

    def __len__(self) -> int:
        """The number of batches of an iteration that starts with an epoch.

        Raises:
            TypeError: If it never ends.
        """
        return self._num_batches(self._first_place())

    def _num_left(self) -> int:
        """Count the batches of the next iteration, from where it begins."""
        return self._num_batches(self._start)

    def _num_batches(self, start: Checkpoint) -> int:
        if self._steps.epochs is None:
            raise TypeError("a loader of epochs=None never ends, and has no length")
        epoch, rest = start.epoch, range(0)
        if self._has_several:
            first = self._first_epoch() if start.first is None else start.first
            epoch = first if epoch is None else epoch
            rest = range(epoch + 1, first + self._steps.epochs)
        units = self._served.num_units(epoch)
        begun = self._share(start.position, units).num_batches
        if self._served.unit == "row":
            return begun + self._share(0, units).num_batches * len(rest)
        return begun + sum(
            self._share(0, self._served.num_units(epoch)).num_batches for epoch in rest
        )

    def _asked(self, running: Metrics) -> Iterable[Checkpoint]:
        """Say where the epochs of an iteration begin that was asked for."""
        start = self._signalled()
        if start is None:
            start, self._start = self._start, self._first_place()
            self._at, self._asked_last = start, running
            self._is_renumbered = False
        self._running = self._leading = running
        return self._epochs(start)

    def _begun(
        self, starts: Iterable[Checkpoint], running: Metrics
    ) -> Iterable[Checkpoint]:
        """Say it again, as its first batch is asked for: trainers set the epoch in between."""
        if self._asked_last is not running:
            return starts
        self._asked_last = None
        is_as_asked = self._leading is running and not self._is_renumbered
        return starts if is_as_asked else self._asked(running)

    def _begin_at(self, at: Checkpoint) -> None:
        self._start = self._at = at
        # An iteration that goes on no longer says where training stands.
        self._leading = None
        self._is_renumbered = False

    def _renumbered(self) -> None:
        """Begin the next iteration with the epoch that was set, unless its place is in it."""
        before, place = self._start, self._first_place()
        if self._serves(before.epoch):
            self._start = replace(before, first=place.first)
            self._at = self._start if self._at == before else self._at
            return
        # An iteration that goes on says where training stands with its next batch.
        self._start = self._at = place
        self._is_renumbered = True

    @property
    def _has_several(self) -> bool:
        """Whether an iteration has some epochs, numbered from one on."""
        return self._steps.epochs not in (1, None)

    def _first_place(self) -> Checkpoint:
        """Give where the epoch that was set begins."""
        return Checkpoint(
            self.epoch, 0, first=self._first_epoch() if self._has_several else None
        )

    def _check_turn(self, at: Checkpoint) -> None:
        if at.turn is not None:
            at.turn.checked((worker_of() or (0, 1))[1])

    def _signalled(self) -> Checkpoint | None:
        if self._signal is None:
            return None
        first, epoch, position = map(of_halves, self._signal.tolist())
        before, self.epoch = self.epoch, first
        self._is_advancing = before is not None and self.epoch == before + 1
        return Checkpoint(epoch, position or 0)

    def _serves(self, epoch: int | None) -> bool:
        """Whether an epoch is one of those of an iteration, or to come in it."""
        num_epochs = self._steps.epochs
        if num_epochs == 1 or epoch is None:
            return epoch == self.epoch
        first = self._first_epoch()
        return epoch >= first and (num_epochs is None or epoch < first + num_epochs)

    def _first_epoch(self) -> int:
        return 0 if self.epoch is None else self.epoch

    def _share(self, start: int, num_units: int) -> Share:
        world = self.world
        return share_of(
            num_units,
            start,
            self._steps.together(world),
            world,
            tail=self._steps.tail,
            drop_last=self._steps.drop_last,
        )

    def _epochs(self, start: Checkpoint) -> Iterable[Checkpoint]:
        """List where each epoch of an iteration begins."""
        num_epochs = self._steps.epochs
        if num_epochs == 1:
            return [start]
        first = self._first_epoch() if start.first is None else start.first
        epoch = first if start.epoch is None else start.epoch
        if num_epochs is None:
            return places_from(replace(start, epoch=epoch), itertools.count(epoch + 1))
        end = first + num_epochs
        begun = replace(start, epoch=epoch, first=first)
        if first <= epoch < end:
            return places_from(begun, range(epoch + 1, end))
        message = (
            f"a state of epoch {epoch}, but this loader serves epochs {first} to {end - 1}: "
            "wanted set_epoch() of the first one of that iteration"
        )
        return refused(message)

    def _batches(self, starts: Iterable[Checkpoint], running: Metrics) -> Iterator[Any]:
        """Give the batches of all epochs of an iteration."""
        begun = self._begun(starts, running)
        if not self._in_process:
            for start in itertools.islice(begun, 1):
                yield from self._by_helper(start, running)
            return
        worker, num_workers = worker_of() or (0, 1)
        turn = None
        num_without = 0
        for start in begun:
            if turn is None:
                of_state = start.turn
                turn = worker if of_state is None else of_state.checked(num_workers)
            way = self._way(start, turn)
            given = yield from self._epoch(way, self._following(start.epoch), running)
            # Workers take turns across epochs, so that batches stay in order.
            turn -= way.num_batches
            num_without = 0 if given else num_without + (start.position == 0)
            if self._sign is not None:
                yield self._sign
            # Within as many epochs as there are workers, each has one of their batches.
            elif num_without == num_workers:
                self._check_endless(start, way.num_batches, 0)
            self._check_endless(start, way.num_batches, way.num_batches)

    def _check_endless(
        self, start: Checkpoint, num_batches: int, num_given: int
    ) -> None:
        """Refuse to go on forever without a batch, after one whole epoch of none.

        Raises:
            ValueError: If no epoch will ever be the last one.
        """
        if self._steps.epochs is not None or start.position or num_given:
            return
        units = self._served.num_units(start.epoch)
        steps = self._steps
        why = (
            f"all {num_batches:,} were left out"
            if num_batches
            else f"global_batch_size={self.global_batch_size}, "
            f"drop_last={steps.drop_last}, tail={steps.tail!r}"
        )
        message = (
            f"epoch {start.epoch} has no batch of its {units:,} {self._served.unit}s ({why}): "
            "wanted at least one, as an iteration of epochs=None would never end"
        )
        raise ValueError(message)

    def _by_helper(self, start: Checkpoint, running: Metrics) -> Iterator[Any]:
        """Give the batches of all epochs of an iteration, which a helper process makes."""
        from lanceloader.helper.batches import batches_of_helper

        there = copy.copy(self)
        there._steps = replace(self._steps, world=self.world)
        there._finish = self._finish.elsewhere()
        there._in_process, there._progress, there._signal = True, False, None
        there._begin_at(start)
        batches = batches_of_helper(
            there,
            lambda values: self._finish.copied(values, running),
            running,
            lambda at: self._reached(at, running),
            lambda at: self._ended(at, running),
        )
        total = None if self._steps.epochs is None else len(self)
        step = start.position // self.global_batch_size
        yield from self._with_bar(batches, "loading", step, total, running)

    def _with_bar(
        self,
        values: Iterator[Any],
        what: str,
        first: int,
        total: int | None,
        running: Metrics,
    ) -> Iterator[Any]:
        return progress_over(
            values,
            total,
            what,
            # One of all ranks and workers: the others are about where it is.
            enabled=self._progress and self.world.rank == (worker_of() or (0,))[0] == 0,
            rows_of=lambda _: 1,
            unit=" batches",
            first=first,
            said=running.lap(),
        )

    def _following(self, epoch: int | None) -> int | None:
        """Guess which epoch will be loaded next."""
        if self._steps.epochs == 1:
            return self._first_epoch() + 1 if self._is_advancing else None
        following = None if epoch is None else epoch + 1
        return following if self._serves(following) else None

    def _epoch(
        self, way: EpochProgress, following: int | None, running: Metrics
    ) -> Generator[Any, None, int]:
        """Give what is left of an epoch; of workers, this one begins with batch ``turn``.

        Returns:
            How many batches were handed out.
        """
        start, turn, num_workers = way.start, way.turn, way.num_workers or 1
        share = self._share(start.position, way.num_units).of_worker(turn, num_workers)
        then = None
        if following is not None:
            after = self._share(0, self._served.num_units(following))
            then = following, after.of_worker(turn - way.num_batches, num_workers)
        raw = running.over(self._served.load(start.epoch, share, then))
        step = start.position // way.global_batch_size
        numbers = step + turn % num_workers, num_workers
        places = BatchLocations(self._served, start.epoch, share, *numbers)
        values = self._finish.over(raw, self._served, running, places, *numbers)
        first = 0 if way.num_workers else step
        what = "loading" if start.epoch is None else f"epoch {start.epoch}"
        total = first + share.num_batches
        bar = self._with_bar(values, what, first, total, running)
        skipped = running.counts.batches_skipped
        steps = 0
        for value in bar:
            steps += 1
            done = steps + running.reached() - skipped
            self._reached(way.after(done), running)
            yield value
        self._ended(way.end(), running)
        return steps

    def _places(self, start: Checkpoint) -> Iterator[Checkpoint]:
        """Say where training stands after each batch that is left of an epoch."""
        way = self._way(start, 0)
        return map(way.after, range(1, way.num_batches + 1))

    def _end(self, at: Checkpoint) -> Checkpoint:
        """Say where training stands after the end of an epoch."""
        return self._way(at, 0).end()

    def _way(self, start: Checkpoint, turn: int) -> EpochProgress:
        """Give where training stands after each step of what is left of an epoch."""
        units = self._served.num_units(start.epoch)
        worker = worker_of()
        num_batches = self._share(start.position, units).num_batches
        num_workers = None if worker is None else worker[1]
        together = self.global_batch_size
        return EpochProgress(start, units, together, num_batches, turn, num_workers)

    def _reached(self, at: Checkpoint, running: Metrics) -> None:
        if self._leading is running:
            self._at = at

    def _ended(self, at: Checkpoint, running: Metrics) -> None:
        """Behind an epoch, the one that was set meanwhile is what comes next."""
        self._reached(self._start if self._is_renumbered else at, running)

    def _watched(self, batches: Iterator[Any], running: Metrics) -> Iterator[Any]:
        """Pass batches on, from any thread, and measure the waits."""
        return LoaderIterator(batches, running)


def places_from(begun: Checkpoint, rest: Iterable[int]) -> Iterator[Checkpoint]:
    """Give a place, and where later epochs begin."""
    yield begun
    for epoch in rest:
        yield Checkpoint(epoch, 0, first=begun.first)


def refused(message: str) -> Iterator[Checkpoint]:
    """Refuse a place when it is asked for: until then another epoch may be set.

    Raises:
        ValueError: Then.
    """
    yield from ()
    raise ValueError(message)


def worker_of() -> tuple[int, int] | None:
    """Give the number of this worker process of a ``DataLoader``, and of how many, if it is one."""
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return None if info is None else (info.id, info.num_workers)


def register_as_dataset() -> None:
    """Make all loaders an ``IterableDataset`` to torch, if torch is there."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and not issubclass(Iterating, data.IterableDataset):
        data.IterableDataset.register(Iterating)
