"""``lanceloader.torch.DataLoader``: torch's loader with an exact state, with workers too.

Batches are made as by ``Loader``, in worker processes (``workers/``) or in this one. The cursor advances
in this process when a batch is yielded. Persistent workers read the start of an iteration from shared memory.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data.dataloader import _DatasetKind

from lanceloader.choices import check_function
from lanceloader.loader.checkpoint import Checkpoint, halves_of
from lanceloader.loader.iterator import LoaderIterator
from lanceloader.loader.loader import Loader, register_as_dataset
from lanceloader.loader.signature import with_options_shown
from lanceloader.monitor.markup import paragraph
from lanceloader.numbers import count
from lanceloader.transport.groups import MOST_BATCHES
from lanceloader.workers.batches import BatchCollate, WorkerDataset, unchanged
from lanceloader.workers.group_iterator import GroupsIterator
from lanceloader.workers.receiving import received, received_of_steps
from lanceloader.workers.starting import WorkersIterator, started
from lanceloader.workers.steps import StepDataset, Steps, StepSampler

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch.utils.data import Dataset

    from lanceloader._permutation import Permutation
    from lanceloader.loader.iteration import Iteration
    from lanceloader.monitor.stats import Stats

__all__ = ["DataLoader"]

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
            prefetch_factor: As in torch. By default small batches that are ready together count as one.
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
        # Who limits the batches made ahead gets messages of one batch.
        self._most_batches = MOST_BATCHES if prefetch_factor is None else 1
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
        if self.dataset.units.is_drawn:
            batches = self._batches_of_steps(iteration)
        else:
            batches = received(self.dataset, iteration, self._start_workers)
        return LoaderIterator(batches, iteration.metrics)

    def _batches_of_steps(self, iteration: Iteration) -> Iterator[Any]:
        """Start workers that are sent the positions of each batch, and yield their batches."""
        steps = self._steps.steps = Steps(iteration)
        yield from received_of_steps(iteration, steps, super().__iter__())

    def _start_workers(self, start: Checkpoint) -> Iterator[Any]:
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
            return started(for_workers, WorkersIterator)
        collate: Any = self.collate_fn
        dataset = WorkerDataset(
            self.dataset, self._start, self._signal, collate, self._most_batches
        )
        for_workers.__dict__.update(dataset=dataset, collate_fn=unchanged)
        return started(for_workers, GroupsIterator)


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
