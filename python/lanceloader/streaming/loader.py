"""``StreamingDataLoader``: torch's loader, with states of what the trainer got.

Workers read ahead, so how far they are says nothing of the trainer. Each batch carries how
far its worker was when it was made, and the dataset takes that over when the batch is handed
over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset

from lanceloader.streaming.dataset import StreamingDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _WorkerSample(NamedTuple):
    data: Any
    dataset: StreamingDataset


class _WorkerBatch(NamedTuple):
    data: Any
    state: dict[str, Any]


class _CheckpointCollate:
    """Collates samples, and adds how far the worker is."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: Any) -> _WorkerBatch:
        if isinstance(samples, list) and not samples:
            return _WorkerBatch(self._collate([]), {})
        if isinstance(samples, list):
            data = self._collate([sample.data for sample in samples])
            dataset = samples[-1].dataset
        else:
            data = self._collate(samples.data)
            dataset = samples.dataset
        return _WorkerBatch(data, dataset._worker_snapshot())

    def _collate(self, data: Any) -> Any:
        try:
            return self._collate_fn(data)
        except StopIteration as error:
            # Out of an iterator it would mean the end.
            raise RuntimeError(
                "collate_fn raised StopIteration before returning a batch"
            ) from error


class _StreamingDatasetAdapter(IterableDataset[Any]):
    """What torch's loader iterates: the dataset, with each row in a private wrapper."""

    def __init__(self, dataset: StreamingDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def __iter__(self) -> Iterator[_WorkerSample]:
        for row in self.dataset._iter(consumer_checkpoint_transport=True):
            yield _WorkerSample(row, self.dataset)

    def __getattr__(self, name: str) -> Any:
        dataset = self.__dict__.get("dataset")
        if dataset is None:
            raise AttributeError(name)
        return getattr(dataset, name)


class _ConsumerCommitIterator:
    """Hands batches over, and takes over how far their workers were."""

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
            self._lose(error)
            raise
        try:
            if not isinstance(batch, _WorkerBatch):
                message = (
                    f"StreamingDataLoader got a {type(batch).__name__} of a worker: wanted a "
                    "batch with its state"
                )
                raise RuntimeError(message)
            self._dataset._commit_worker_state(
                batch.state, require_uniform=self._require_uniform
            )
        except BaseException as error:
            self._lose(error)
            raise
        return batch.data

    def _lose(self, error: BaseException) -> None:
        self._dataset._invalidate_checkpoint(
            f"a DataLoader batch failed before it was returned: {error}"
        )

    def _release(self) -> None:
        if not self.__dict__.get("_released", True):
            self._released = True
            self._dataset._release_consumer_iterator(self._owner_token)

    def _shutdown_workers(self) -> None:
        """Close what reads, in workers or here, and give the dataset back."""
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
            # There is nobody to tell; the states are invalid from here on.
            return

    def __getattr__(self, name: str) -> Any:
        if name == "_iterator":
            raise AttributeError(name)
        return getattr(self._iterator, name)


def close_iterator(iterator: Any) -> None:
    """Close an iterator of torch's loader.

    Raises:
        RuntimeError: If it cannot be closed.
    """
    shutdown = getattr(iterator, "_shutdown_workers", None)
    if shutdown is None:
        # Without workers it reads here.
        fetcher = getattr(iterator, "_dataset_fetcher", None)
        shutdown = getattr(getattr(fetcher, "dataset_iter", None), "close", None)
    if shutdown is None:
        raise RuntimeError("StreamingDataLoader could not close its inner iterator")
    shutdown()


class StreamingDataLoader(DataLoader[Any]):
    """A ``DataLoader`` over a ``StreamingDataset`` whose states are of what the trainer got.

    Gives the batches that ``DataLoader`` would. ``dataset.state_dict()`` says which rows were
    handed over, whatever workers have read ahead. With several workers it can be made only
    where each has handed over as many batches. A collate function that raises loses its
    batch, so states are refused from then on.

    One iterator at a time may read a dataset; exhausting it, deleting it or its
    ``_shutdown_workers()`` gives the dataset back.

    Example:
        >>> from lanceloader.streaming import StreamingDataLoader, StreamingDataset
        >>> dataset = StreamingDataset(table, num_splits=2, shuffle=False)
        >>> loader = StreamingDataLoader(dataset, batch_size=4)
        >>> next(iter(loader))
        {'x': tensor([0, 5, 1, 6])}
        >>> dataset.state_dict()["samples_consumed_per_split"]
        [2, 2]
    """

    def __init__(self, dataset: StreamingDataset, *args: Any, **kwargs: Any) -> None:
        """Take what ``DataLoader`` takes.

        Args:
            dataset: The dataset.
            *args: As for ``DataLoader``.
            **kwargs: As for ``DataLoader``, without ``in_order=False``,
                ``persistent_workers=True`` and ``drop_last=True``.

        Raises:
            TypeError: If ``dataset`` is no ``StreamingDataset``, or iterates in its own way.
            ValueError: If an argument would make states wrong.
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
                "override __iter__: their rows have no exact state"
            )
        if kwargs.get("in_order", True) is False:
            raise ValueError(
                "StreamingDataLoader requires in_order=True: states are of batches in order"
            )
        if kwargs.get("persistent_workers", False):
            raise ValueError(
                "StreamingDataLoader does not support persistent_workers=True: workers that "
                "stay do not see how far the trainer got"
            )
        self._streaming_dataset = dataset
        super().__init__(_StreamingDatasetAdapter(dataset), *args, **kwargs)
        if self.drop_last:
            raise ValueError(
                "StreamingDataLoader does not support drop_last=True: what each worker would "
                "drop depends on how many there are"
            )
        self.collate_fn = _CheckpointCollate(self.collate_fn)

    def __iter__(self) -> Any:
        """Reserve the dataset and start reading it.

        Raises:
            RuntimeError: If it is being read, or stands where workers cannot start.
        """
        dataset = self._streaming_dataset
        before = dataset._consumer_iterator_lease
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
