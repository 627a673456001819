"""What workers of ``StreamingDataLoader`` send: collated batches, each with the progress of its worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import default_collate

from lanceloader.formats.decoding import is_images
from lanceloader.formats.python import LazyRows
from lanceloader.stages.concat import concat, library_of
from lanceloader.streaming.row_queue import is_arrow, is_columnar, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader.streaming.dataset import StreamingDataset


class _WorkerSample(NamedTuple):
    data: Any
    dataset: StreamingDataset


class _WorkerRows(NamedTuple):
    """The rows of a whole batch."""

    data: Any
    dataset: StreamingDataset


class _WorkerBatch(NamedTuple):
    data: Any
    state: dict[str, Any]


class _UnmadeRows(NamedTuple):
    """The rows of a whole batch, which the process of the trainer makes."""

    batch: pa.RecordBatch


class _CheckpointCollate:
    """Collates samples, and adds the progress of the worker."""

    _returns_rows = False
    """Whether the function returns the list that it is called with."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: Any) -> _WorkerBatch:
        if isinstance(samples, list) and not samples:
            return _WorkerBatch(self._collate([]), {})
        if isinstance(samples, list) and isinstance(samples[0], _WorkerRows):
            rows, dataset = samples[0]
            data = self._collate_rows(rows)
        elif isinstance(samples, list):
            data = self._collate([sample.data for sample in samples])
            dataset = samples[-1].dataset
        else:
            data = self._collate(samples.data)
            dataset = samples.dataset
        return _WorkerBatch(data, dataset._worker_snapshot())

    def _collate_rows(self, rows: Any) -> Any:
        """Collate lazy rows, or columns, whose rows need not be made for torch's function."""
        if self._collate_fn is default_collate:
            if isinstance(rows, list) and rows and all(map(is_arrow, rows)):
                rows = concat(rows)
            return collated(rows) if is_columnar(rows) else self._collate(rows)
        if not isinstance(rows, LazyRows) or any(map(is_images, rows.batch.schema)):
            return self._collate(
                list(rows) if isinstance(rows, list) else rows_of(rows)
            )
        # Rows travel as Arrow data if the function does not look at them.
        if self._collate_fn is list:
            return _UnmadeRows(rows.batch)
        made = rows if self._returns_rows else list(rows)
        data = self._collate(made)
        self._returns_rows = data is made
        if data is not rows:
            return data
        return list(rows) if rows.is_filled else _UnmadeRows(rows.batch)

    def _collate(self, data: Any) -> Any:
        try:
            return self._collate_fn(data)
        except StopIteration as error:
            # Raised by an iterator, it would end the loop.
            raise RuntimeError(
                "collate_fn raised StopIteration before returning a batch"
            ) from error


def collated(columns: Any) -> Any:
    """Return columns as collating their rows would."""
    if isinstance(columns, Mapping):
        return {name: collated(column) for name, column in columns.items()}
    if library_of(columns) == "numpy":
        if columns.dtype.kind not in "iufb" or not columns.dtype.isnative:
            return default_collate(rows_of(columns))
        columns = torch.from_numpy(
            columns if columns.flags.writeable else columns.copy()
        )
    if isinstance(columns, torch.Tensor):
        # A worker sends the whole storage of a view.
        is_whole = columns.untyped_storage().nbytes() == columns.nbytes
        return columns if is_whole else columns.clone()
    return columns
