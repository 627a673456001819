"""``Loader``: the batches of what is read, epoch by epoch, and where training stands."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, SupportsIndex, cast

from lanceloader.formats import name_of
from lanceloader.loader.checkpoint import (
    Checkpoint,
    numbered,
    read_state,
    write_state,
)
from lanceloader.loader.cursor import Cursor
from lanceloader.loader.iteration import Iteration
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.schedule import Schedule
from lanceloader.loader.trainers import check_collation, refuse_dataset, sampler_of
from lanceloader.monitor.metrics import Metrics
from lanceloader.monitor.progress import check_bar
from lanceloader.monitor.replay import Headspace
from lanceloader.monitor.stats import Stats
from lanceloader.monitor.trace import Trace
from lanceloader.numbers import count
from lanceloader.world import World

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from typing_extensions import TypeVar

    from lanceloader.loader.steps import StepOptions
    from lanceloader.stages.pipeline import BatchPipeline
    from lanceloader.units.base import Units

    PermutationT = TypeVar("PermutationT", default=Any)
else:
    from typing import TypeVar

    PermutationT = TypeVar("PermutationT")

__all__ = ["Loader", "register_as_dataset"]


class Loader(Generic[PermutationT]):
    """The batches of a permutation, read ahead by threads; ``Permutation.loader`` makes one.

    Each iteration yields the current epoch from its start, or from where ``load_state_dict`` or
    ``skip_batches`` left it. Several may run at once, also in several threads, and several threads
    may share one; the state is that of the iteration requested last.

    It is an ``IterableDataset`` to torch: ``DataLoader(loader, batch_size=None)`` works with
    any number of workers, as do torchdata's ``StatefulDataLoader`` and
    ``lanceloader.torch.DataLoader``, whose state is exact with workers too.

    Attributes:
        sampler: Where trainers look for ``set_epoch``, and see that rows are shared out already.
        batch_sampler: The same, for trainers that look there.
        cursor: Where training stands.
        units: What is batched: rows, blocks, or batches under a token budget.
        pipeline: What is done with raw batches.
    """

    def __init__(
        self,
        units: Units,
        steps: StepOptions,
        pipeline: BatchPipeline,
        *,
        progress: bool,
        in_process: bool = True,
    ) -> None:
        """Internal: use ``Permutation.loader``."""
        self.units = units
        self._steps = steps
        self.pipeline = pipeline
        self._has_progress = progress
        self._in_process = in_process
        self.cursor = Cursor(steps.epochs)
        self._metrics: Metrics | None = None
        """Those of the iteration requested last."""
        self._trace: Trace | None = None
        if progress:
            check_bar()
        steps.together(self.world)
        self._meet_torch()

    def _meet_torch(self) -> None:
        """Have what torch and trainers look for, if torch was imported."""
        register_as_dataset()
        # Trainers that wrap a loader copy the attributes of the instance.
        self.sampler = self.batch_sampler = sampler_of(self)

    @property
    def schedule(self) -> Schedule:
        """Which units come in which batch of this process."""
        return Schedule(self.units, self._steps)

    @property
    def epoch(self) -> int | None:
        """The epoch, as ``set_epoch`` set it, or ``None`` for that of the permutation."""
        return self.cursor.epoch

    @property
    def world(self) -> World:
        """This process among those that train together."""
        return self.schedule.world

    @property
    def global_batch_size(self) -> int:
        """The rows of a batch of all ranks together."""
        return self.schedule.global_batch_size

    @property
    def batch_size(self) -> int:
        """The rows of a batch of this rank."""
        return self.schedule.share(0, self.global_batch_size).size

    @property
    def drop_last(self) -> bool:
        """Whether a short last batch is left out."""
        return self._steps.drop_last

    @property
    def epochs(self) -> int | None:
        """The number of epochs of an iteration; ``None`` never ends."""
        return self._steps.epochs

    @property
    def permutation(self) -> PermutationT:
        """The rows of all ranks, in the order of the epoch."""
        view = self.units.view
        if self.epoch is not None:
            view = view._with_epoch(self.epoch)
        return cast("PermutationT", view)

    @property
    def num_rows(self) -> int:
        """The number of rows of an epoch of this rank, or of blocks if documents are packed."""
        share = self.schedule.epoch_share(self.epoch)
        return self.units.num_rows(self.epoch, share)

    @property
    def dataset(self) -> NoReturn:
        """Not there: use ``permutation``.

        Raises:
            AttributeError: Saying what trainers that ask for it need instead.
        """
        refuse_dataset()

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Begin the next iteration with another epoch: the same rows in another order.

        Takes constant time at any size. A shuffle is not renewed if rows were filtered, split,
        sampled or sliced from it afterwards; without a shuffle all epochs are the same. An
        iteration that has yielded a batch goes on with its epoch. A place that
        ``load_state_dict`` set is kept if it is in this epoch.

        Returns:
            This loader.
        """
        self.cursor.set_epoch(count(epoch, "epoch"))
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration ``num_batches`` steps later.

        Takes constant time. Steps beyond the end of the epoch are ignored.

        Returns:
            This loader.
        """
        start = self.cursor.next_start
        skipped = count(num_batches, "num_batches") * self.global_batch_size
        position = min(self.units.num_units(start.epoch), start.position + skipped)
        self.cursor.jump(replace(start, position=position))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: after the batch yielded last.

        The state holds plain numbers and strings, equal on all ranks, for ``torch.save``, JSON and
        anything else. It can be loaded at any ``world_size``, batch size and number of workers.
        A state taken in the body of the loop at the last batch continues with an empty rest of the
        epoch; a state taken after the loop continues with the next pass, if epochs have no numbers.
        """
        return write_state(self.cursor.checkpoint, self.units.plan())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken. Takes constant time.

        If an iteration has several epochs, the state also restores the first one of them.

        Raises:
            ValueError: If the state is of other rows or of another order, or is damaged. The
                message names what differs.
            TypeError: If the state is not a dict.
        """
        at = read_state(state, self.units.plan())
        if at.turn is not None:
            at.turn.checked((self.schedule.worker or (0, 1))[1])
        num_units = self.units.num_units(at.epoch)
        if at.position > num_units:
            message = (
                f"the state is at position {at.position:,}, but the epoch has {num_units:,} "
                f"{self.units.unit}s"
            )
            raise ValueError(message)
        cursor = self.cursor
        if cursor.num_epochs != 1 and at.epoch is None:
            at = numbered(at, self.units.plan())
        if cursor.num_epochs == 1:
            cursor.renumber(at.epoch)
        elif at.first is not None:
            cursor.renumber(at.first)
        cursor.jump(at if cursor.has_numbered_epochs else replace(at, first=None))

    def __len__(self) -> int:
        """The number of batches of an iteration that begins at the start of an epoch.

        Raises:
            TypeError: If the iteration never ends.
        """
        return self._num_batches(self.cursor.first())

    def num_left(self) -> int:
        """Return the number of batches of the next iteration, from where it begins.

        Raises:
            TypeError: If the iteration never ends.
        """
        return self._num_batches(self.cursor.next_start)

    def _num_batches(self, start: Checkpoint) -> int:
        return self.schedule.num_batches(start, self.cursor.first_epoch)

    def __iter__(self) -> Iterator[Any]:
        check_collation(sys._getframe(1))
        iteration = self.request()
        batches = (
            iteration.batches() if self._in_process else self._by_helper(iteration)
        )
        return LoaderIterator(batches, iteration.metrics)

    def request(self) -> Iteration:
        """Return a new iteration, which has not started. For iterators other than ``iter()``."""
        # Opened here: all epochs share the reader, and what it keeps.
        self.units.view._ensure_open()
        metrics = self._metrics = Metrics(
            self.units.reads,
            name_of(self.units.view.transform_fn),
            self.world,
            is_traced=self._trace is not None,
        )
        if self._trace is not None:
            self._trace.add(metrics)
        return Iteration(
            self.cursor.request(),
            self.cursor,
            self.schedule,
            self.pipeline,
            metrics,
            has_progress=self._has_progress,
        )

    def _by_helper(self, iteration: Iteration) -> Iterator[Any]:
        """Yield the batches of an iteration that a helper process makes."""
        from lanceloader.helper.batches import batches_of_helper

        cursor = self.cursor
        start = cursor.start(iteration.number, iteration.requested)
        total = None if self._steps.epochs is None else len(self)
        batches = batches_of_helper(
            self.copy_for_process(start),
            lambda values: self.pipeline.copied(values, iteration.metrics),
            iteration.metrics,
            lambda at: cursor.move(iteration.number, at),
            lambda at: cursor.finish(iteration.number, at),
        )
        if self._has_progress:
            step = start.position // self.global_batch_size
            batches = iteration.with_bar(batches, "loading", step, total)
        yield from batches

    def copy_for_process(self, start: Checkpoint) -> Self:
        """Return a loader for another process, which begins at ``start`` and copies to no device."""
        new = copy.copy(self)
        new._steps = replace(self._steps, world=self.world)
        new.pipeline = self.pipeline.without_copies()
        new._in_process, new._has_progress = True, False
        new._metrics = new._trace = None
        new.cursor = copy.copy(self.cursor)
        new.cursor.jump(start)
        return new

    def explain(self) -> str:
        """Return how rows are read, why, and at what cost; see ``Permutation.explain``."""
        permutation: Any = self.permutation
        lines = [self.units.explain(), permutation.explain()]
        return "\n".join(filter(None, lines))

    def stats(self) -> Stats:
        """Return what the iteration requested last has done so far."""
        return Stats() if self._metrics is None else self._metrics.stats()

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Write what each thread did, and when, for chrome://tracing and ui.perfetto.dev.

        The rows are the threads that read, those that transform and copy, and the training loop with
        its waits. Costs some microseconds a batch, and memory of about 200 bytes an event; the first
        million events are kept.

        Args:
            path: The JSON file, which is written at the end of the block.

        Returns:
            A context manager; iterations that begin in its block are traced.

        Raises:
            RuntimeError: From ``with``, if this loader is being traced already.

        Example:
            >>> loader = perm.loader(5)
            >>> with loader.trace("trace.json"):
            ...     for batch in loader:
            ...         pass
        """
        return Trace(self, path)

    def set_trace(self, trace: Trace | None) -> None:
        """Trace the iterations requested from now on, or stop.

        Raises:
            RuntimeError: If this loader is being traced already.
        """
        if trace is not None and self._trace is not None:
            raise RuntimeError(
                "this loader is being traced already: end that `with` block first"
            )
        self._trace = trace

    def headspace(
        self, after: SupportsIndex = 100, *, keep: SupportsIndex = 8
    ) -> Headspace:
        """Measure how fast training would be with the fastest possible loader: batches in memory.

        Args:
            after: The number of batches to read first. A fifth of them is not timed, as a warm-up.
            keep: The most of these batches to keep, the last ones, and to repeat afterwards.

        Returns:
            As many batches as this loader has left; ``report()`` compares the steps per second.

        Raises:
            ValueError: If ``after`` is less than 5, or ``keep`` less than 1.

        Example:
            >>> trial = perm.loader(1).headspace(after=5)
            >>> print(len([batch for batch in trial]), trial.report().steps_replayed)
            10 5
        """
        return Headspace(self, count(after, "after"), count(keep, "keep"))

    def __repr__(self) -> str:
        number = "endless" if self._steps.epochs is None else f"{len(self):,}"
        world = f", {self.world}," if self.world.world_size > 1 else ""
        return f"<Loader of {number} batches of {self.batch_size:,}{world} of {self.units.view!r}>"

    def __getstate__(self) -> dict[str, Any]:
        # A worker process is not one of the ranks; but a rank may be sent its loader, too.
        world = self._steps.world or World.in_use()
        state = self.__dict__ | {"_steps": replace(self._steps, world=world)}
        state |= {"_metrics": None, "_trace": None, "cursor": copy.copy(self.cursor)}
        # They refer to this loader.
        del state["sampler"], state["batch_sampler"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_served" in state:
            state = _of_version_0_1_0(state)
        self.__dict__.update(state)
        self._meet_torch()


def _of_version_0_1_0(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a pickle of version 0.1.0 as it is today."""
    cursor = Cursor(state["_steps"].epochs)
    cursor.renumber(state["epoch"])
    cursor.jump(state["_start"])
    cursor.checkpoint = state["_at"]
    return {
        "units": state["_served"],
        "_steps": state["_steps"],
        "pipeline": state["_finish"],
        "_has_progress": state["_progress"],
        "_in_process": state["_in_process"],
        "cursor": cursor,
        "_metrics": None,
        "_trace": None,
    }


def register_as_dataset() -> None:
    """Make all loaders an ``IterableDataset`` to torch, if torch was imported."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and not issubclass(Loader, data.IterableDataset):
        data.IterableDataset.register(Loader)
