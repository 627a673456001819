"""``collate_as``: formats for the batches of LanceDB's own tables."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader.engine import SYSTEM
from lanceloader.formats import is_torch, transform_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import Format, Nulls

__all__ = ["collate_as", "collate_batch"]


def collate_as(
    format: Format,  # noqa: A002
    *,
    nulls: Nulls | None = None,
    fill_value: Any = None,
) -> Callable[[Any], Any]:
    """Return a ``collate_fn`` that converts the batches of a LanceDB table to a format.

    Args:
        format: As for ``Permutation.with_format``.
        nulls: As for ``Permutation.with_format``.
        fill_value: As for ``Permutation.with_format``.

    Returns:
        A function of a ``pyarrow.Table`` or ``RecordBatch``. It can be pickled.

    Raises:
        ValueError: If the format does not exist, or does not take these options.

    Example:
        >>> import lanceloader.torch
        >>> from torch.utils.data import DataLoader
        >>> collate = lanceloader.torch.collate_as("torch_dict")
        >>> next(iter(DataLoader(table, batch_size=3, collate_fn=collate)))
        {'x': tensor([0, 1, 2])}
    """
    options = {"nulls": nulls, "fill_value": fill_value}
    given = {name: value for name, value in options.items() if value is not None}
    return functools.partial(collate_batch, transform_of(format, **given))


def collate_batch(transform: Callable[[Any], Any], batch: Any) -> Any:
    """Convert a ``pyarrow.Table`` or ``RecordBatch`` with the transform of a format."""
    batch = one_batch(batch) if isinstance(batch, pa.Table) else batch
    return transform(with_signed_rows(batch) if is_torch(transform) else batch)


def with_signed_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Cast system columns to int64, since torch has few operations for uint64."""
    for at, column in enumerate(batch.schema):
        if column.name in SYSTEM and column.type == pa.uint64():
            signed = batch.column(at).view(pa.int64())
            batch = batch.set_column(at, column.with_type(pa.int64()), signed)
    return batch


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """Return a table as one batch.

    Raises:
        ValueError: If a column is too large for one batch.
    """
    batches = table.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    if batches:
        message = (
            f"a column of a batch of {table.num_rows} rows is larger than 2 GiB; pass a smaller "
            "`batch_size`"
        )
        raise ValueError(message)
    arrays = [pa.array([], field.type) for field in table.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
