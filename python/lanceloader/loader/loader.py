"""``Loader``: iterates over batches, epoch by epoch, and keeps the state of training."""

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
from lanceloader.loader.earlier import state_of_version_0_1_0
from lanceloader.loader.in_helper import batches_in_helper
from lanceloader.loader.iteration import Iteration
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.monitored import MonitoredLoader
from lanceloader.loader.schedule import Schedule
from lanceloader.loader.summary import loader_html, summary_of
from lanceloader.loader.trainers import (
    check_collation,
    raise_no_dataset,
    sampler_of,
    sends_unchanged,
)
from lanceloader.monitor.metrics import Metrics
from lanceloader.monitor.progress import check_bar
from lanceloader.numbers import count
from lanceloader.transport.torch_groups import GroupingIterator
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import TypeVar

    from lanceloader._typing import Format
    from lanceloader.helper.kept import KeptHelper
    from lanceloader.loader.steps import StepOptions
    from lanceloader.stages.pipeline import BatchPipeline
    from lanceloader.units.base import Units

    PermutationT = TypeVar("PermutationT", default=Any)
else:
    from typing import TypeVar

    PermutationT = TypeVar("PermutationT")

__all__ = ["Loader", "register_as_dataset"]


class Loader(MonitoredLoader, Generic[PermutationT]):
    """An iterable over batches, which threads read ahead; made by ``Permutation.loader``.

    Each iteration yields the batches of the current epoch, from its start or from the position that
    ``load_state_dict`` or ``skip_batches`` set. Several iterations may run at the same time, in one or
    several threads, and several threads may share one iterator. The state is that of the iteration
    requested last.

    ``torch.utils.data.DataLoader(loader, batch_size=None)`` accepts a ``Loader`` as an
    ``IterableDataset`` with any number of workers, as does torchdata's ``StatefulDataLoader``. With
    ``lanceloader.torch.DataLoader`` the state is exact with workers, too.

    Attributes:
        sampler: An object with ``set_epoch``, from which trainers conclude that rows are divided
            among the ranks already.
        batch_sampler: The same object.
        cursor: The checkpoint of the loader.
        units: The units that are batched: rows, blocks, or batches under a token budget.
        pipeline: The stages that process raw batches.
    """

    def __init__(
        self,
        units: Units,
        steps: StepOptions,
        pipeline: BatchPipeline,
        *,
        progress: bool | None,
        in_process: bool = True,
    ) -> None:
        """Internal: use ``Permutation.loader``."""
        self.units = units
        self._steps = steps
        self.pipeline = pipeline
        self._has_progress = progress
        self._in_process = in_process
        self.cursor = Cursor(steps.epochs)
        self._metrics = None
        self._trace = None
        self._helper: KeptHelper | None = None
        """The helper process, from the first iteration in one on."""
        check_bar(progress)
        steps.global_size(self.world)
        self._register_with_torch()

    def _register_with_torch(self) -> None:
        """Register as a dataset and make the samplers, if torch was imported."""
        register_as_dataset()
        # Attributes of the instance, as trainers that wrap a loader copy only these.
        self.sampler = self.batch_sampler = sampler_of(self)

    @property
    def schedule(self) -> Schedule:
        """The assignment of units to the batches of this process."""
        return Schedule(self.units, self._steps)

    @property
    def epoch(self) -> int | None:
        """The epoch that ``set_epoch`` set, or ``None`` for the order of the permutation itself."""
        return self.cursor.epoch

    @property
    def world(self) -> World:
        """The rank of this process, and the number of ranks."""
        return self.schedule.world

    @property
    def global_batch_size(self) -> int:
        """The number of rows in a batch of all ranks together; of units if these are not rows.

        Units are blocks of packed documents, or whole batches if there is a token budget.
        """
        return self.schedule.global_batch_size

    @property
    def batch_size(self) -> int:
        """The number of rows in a batch of this rank; of units as for ``global_batch_size``."""
        return self.schedule.share(0, self.global_batch_size).size

    @property
    def drop_last(self) -> bool:
        """Whether a shorter last batch is dropped."""
        return self._steps.drop_last

    @property
    def epochs(self) -> int | None:
        """The number of epochs of an iteration; ``None`` never ends."""
        return self._steps.epochs

    @property
    def permutation(self) -> PermutationT:
        """The rows of all ranks, in the order of the epoch; or those that a sampler chooses from."""
        view = self.units.view
        if self.epoch is not None and not self.units.is_drawn:
            view = view.with_epoch(self.epoch)
        return cast("PermutationT", view)

    @property
    def num_rows(self) -> int:
        """The number of rows of this rank in an epoch, or of blocks if documents are packed."""
        share = self.schedule.epoch_share(self.epoch)
        return self.units.num_rows(self.epoch, share)

    @property
    def dataset(self) -> NoReturn:
        """Not supported: use ``permutation``.

        Raises:
            AttributeError: Always, with alternatives for trainers.
        """
        raise_no_dataset()

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Set the epoch of the next iteration, which has the same rows in another order.

        Takes constant time. The order only changes if the last operation on the rows was a shuffle:
        after a filter, split, sample or slice of shuffled rows, all epochs have the same order. An
        iteration that has yielded a batch continues with its epoch. A position that
        ``load_state_dict`` set is kept if it is in this epoch.

        Args:
            epoch: The epoch, in ``range(2**64)``.

        Returns:
            This loader.

        Raises:
            TypeError: If ``epoch`` is not an integer.
            OverflowError: If ``epoch`` is out of range.
        """
        self.cursor.set_epoch(count(epoch, "epoch"))
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration ``num_batches`` steps later.

        Takes constant time and reads nothing, except that the lengths of rows are read if they are not
        known yet and batches are packed or have a token budget. Steps beyond the end of the epoch
        are ignored.

        Args:
            num_batches: The number of steps, of which all ranks must skip the same number.

        Returns:
            This loader.

        Example:
            >>> loader = perm.loader(4)
            >>> len(list(loader)), len(list(loader.skip_batches(1))), len(list(loader))
            (3, 2, 3)
        """
        start = self.cursor.next_start
        skipped = count(num_batches, "num_batches") * self.global_batch_size
        position = start.position + skipped
        num_units = self._num_units(start.epoch)
        if num_units is not None:
            position = min(num_units, position)
        self.cursor.jump(replace(start, position=position))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training after the batch yielded last.

        The state consists of numbers and strings that are the same on all ranks, for ``torch.save``,
        JSON and other formats. It can be loaded with another ``world_size``, batch size or number of
        workers; a state taken inside of a worker process needs the same number of workers.

        A state taken in the body of the loop at the last batch of an epoch continues with the empty
        rest of this epoch. A state taken after the loop does so too if an epoch was set; without, it
        continues with the next pass.

        Example:
            >>> loader = perm.loader(4).set_epoch(1)
            >>> batches = iter(loader)
            >>> _ = next(batches)
            >>> state = loader.state_dict()
            >>> state["epoch"], state["position"]
            (1, 4)
        """
        at = self.cursor.checkpoint
        if self.units.is_drawn and at.draw is None:
            at = replace(at, draw=self.units.record)
        return write_state(at, self.units.plan())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken.

        Takes constant time and reads nothing, except what ``skip_batches`` reads. If an iteration has
        several epochs, the state also restores the first one of them.

        Args:
            state: The dict that ``state_dict`` returned.

        Raises:
            ValueError: If the state is for other rows or another order, with a message that lists
                the differences; or if it is damaged.
            TypeError: If the state is not a dict.
        """
        at = read_state(state, self.units.plan())
        if at.turn is not None:
            at.turn.checked((self.schedule.worker or (0, 1))[1])
        num_units = self._num_units(at.epoch)
        if num_units is not None and at.position > num_units:
            message = (
                f"the state is at position {at.position:,}, but the epoch has {num_units:,} "
                f"{self.units.unit}s"
            )
            raise ValueError(message)
        if self.cursor.num_epochs != 1 and at.epoch is None:
            at = numbered(at, self.units.plan())
        self.cursor.resume(at)

    def __len__(self) -> int:
        """Return the number of batches of an iteration from the start of an epoch.

        Raises:
            TypeError: If the iteration never ends.
        """
        return self._num_batches(self.cursor.first())

    def num_left(self) -> int:
        """Return the number of batches of the next iteration, from its position on.

        Raises:
            TypeError: If the iteration never ends.
        """
        return self._num_batches(self.cursor.next_start)

    def _num_units(self, epoch: int | None) -> int | None:
        """Return the number of units in an epoch, or ``None`` for a sampler without a length."""
        try:
            return self.units.num_units(epoch)
        except TypeError:
            if not self.units.is_drawn:
                raise
            return None

    def _num_batches(self, start: Checkpoint) -> int:
        return self.schedule.num_batches(start, self.cursor.first_epoch)

    def __iter__(self) -> Iterator[Any]:
        check_collation(sys._getframe(1))
        is_sent = sends_unchanged(self, sys._getframe(1))
        iteration = self.request()
        if is_sent:
            # torch makes tensors of NumPy's arrays.
            formats: tuple[Format, ...] = "arrow", "torch_dict"
            iteration.pipeline = self.pipeline.for_sending(self.units, formats)
            return GroupingIterator(
                LoaderIterator(iteration.batches(), iteration.metrics)
            )
        if self._in_process:
            batches = iteration.batches()
        else:
            batches = batches_in_helper(self, iteration)
        return LoaderIterator(batches, iteration.metrics)

    def request(self) -> Iteration:
        """Return a new iteration, which has not started, for consumers other than ``iter()``."""
        # Opened here, so that all iterations share one reader and its rows in memory.
        self.units.view.open_reader()
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
            progress=self._has_progress,
        )

    def copy_for_process(self, start: Checkpoint) -> Self:
        """Return a loader for another process, which starts at ``start`` and copies to no device."""
        new = copy.copy(self)
        new._steps = replace(self._steps, world=self.world)
        new.pipeline = self.pipeline.without_copies()
        new._in_process, new._has_progress = True, False
        new._metrics = new._trace = new._helper = None
        new.cursor = copy.copy(self.cursor)
        new.cursor.jump(start)
        return new

    def explain(self) -> str:
        """Return a description of how rows are read and the cost; see ``Permutation.explain``."""
        permutation: Any = self.permutation
        lines = [self.units.explain(), permutation.explain()]
        return "\n".join(filter(None, lines))

    def __repr__(self) -> str:
        topics = ", ".join(summary_of(self).values())
        return f"<Loader of {topics}; {self.units.view!r}>"

    def _repr_html_(self) -> str:
        return loader_html(self)

    def __getstate__(self) -> dict[str, Any]:
        # Workers are not ranks, so they get the rank of the process that pickles the loader.
        world = self._steps.world or World.in_use()
        state = self.__dict__ | {"_steps": replace(self._steps, world=world)}
        state |= {"_metrics": None, "_trace": None, "_helper": None}
        state["cursor"] = copy.copy(self.cursor)
        # Samplers refer to this loader weakly and are made again.
        del state["sampler"], state["batch_sampler"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_served" in state:
            state = state_of_version_0_1_0(state)
        # Pickles of version 0.2 and earlier have no helper.
        self.__dict__.update({"_helper": None} | state)
        self._register_with_torch()


def register_as_dataset() -> None:
    """Register ``Loader`` as a subclass of torch's ``IterableDataset``, if torch was imported."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and not issubclass(Loader, data.IterableDataset):
        data.IterableDataset.register(Loader)
