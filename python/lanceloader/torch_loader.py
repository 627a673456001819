"""``lanceloader.torch.DataLoader``: torch's loader with an exact state, with workers too.

Batches are made as by ``Loader``, in worker processes or in this one. The cursor advances in this process
when a batch is yielded. Persistent workers read the start of an iteration from shared memory.
"""

from __future__ import annotations

import copy
import itertools
import multiprocessing
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset
from torch.utils.data.dataloader import _DatasetKind, _MultiProcessingDataLoaderIter

from lanceloader.choices import check_function
from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.loader.checkpoint import Checkpoint, halves_of, of_halves
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.loader import Loader, register_as_dataset
from lanceloader.loader.signature import with_options_shown
from lanceloader.monitor.markup import paragraph
from lanceloader.numbers import count
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.transport.queues import read_directly, write_directly
from lanceloader.units.locations import BatchLocations
from lanceloader.units.share import Share

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch.utils.data import Dataset

    from lanceloader._permutation import Permutation
    from lanceloader.loader.checkpoint import EpochProgress
    from lanceloader.loader.iteration import Iteration
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.monitor.stats import Stats

__all__ = ["DataLoader"]

ENDING_S = 1.0
"""The time that a worker takes to end after its connections are closed."""

ALTERNATIVES = {
    "in_order": "is not supported, as a state needs batches in order: leave it out",
    "batch_size": "cannot be combined with a Loader, which makes whole batches: pass it to loader()",
    "shuffle": "cannot be combined with a Loader, which has an order: pass it to loader()",
    "seed": "cannot be combined with a Loader, which has an order: pass it to loader()",
    "drop_last": "cannot be combined with a Loader, which makes whole batches: pass it to loader()",
}
"""Arguments that are not supported, and what to do instead."""


