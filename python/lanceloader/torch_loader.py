"""``lanceloader.torch.DataLoader``: torch's loader, whose state is exact whatever workers read ahead.

Batches are made as ``Loader`` makes them, in worker processes or in this one. Where training
stands is counted here, as batches are handed out; workers that stay are told through shared
memory where to begin.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.loader.checkpoint import Checkpoint, halves_of, of_halves
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.loader import Loader, register_as_dataset
from lanceloader.stop_iteration import without_stop_iteration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.utils.data import Dataset

    from lanceloader._permutation import Permutation
    from lanceloader.loader.checkpoint import EpochProgress
    from lanceloader.loader.iteration import Iteration
    from lanceloader.monitor.stats import Stats

__all__ = ["DataLoader"]

ENDING_S = 1.0
"""Within this time a worker has ended whose connections are closed."""

REFUSED = {
    "sampler": "rows come in the order of the permutation: wanted perm.sample() or shuffle=True",
    "batch_sampler": "batches are those of the loader: wanted batch_size",
    "in_order": "states are of batches in order: wanted in_order=True",
    "batch_size": "a Loader makes whole batches: wanted it where the loader is made",
    "shuffle": "a Loader has its order: wanted it where the loader is made",
    "seed": "a Loader has its order: wanted it where the loader is made",
    "drop_last": "a Loader makes whole batches: wanted it where the loader is made",
}


class DataLoader(TorchLoader[Any]):
    """A ``DataLoader`` over a ``Loader`` or a permutation, with worker processes or without.

    Its state says what the trainer got, with any number of workers, with ``persistent_workers``
    and ``prefetch_factor`` too, and may be loaded with other ones. Batch b is the same for every
    number of workers. Transforms run in the workers; pinned memory and copies to the loader's
    ``device`` are made here, one batch ahead.

    It takes ranks as its ``Loader`` does, so Accelerate leaves it as it is: ``prepare`` does not
    share it out again, and ``save_state`` keeps its state.

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

    # Accelerate: nobody but the loader shares it out, and its state goes along.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(
        self,
        dataset: Loader | Permutation,
        batch_size: SupportsIndex | None = None,
        shuffle: bool | None = None,  # noqa: FBT001
        sampler: LoaderSampler | None = None,
        batch_sampler: None = None,
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
        """Take what torch's loader takes, and what ``Permutation.loader`` takes.

        Args:
            dataset: A ``Loader``, or a permutation to make one of.
            batch_size: Of a permutation: rows of a batch of one rank; by default its own.
            shuffle: Of a permutation: whether to shuffle its rows.
            sampler: Not taken: the order is that of the permutation. Trainers that make a loader anew
                pass that of the loader they found, whose rows are then served.
            batch_sampler: Not taken.
            num_workers: Processes that make batches; with 0 the threads of this one do.
            collate_fn: Called with each batch; by default batches are as the loader makes them.
            seed: Of a permutation: chooses the order, with ``shuffle``.
            drop_last: Of a permutation: whether to leave a short last batch out.
            timeout: As in torch.
            worker_init_fn: As in torch.
            multiprocessing_context: As in torch.
            generator: As in torch; it seeds the workers, and does not choose the order.
            prefetch_factor: As in torch.
            persistent_workers: As in torch.
            in_order: Must be true.
            **options: Of a permutation: other arguments of ``Permutation.loader``.

        Raises:
            ValueError: If an argument cannot be taken, saying what is wanted instead.
            TypeError: If ``dataset`` is neither.
        """
        refuse("batch_sampler", batch_sampler)
        refuse("in_order", None if in_order else in_order)
        own = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed}
        own["drop_last"] = drop_last
        options |= {name: value for name, value in own.items() if value is not None}
        if isinstance(sampler, LoaderSampler):
            dataset, options = sampler.loader, {}
        else:
            refuse("sampler", sampler)
        if num_workers and options.get("transform") is not None:
            # Workers are as many as are wanted at once; one that hangs takes a thread of its own.
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
        # Lightning looks for set_epoch there, and makes a loader anew of all that it finds.
        self.__dict__["sampler"] = LoaderSampler(self.dataset)
        self.__dict__["drop_last"] = self.dataset.drop_last
        self._signal = (
            torch.zeros((3, 2), dtype=torch.int64) if persistent_workers else None
        )
        if self._signal is not None:
            self._signal.share_memory_()  # type: ignore[no-untyped-call]

    dataset: Loader  # type: ignore[assignment]

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Serve another epoch: as for ``Loader``."""
        self.dataset.set_epoch(epoch)
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration so many steps later: as for ``Loader``."""
        self.dataset.skip_batches(num_batches)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Give where training stands: after the batch that was handed out last."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken: as for ``Loader``."""
        self.dataset.load_state_dict(state)

    def stats(self) -> Stats:
        """Say what the iteration that was begun last did; of workers, only how long it waited."""
        return self.dataset.stats()

    def __len__(self) -> int:
        """The number of batches: as for ``Loader``."""
        return len(self.dataset)

    def __iter__(self) -> Any:
        if self.num_workers == 0:
            return super().__iter__()
        iteration = self.dataset.request()
        return LoaderIterator(self._received(iteration), iteration.metrics)

    def _workers(self, start: Checkpoint) -> Iterator[Any]:
        """Start workers, or those that persist, at a place."""
        self._start = start
        if self._signal is not None:
            first = self.dataset.epoch if start.first is None else start.first
            numbers = first, start.epoch, start.position
            self._signal.copy_(torch.tensor([halves_of(number) for number in numbers]))
        slots: Iterator[Any] = super().__iter__()
        return slots

    def _get_iterator(self) -> Any:
        loader = self.dataset
        if self.num_workers == 0:
            return super()._get_iterator()
        # Workers get a copy without the stages that run in this process.
        self.__dict__["dataset"] = WorkerDataset(loader, self._start, self._signal)
        try:
            return super()._get_iterator()
        finally:
            self.__dict__["dataset"] = loader

    def _received(self, iteration: Iteration) -> Iterator[Any]:
        """Yield the batches of workers, and move the cursor with each."""
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

        places = steps()
        # Copies to a device run ahead of what is yielded.
        ahead: deque[tuple[EpochProgress, int]] = deque()

        def made() -> Iterator[Any]:
            nonlocal num_yielded
            for slot in slots:
                place = next(places)
                if not isinstance(slot, SkippedBatch):
                    num_yielded += 1
                    ahead.append(place)
                    yield slot

        for value in iteration.pipeline.copied(made(), iteration.metrics):
            cursor.advance(iteration.number, *ahead.popleft())
            yield value
        missing = next(places, None)
        if missing is not None:
            at = missing[0].after(missing[1])
            message = f"workers ended before position {at.position} of epoch {at.epoch}"
            raise RuntimeError(message)
        cursor.finish(iteration.number, last.end())


