"""``StreamingDataLoader``: torch's loader, with states of the batches that the trainer received.

Workers read ahead, so their progress is not that of the trainer. Each batch carries the progress
of its worker at that batch, and the dataset takes it over when the batch is yielded.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from lanceloader.formats.python import rows as made_of
from lanceloader.formats.torch import register
from lanceloader.streaming.collating import (
    _CheckpointCollate,
    _UnmadeRows,
    _WorkerBatch,
    _WorkerRows,
    _WorkerSample,
)
from lanceloader.streaming.dataset import StreamingDataset
from lanceloader.streaming.replaceable import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


class _StreamingDatasetAdapter(IterableDataset[Any]):
    """The dataset as torch's loader sees it, with rows or batches in a private wrapper."""

    batch_size: int | None = None
    """The number of rows of a batch; ``None`` for single rows."""

    def __init__(self, dataset: StreamingDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def __iter__(self) -> Iterator[_WorkerSample | _WorkerRows]:
        register()
        wrapper = _WorkerSample if self.batch_size is None else _WorkerRows
        found = self.dataset._iter(
            consumer_checkpoint_transport=True, batch_size=self.batch_size
        )
        try:
            # `map` keeps no batch while the next one is made.
            yield from map(wrapper, found, repeat(self.dataset))
        finally:
            found.close()

    def __getattr__(self, name: str) -> Any:
        dataset = self.__dict__.get("dataset")
        if dataset is None:
            raise AttributeError(name)
        return getattr(dataset, name)


class _OneIndex:
    """Batches of one index, without end."""

    def __iter__(self) -> Iterator[list[None]]:
        return repeat([None])


class _ConsumerCommitIterator:
    """Yields batches, and takes over the progress that they carry."""

    def __init__(
        self,
        iterator: Any,
        dataset: StreamingDataset,
        *,
        owner_token: int,
        require_uniform: bool,
    ) -> None:
        self._iterator = iterator
        self._dataset = dataset
        self._owner_token = owner_token
        self._require_uniform = require_uniform
        self._released = False
        self._terminal = False

    def __iter__(self) -> _ConsumerCommitIterator:
        return self

    def __next__(self) -> Any:
        if self._terminal:
            raise StopIteration
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._terminal = True
            self._release()
            raise
        except BaseException as error:
            self._record_loss(error)
            raise
        try:
            if not isinstance(batch, _WorkerBatch):
                message = (
                    f"StreamingDataLoader received a {type(batch).__name__} without the state "
                    "of its worker. Do not replace collate_fn after the loader was made"
                )
                raise RuntimeError(message)
            data = self._made(batch.data)
            self._dataset._commit_worker_state(
                batch.state, require_uniform=self._require_uniform
            )
        except BaseException as error:
            self._record_loss(error)
            raise
        return data

    def _made(self, data: Any) -> Any:
        if not isinstance(data, _UnmadeRows):
            return data
        began = namespace.time.perf_counter()
        made = made_of(data.batch)
        seconds = namespace.time.perf_counter() - began
        self._dataset._counters.add_transform_time(seconds)
        return made

    def _record_loss(self, error: BaseException) -> None:
        self._dataset._invalidate_checkpoint(
            f"a DataLoader batch failed before it was returned: {error}"
        )

    def _release(self) -> None:
        if not self.__dict__.get("_released", True):
            self._released = True
            self._dataset._release_consumer_iterator(self._owner_token)

    def _shutdown_workers(self) -> None:
        """Close the inner iterator, and release the dataset."""
        if self.__dict__.get("_released", True):
            return
        self._terminal = True
        try:
            close_iterator(self._iterator)
        except BaseException as error:
            self._dataset._invalidate_checkpoint(
                f"a DataLoader iterator could not be shut down safely: {error}"
            )
            raise
        self._release()

    def __del__(self) -> None:
        try:
            self._shutdown_workers()
        except BaseException:
            # Nothing can be raised here; states are invalid from now on.
            return

    def __getattr__(self, name: str) -> Any:
        if name == "_iterator":
            raise AttributeError(name)
        return getattr(self._iterator, name)


def close_iterator(iterator: Any) -> None:
    """Close an iterator of torch's loader.

    Raises:
        RuntimeError: If it has no known way to be closed.
    """
    shutdown = getattr(iterator, "_shutdown_workers", None)
    if shutdown is None:
        # Without workers it reads in this process.
        fetcher = getattr(iterator, "_dataset_fetcher", None)
        shutdown = getattr(getattr(fetcher, "dataset_iter", None), "close", None)
    if shutdown is None:
        message = (
            f"StreamingDataLoader could not close its inner iterator, a "
            f"{type(iterator).__name__}, which has neither workers nor a closable dataset"
        )
        raise RuntimeError(message)
    shutdown()


class StreamingDataLoader(DataLoader[Any]):
    """A ``DataLoader`` for a ``StreamingDataset``, with exact states.

    The batches are those of ``DataLoader``. ``dataset.state_dict()`` records the rows that the
    trainer received, no matter how far workers have read ahead. With several workers, a state
    can be made only after each of them has yielded equally many batches. If a collate function
    raises, its batch is lost and states are refused from then on.

    Only one iterator may read a dataset at a time. It releases the dataset when it is exhausted
    or deleted, or when its ``_shutdown_workers()`` is called.

    Example:
        >>> from lanceloader.streaming import StreamingDataLoader, StreamingDataset
        >>> dataset = StreamingDataset(table, num_splits=2, shuffle=False)
        >>> loader = StreamingDataLoader(dataset, batch_size=4)
        >>> next(iter(loader))
        {'x': tensor([0, 5, 1, 6])}
        >>> dataset.state_dict()["samples_consumed_per_split"]
        [2, 2]
    """

    # Accelerate must not divide the batches among ranks again.
    _is_accelerate_prepared = True

    def __init__(self, dataset: StreamingDataset, *args: Any, **kwargs: Any) -> None:
        """Create the loader with the arguments of ``DataLoader``.

        Args:
            dataset: The dataset.
            *args: As for ``DataLoader``.
            **kwargs: As for ``DataLoader``. ``in_order=False``, ``persistent_workers=True`` and
                ``drop_last=True`` are not supported.

        Raises:
            TypeError: If ``dataset`` is not a ``StreamingDataset``, or overrides ``__iter__``.
            ValueError: If an argument would make states inexact.
        """
        if not isinstance(dataset, StreamingDataset):
            message = (
                f"StreamingDataLoader requires a StreamingDataset, not a "
                f"{type(dataset).__name__}"
            )
            raise TypeError(message)
        if type(dataset).__iter__ is not StreamingDataset.__iter__:
            raise TypeError(
                "StreamingDataLoader does not support StreamingDataset subclasses that "
                "override __iter__, because their rows have no exact state. Pass `transform` to "
                "the dataset to change rows"
            )
        if kwargs.get("in_order", True) is False:
            raise ValueError(
                "StreamingDataLoader requires in_order=True, because states count batches in order"
            )
        if kwargs.get("persistent_workers", False):
            raise ValueError(
                "StreamingDataLoader does not support persistent_workers=True, because persistent "
                "workers do not see the progress of the trainer"
            )
        self._streaming_dataset = dataset
        adapter = _StreamingDatasetAdapter(dataset)
        super().__init__(adapter, *args, **kwargs)
        adapter.batch_size = self.batch_size
        if self.drop_last:
            raise ValueError(
                "StreamingDataLoader does not support drop_last=True, because the dropped rows "
                "would depend on the number of workers. Leave short batches out in the training "
                "loop instead"
            )
        self.collate_fn = _CheckpointCollate(self.collate_fn)

    @property
    def _index_sampler(self) -> Any:
        """What torch asks for with each batch: one index, as the adapter yields whole batches."""
        return _OneIndex() if self._auto_collation else super()._index_sampler

    def __iter__(self) -> Any:
        """Acquire the dataset and start reading it.

        Raises:
            RuntimeError: If another iterator is live, or the dataset is in the middle of a step
                and workers cannot start.
        """
        dataset = self._streaming_dataset
        before = dataset._iterator_lock.lease
        token = None
        try:
            token = dataset._acquire_consumer_iterator()
            dataset._prepare_workers(self.num_workers)
            is_packed = dataset._pack_sequences is not None
            return _ConsumerCommitIterator(
                super().__iter__(),
                dataset,
                owner_token=token,
                require_uniform=self.num_workers > 1 or is_packed,
            )
        except BaseException:
            if token is None:
                dataset._release_consumer_iterator_after_failed_acquire(before)
            else:
                dataset._release_consumer_iterator(token)
            raise