class DataLoader(TorchLoader[Any]):
    """A ``torch.utils.data.DataLoader`` over a ``Loader`` or a permutation.

    The state refers to the batches that were yielded, with any number of workers and with
    ``persistent_workers`` and ``prefetch_factor``, all of which may change when it is loaded. Batch b
    is the same for all numbers of workers. Transforms run in the workers; copies to pinned memory and
    to the ``device`` of the loader run in this process, one batch ahead.

    The ``Loader`` divides rows among the ranks, so Accelerate's ``prepare`` does not do so again, and
    its ``save_state`` saves the state.

    Attributes:
        dataset: The ``Loader``.

    Example:
        >>> from lanceloader.torch import DataLoader
        >>> loader = DataLoader(perm, 4, shuffle=True, seed=7, format="torch_dict")
        >>> for epoch in range(2):
        ...     for batch in loader.set_epoch(epoch):
        ...         state = loader.state_dict()
        >>> loader.load_state_dict(state)
        >>> state["epoch"], state["position"], len(list(loader))
        (1, 10, 0)
    """

    # Accelerate must not divide the batches among ranks again, and must save the state.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    @with_options_shown
    def __init__(
        self,
        dataset: Loader | Permutation,
        batch_size: SupportsIndex | None = None,
        shuffle: bool | None = None,  # noqa: FBT001
        sampler: Iterable[SupportsIndex] | LoaderSampler | None = None,
        batch_sampler: Iterable[Sequence[SupportsIndex]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        *,
        seed: SupportsIndex | None = None,
        drop_last: bool | None = None,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        in_order: bool = True,
        **options: Any,
    ) -> None:
        """Make a loader with the arguments of torch's ``DataLoader`` and of ``Permutation.loader``.

        Args:
            dataset: A ``Loader``; or a permutation, of which a loader is made.
            batch_size: The number of rows in a batch of one rank, for a permutation; by default
                its ``batch_size``.
            shuffle: Whether to shuffle the rows, for a permutation.
            sampler: A sampler of positions, for a permutation; see ``Permutation.loader``. With
                workers, this process reads it and sends the positions of each batch. The
                ``sampler`` of another ``DataLoader`` of this class stands for its ``Loader``, for
                trainers that copy a loader.
            batch_sampler: A sampler of lists of positions, for a permutation.
            num_workers: The number of processes that make batches; with 0, threads of this process
                do.
            collate_fn: A function of a batch, whose results are yielded.
            seed: The seed of ``shuffle``, for a permutation.
            drop_last: Whether to drop a shorter last batch, for a permutation.
            timeout: As in torch.
            worker_init_fn: As in torch.
            multiprocessing_context: As in torch.
            generator: As in torch; it seeds the workers, but has no effect on the order.
            prefetch_factor: As in torch.
            persistent_workers: As in torch.
            in_order: Must be true.
            **options: Further options of ``Permutation.loader``, for a permutation.

        Raises:
            ValueError: If an argument is not supported; the message names the alternative.
            TypeError: If ``dataset`` is neither a ``Loader`` nor a permutation.
        """
        check_function("collate_fn", collate_fn)
        num_workers = count(num_workers, "num_workers")
        check_not_passed("in_order", None if in_order else in_order)
        own: dict[str, Any] = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
        }
        own |= {"drop_last": drop_last, "batch_sampler": batch_sampler}
        options |= {name: value for name, value in own.items() if value is not None}
        if isinstance(sampler, LoaderSampler):
            dataset, options = sampler.loader, {}
        elif sampler is not None:
            options["sampler"] = sampler
        if num_workers and options.get("transform") is not None:
            # Transforms run in parallel in the workers; only a timeout needs a thread.
            has_timeout = options.get("transform_timeout") is not None
            options.setdefault("transform_threads", int(has_timeout))
        register_as_dataset()
        super().__init__(
            cast("Dataset[Any]", loader_of(dataset, options)),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=BatchCollate(collate_fn),
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context,
            generator=generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )
        # Lightning calls `sampler.set_epoch`, and copies a loader from these attributes.
        self.__dict__["sampler"] = LoaderSampler(self.dataset)
        self.__dict__["drop_last"] = self.dataset.drop_last
        self._signal = (
            torch.zeros((3, 2), dtype=torch.int64) if persistent_workers else None
        )
        if self._signal is not None:
            self._signal.share_memory_()  # type: ignore[no-untyped-call]
        self._steps = StepSampler()

    dataset: Loader  # type: ignore[assignment]

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Set the epoch of the next iteration; see ``Loader.set_epoch``."""
        self.dataset.set_epoch(epoch)
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration ``num_batches`` steps later; see ``Loader.skip_batches``."""
        self.dataset.skip_batches(num_batches)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training after the batch yielded last; see ``Loader.state_dict``."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken; see ``Loader.load_state_dict``."""
        self.dataset.load_state_dict(state)

    def stats(self) -> Stats:
        """Return the statistics of the iteration requested last; with workers, only the waits."""
        return self.dataset.stats()

    def report(
        self, path: str | os.PathLike[str], *, stats: Stats | None = None
    ) -> None:
        """Write a report of the iteration requested last; see ``Loader.report``."""
        self.dataset.report(path, stats=stats)

    def __repr__(self) -> str:
        return f"<DataLoader with {self.num_workers} workers of {self.dataset!r}>"

    def _repr_html_(self) -> str:
        workers = paragraph(f"DataLoader with {self.num_workers} workers")
        return workers + self.dataset._repr_html_()

    def __len__(self) -> int:
        """Return the number of batches of an iteration from the start of an epoch."""
        return len(self.dataset)

    def __iter__(self) -> Any:
        if self.num_workers == 0:
            return super().__iter__()
        iteration = self.dataset.request()
        is_drawn = self.dataset.units.is_drawn
        batches = self._sampled(iteration) if is_drawn else self._received(iteration)
        return LoaderIterator(batches, iteration.metrics)

    def _workers(self, start: Checkpoint) -> Iterator[Any]:
        """Start an iteration of new or persistent workers at a checkpoint."""
        self._start = start
        if self._signal is not None:
            first = self.dataset.epoch if start.first is None else start.first
            numbers = first, start.epoch, start.position
            self._signal.copy_(torch.tensor([halves_of(number) for number in numbers]))
        slots: Iterator[Any] = super().__iter__()
        return slots

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        # Workers get a loader without the stages that run in this process, through a copy, as
        # other threads may use this object while workers start.
        for_workers = copy.copy(self)
        if self.dataset.units.is_drawn:
            # To torch, a dataset with `__getitems__` and a batch sampler.
            fetcher = StepDataset(self.dataset)
            parts = {"dataset": fetcher, "batch_sampler": self._steps}
            for_workers.__dict__.update(parts, _dataset_kind=_DatasetKind.Map)
            return started(for_workers)
        dataset = WorkerDataset(self.dataset, self._start, self._signal)
        for_workers.__dict__["dataset"] = dataset
        return started(for_workers)

    def _sampled(self, iteration: Iteration) -> Iterator[Any]:
        """Yield the batches of workers that are sent their positions, and advance the cursor."""
        steps = Steps(iteration)
        self._steps.steps = steps
        slots: Iterator[Any] = super().__iter__()
        ahead: deque[tuple[EpochProgress, int]] = deque()

        def batches() -> Iterator[Any]:
            for slot in checked(slots):
                place = steps.sent.popleft()
                if not isinstance(slot, SkippedBatch):
                    ahead.append(place)
                    yield slot

        for value in iteration.pipeline.copied(batches(), iteration.metrics):
            iteration.cursor.advance(iteration.number, *ahead.popleft())
            yield value
        if steps.sent:
            at = steps.sent[0][0].after(steps.sent[0][1])
            message = f"workers ended before position {at.position} of epoch {at.epoch}"
            raise RuntimeError(message)
        if steps.last is not None:
            iteration.cursor.finish(iteration.number, steps.last.end())

    def _received(self, iteration: Iteration) -> Iterator[Any]:
        """Yield the batches of workers, and advance the cursor with each."""
        schedule, cursor = iteration.schedule, iteration.cursor
        starts = iteration.starts()
        start = next(starts, None)
        if start is None:
            return
        slots = checked(self._workers(start))
        last, num_yielded = schedule.progress(start), 0

        def steps() -> Iterator[tuple[EpochProgress, int]]:
            nonlocal last, num_yielded
            for begin in itertools.chain([start], starts):
                last, num_yielded = schedule.progress(begin), 0
                for step in range(1, last.num_batches + 1):
                    yield last, step
                schedule.check_endless(begin, last.num_batches, num_yielded)

        positions = steps()
        # Copies to a device run ahead of the batches that are yielded.
        ahead: deque[tuple[EpochProgress, int]] = deque()

        def batches() -> Iterator[Any]:
            nonlocal num_yielded
            for slot in slots:
                place = next(positions)
                if not isinstance(slot, SkippedBatch):
                    num_yielded += 1
                    ahead.append(place)
                    yield slot

        copied = iteration.pipeline.copied(batches(), iteration.metrics)
        total = None if self.dataset.epochs is None else len(self.dataset)
        step = start.position // self.dataset.global_batch_size
        for value in iteration.with_bar(copied, "loading", step, total):
            cursor.advance(iteration.number, *ahead.popleft())
            yield value
        missing = next(positions, None)
        if missing is not None:
            at = missing[0].after(missing[1])
            message = f"workers ended before position {at.position} of epoch {at.epoch}"
            raise RuntimeError(message)
        cursor.finish(iteration.number, last.end())