def checked(slots: Any) -> Iterator[Any]:
    """Pass on what workers send, and raise a clear error if one ends with batches on their way.

    Raises:
        RuntimeError: If a worker has ended, as torch raises it where no batch is on its way.
    """
    has_begun = False
    try:
        for slot in slots:
            has_begun = True
            yield slot
    except RuntimeError as error:
        if not has_begun and any(map(could_not_begin, slots._workers)):
            error.add_note(UNGUARDED)
        raise
    except (OSError, EOFError) as error:
        # The error may be one of the user's functions, sent by a worker.
        by_sentinel = {worker.sentinel: worker for worker in slots._workers}
        ended = wait(list(by_sentinel), timeout=ENDING_S)
        if not ended:
            raise
        pids = ", ".join(str(by_sentinel[sentinel].pid) for sentinel in ended)
        message = f"DataLoader worker (pid(s) {pids}) exited unexpectedly: {error!r} while a batch was taken"
        raise RuntimeError(message) from error


def could_not_begin(worker: Any) -> bool:
    """Return whether a worker ended as one does that cannot import the main module."""
    method = worker._start_method or multiprocessing.get_start_method()
    return worker.exitcode == 1 and imports_main(method)


class WorkerDataset(IterableDataset[Any]):
    """What a worker iterates: its batches, and a ``SkippedBatch`` for each that was left out.

    Args:
        loader: The loader of the trainer.
        start: Where to begin.
        signal: Shared memory in which the trainer writes where persistent workers begin.
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
            # Batches made ahead here are counted when they are yielded.
            num_skipped = counts.batches_skipped
            yield from itertools.repeat(SkippedBatch(), num_skipped - num_reported)
            num_reported = num_skipped
            # The end of an epoch is no batch of it, and only lets skipped batches be sent.
            if not isinstance(batch, SkippedBatch):
                yield batch


class SkippedBatch:
    """A batch that was left out because a transform failed on all of its rows."""


class BatchCollate:
    """Calls a function with each batch; without one, gives it back."""

    def __init__(self, call: Callable[[Any], Any] | None) -> None:
        self._call = call

    def __call__(self, batch: Any) -> Any:
        if self._call is None or isinstance(batch, SkippedBatch):
            return batch
        return without_stop_iteration(self._call)(batch)


class LoaderSampler:
    """The sampler of torch's loader: asks for one batch after another.

    Attributes:
        loader: What makes the batches.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Serve another epoch."""
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


def loader_of(dataset: Any, options: dict[str, Any]) -> Loader:
    """Make a loader of a permutation, or take one.

    Raises:
        ValueError: If a loader is given, and options for one.
        TypeError: If it is neither.
    """
    if isinstance(dataset, Loader):
        for name, value in options.items():
            if name != "drop_last" or value != dataset.drop_last:
                refuse(name, value)
        return dataset
    make = getattr(dataset, "loader", None)
    if make is None:
        message = f"a dataset of type {type(dataset).__name__}: wanted a Loader or a Permutation"
        raise TypeError(message)
    loader: Loader = make(**options)
    return loader


def refuse(name: str, value: Any) -> None:
    """Say why an argument cannot be taken.

    Raises:
        ValueError: If it was given.
    """
    if value is None:
        return
    why = REFUSED.get(name, "wanted it where the loader is made")
    message = f"{name}={value!r}: {why}"
    raise ValueError(message)
