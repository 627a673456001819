"""Batches as the tensors that pylance's ``LanceDataset`` makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import torch

from lanceloader.formats._columns import gather_runs
from lanceloader.formats._types import has_bfloat16
from lanceloader.formats.torch import array, vectors
from lanceloader.values import bits_of, is_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._native import Batch

__all__ = ["ToTensorFn", "converter_of", "to_tensor"]

Tensors = torch.Tensor | dict[str, torch.Tensor]


class ToTensorFn(Protocol):
    """A function from a batch to tensors, or to anything else."""

    def __call__(
        self,
        batch: Any,
        *,
        hf_converter: Any = None,
        use_blob_api: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Convert a batch.

        Args:
            batch: A ``pyarrow.RecordBatch``; or a dict of Arrow arrays if some columns are blobs,
                whose values are lists of ``lance.BlobFile``.
            hf_converter: pylance's converter for tables written from Hugging Face datasets.
            use_blob_api: Whether some columns are blobs.
            kwargs: Further arguments.
        """


def to_tensor(
    batch: pa.RecordBatch | Mapping[str, Any],
    *,
    uint64_as_int64: bool = True,
    hf_converter: Any = None,
    use_blob_api: bool = False,
    **kwargs: Any,
) -> Tensors:
    """Convert a batch to a dict of one tensor per column, or to one tensor if there is one column.

    Numbers with nulls become floats with NaN, and fixed-size lists and tensors of a fixed shape
    tensors of shape (rows, size). This is what ``LanceDataset`` does without a ``to_tensor_fn``.

    Args:
        batch: A ``pyarrow.RecordBatch``, or a dict of Arrow arrays.
        uint64_as_int64: Whether uint64 becomes int64.
        hf_converter: What converts other columns, if the table has metadata of Hugging Face.
        use_blob_api: Whether some columns are lists of ``lance.BlobFile``.
        kwargs: Unused, as in pylance.

    Raises:
        ValueError: If a tensor cannot hold a column.
        NotImplementedError: If a column has blobs.

    Example:
        >>> import pyarrow as pa
        >>> from lanceloader.compat.lance_torch import to_tensor
        >>> to_tensor(pa.record_batch({"x": [1, None]}))
        tensor([1., nan], dtype=torch.float64)
    """
    del kwargs
    if isinstance(batch, Mapping):
        columns = dict(batch)
        fields = {name: getattr(values, "type", None) for name, values in columns.items()}  # fmt: skip
        schema = {
            name: pa.field(name, kind) for name, kind in fields.items() if kind is not None
        }  # fmt: skip
    else:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        schema = {field.name: field for field in batch.schema}
    found = {}
    for name, column in columns.items():
        if use_blob_api and name not in schema:
            message = (
                f"column `{name}` has blobs, which are not tensors: pass a `to_tensor_fn` that reads "
                "its `lance.BlobFile`s, or select other `columns`"
            )
            raise NotImplementedError(message)
        found[name] = tensor_of(schema[name], column, hf_converter)
    return alone(found, uint64_as_int64=uint64_as_int64)


def converter_of(hf_converter: Any) -> Callable[[Batch], Tensors]:
    """Return a function from a batch of the core to what ``to_tensor`` makes of it.

    Columns of numbers without nulls are views of one buffer.
    """

    def others(batch: pa.RecordBatch) -> dict[str, torch.Tensor]:
        return {
            field.name: tensor_of(field, column, hf_converter)
            for field, column in zip(batch.schema, batch.columns, strict=True)
        }

    def convert(batch: Batch) -> Tensors:
        return alone(dict(gather_runs(batch, others, vectors)), uint64_as_int64=True)

    return convert


def alone(columns: dict[str, torch.Tensor], *, uint64_as_int64: bool) -> Tensors:
    """Return columns, or the only one of them."""
    if uint64_as_int64:
        for name, values in columns.items():
            if values.dtype == torch.uint64:
                columns[name] = values.view(torch.int64)
    if len(columns) == 1:
        (only,) = columns.values()
        return only
    return columns


def tensor_of(field: pa.Field, column: pa.Array, hf_converter: Any) -> torch.Tensor:
    """Convert a column."""
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType) and is_number(kind.value_type):
        column, kind = column.storage, kind.storage_type
    if is_bfloat16(field):
        return bfloat16_of(column)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        values = column.values.slice(column.offset * size, len(column) * size)
        if is_number(kind.value_type):
            return numbers_of(values).view(-1, size)
        if has_bfloat16(field):
            return bfloat16_of(values).view(-1, size)
    elif is_number(kind) or pa.types.is_boolean(kind):
        return numbers_of(column)
    if hf_converter is not None:
        found: torch.Tensor | None = hf_converter.to_pytorch(field.name, column)
        if found is not None:
            return found
    message = (
        f"column `{field.name}` of type {field.type} cannot become a tensor, only numbers, booleans "
        "and fixed-size lists of numbers can: select other `columns`, or pass a `to_tensor_fn`"
    )
    raise ValueError(message)


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is of whole numbers or of floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def numbers_of(values: pa.Array) -> torch.Tensor:
    """Convert numbers or booleans. Numbers with nulls become floats with NaN.

    Raises:
        ValueError: If booleans have nulls.
    """
    if not values.null_count:
        return array(values)
    if pa.types.is_boolean(values.type):
        raise ValueError(
            "booleans with nulls cannot become a tensor: filter the nulls, or pass a "
            "`to_tensor_fn`"
        )
    return torch.from_numpy(values.to_numpy(zero_copy_only=False))


def bfloat16_of(column: pa.Array) -> torch.Tensor:
    """Convert bfloat16, in which NaN stands for null."""
    bits = bits_of(column)
    has_nulls = bits.null_count > 0
    values = array(bits.fill_null(0) if has_nulls else bits).view(torch.bfloat16)
    if has_nulls:
        values = values.clone()
        values[array(bits.is_null())] = float("nan")
    return values