def checked(slots: Any) -> Iterator[Any]:
    """Yield the items of workers, and raise a clear error if a worker ends while it sends a batch.

    Raises:
        RuntimeError: If a worker has ended, as torch does if no batch is being sent.
    """
    has_started = False
    try:
        for slot in slots:
            has_started = True
            yield slot
    except RuntimeError as error:
        if not has_started and any(map(could_not_start, slots._workers)):
            error.add_note(UNGUARDED)
        raise
    except (OSError, EOFError) as error:
        # The error may be one of the user's functions, sent by a worker.
        by_sentinel = {worker.sentinel: worker for worker in slots._workers}
        ended = wait(list(by_sentinel), timeout=ENDING_S)
        if not ended:
            raise
        pids = ", ".join(str(by_sentinel[sentinel].pid) for sentinel in ended)
        message = f"DataLoader worker (pid(s) {pids}) exited unexpectedly while it sent a batch: {error!r}"
        raise RuntimeError(message) from error


def could_not_start(worker: Any) -> bool:
    """Return whether a worker probably ended because it could not import the main module."""
    method = worker._start_method or multiprocessing.get_start_method()
    return worker.exitcode == 1 and imports_main(method)


class WorkersIterator(_MultiProcessingDataLoaderIter):
    """The iterator of torch, whose queues need no threads in this process."""

    def _reset(self, loader: Any, first_iter: bool = False) -> None:  # noqa: FBT001, FBT002
        if first_iter:
            # Nothing was sent yet.
            for queue in self._index_queues:
                write_directly(queue)
            read_directly(self._worker_result_queue)
        super()._reset(loader, first_iter)


class WorkerDataset(IterableDataset[Any]):
    """The dataset of a worker: its batches, with a ``SkippedBatch`` for each that was skipped.

    Args:
        loader: The loader of the parent process.
        start: The start of the first iteration.
        signal: Shared memory with the start of the next iteration, for persistent workers.
    """

    def __init__(
        self, loader: Loader, start: Checkpoint, signal: torch.Tensor | None
    ) -> None:
        self._loader = loader.copy_for_process(start)
        self._signal = signal

    def __iter__(self) -> Iterator[Any]:
        cursor = self._loader.cursor
        if self._signal is not None:
            first, epoch, position = map(of_halves, self._signal.tolist())
            cursor.renumber(first)
            cursor.jump(Checkpoint(epoch, position or 0))
        iteration = self._loader.request()
        counts = iteration.metrics.counts
        num_reported = 0
        for batch in iteration.batches(epoch_end=SkippedBatch()):
            # Skipped batches are reported before the next batch, to keep their order.
            num_skipped = counts.batches_skipped
            yield from itertools.repeat(SkippedBatch(), num_skipped - num_reported)
            num_reported = num_skipped
            # The end of an epoch is yielded only to report skipped batches, and is not a batch.
            if not isinstance(batch, SkippedBatch):
                yield batch


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
        return next(iter(batches), SkippedBatch())


class SkippedBatch:
    """The placeholder of a batch that was skipped, as a transform failed for all of its rows."""


class BatchCollate:
    """Calls a function with each batch, or returns the batch if there is no function."""

    def __init__(self, call: Callable[[Any], Any] | None) -> None:
        self._call = call

    def __call__(self, batch: Any) -> Any:
        if self._call is None or isinstance(batch, SkippedBatch):
            return batch
        return without_stop_iteration(self._call)(batch)


class LoaderSampler:
    """The sampler of a ``DataLoader``, which yields ``None`` for each batch.

    Attributes:
        loader: The loader that makes the batches.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Set the epoch of the next iteration; see ``Loader.set_epoch``."""
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


def loader_of(dataset: Any, options: dict[str, Any]) -> Loader:
    """Return a loader of a permutation, or a loader unchanged.

    Raises:
        ValueError: If options are passed for an existing loader.
        TypeError: If ``dataset`` is neither a loader nor a permutation.
    """
    if isinstance(dataset, Loader):
        for name, value in options.items():
            if name != "drop_last" or value != dataset.drop_last:
                check_not_passed(name, value)
        return dataset
    make = getattr(dataset, "loader", None)
    if make is None:
        message = (
            f"`dataset` must be a Loader or a Permutation, not {type(dataset).__name__}: pass "
            "lanceloader.open(table), or use torch's DataLoader for other datasets"
        )
        raise TypeError(message)
    loader: Loader = make(**options)
    return loader


def check_not_passed(name: str, value: Any) -> None:
    """Check that an argument that is not supported was not passed.

    Raises:
        ValueError: If it was; the message names the alternative.
    """
    if value is None:
        return
    default = "cannot be combined with a Loader: pass it to loader()"
    message = f"`{name}`={value!r} {ALTERNATIVES.get(name, default)}"
    raise ValueError(message)


def started(loader: TorchLoader[Any]) -> Any:
    """Return the iterator of a loader, whose workers it starts.

    Raises:
        Exception: If a function cannot be sent to workers, with a note that says what to do.
    """
    try:
        loader.check_worker_number_rationality()
        return WorkersIterator(loader)
    except Exception as error:
        if "pickle" in str(error).lower():
            error.add_note(
                "lanceloader: worker processes are sent the functions of the loader: define them "
                "at the top level of a module, not as a lambda or inside another function"
            )
        raise
