"""Batches as torch tensors, and how torch collates what the other formats give."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.dlpack import from_dlpack

from lanceloader.errors import FormatError
from lanceloader.formats._columns import (
    Collated,
    Library,
    Ragged,
    as_integers,
    check_nulls,
    convert,
    gather_runs,
    is_text,
)
from lanceloader.formats.python import LazyRows, Row
from lanceloader.values import bits_of, is_bfloat16, plain

if TYPE_CHECKING:
    from lanceloader._native import Batch
    from lanceloader._typing import Nulls, Transform

__all__ = ["columns", "matrix", "register", "row_matrix", "row_tensors", "rows"]


def is_versioned() -> bool:
    """Whether pyarrow gives, and torch takes, a DLPack capsule of version 1.

    Newer releases of pyarrow deprecate the older kind, which older ones of torch want.
    """
    try:
        from_dlpack(
            pa.Array.from_buffers(pa.int8(), 1, [None, pa.py_buffer(b"0")]).__dlpack__(
                max_version=(1, 0)
            )
        )
    except (TypeError, RuntimeError, ValueError):
        return False
    return True


IS_VERSIONED = is_versioned()

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("bfloat16", "float16", "float32", "float64"),
    )
}


class TensorError(FormatError, pa.ArrowTypeError):  # type: ignore[misc]
    """A column that tensors cannot hold, where LanceDB lets pyarrow's error through."""


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Give a dict per row of 0-D tensors, views into their columns.

    Vectors are 1-D tensors; text and bytes stay Python objects.
    """
    sequences = {
        field.name: row_values(field, column)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }
    return [
        {name: values[at] for name, values in sequences.items()}
        for at in range(batch.num_rows)
    ]


def row_tensors(batch: pa.RecordBatch) -> list[torch.Tensor]:
    """Give a 1-D tensor per row, its columns promoted to one dtype. A copy."""
    if any(is_bfloat16(field) for field in batch.schema):
        return list(torch.stack(tensors_of(batch, "torch_row"), dim=1).unbind(dim=0))
    arrays = [plain(column).to_numpy(zero_copy_only=False) for column in batch.columns]
    for name, values in zip(batch.schema.names, arrays, strict=True):
        if values.dtype.kind not in "iufb":
            message = (
                f"column `{name}` of type {batch.schema.field(name).type}: torch_row holds "
                "numbers; leave it out, or use torch_dict"
            )
            raise FormatError(message)
    return list(torch.tensor(np.column_stack(arrays)).unbind(dim=0))


def matrix(batch: pa.RecordBatch) -> torch.Tensor:
    """Give one tensor of shape (columns, rows), its columns promoted to one dtype. A copy."""
    return torch.stack(tensors_of(batch, "torch_col"))


def row_matrix(batch: pa.RecordBatch) -> torch.Tensor:
    """Give one tensor of shape (rows, columns); all columns are numbers of one type."""
    kinds = {str(field.type): field.name for field in batch.schema}
    if len(kinds) > 1:
        found = ", ".join(f"{kind} (`{name}`)" for kind, name in kinds.items())
        message = f"torch_matrix holds columns of one type, not of {found}"
        raise FormatError(message)
    return matrix(batch).T.contiguous()


def matrix_from_native(batch: Batch) -> torch.Tensor:
    """Give what ``row_matrix`` gives, of a batch of vectors of the core."""
    _, runs, _ = batch.runs()
    if batch.num_rows == 0:
        rows = pa.record_batch(batch)
        return convert_column(rows.schema[0], rows.column(0))  # type: ignore[no-any-return]
    ((_, dtype, width, block),) = runs
    return torch.frombuffer(block, dtype=DTYPES[dtype]).view(-1, width)


def columns(
    batch: pa.RecordBatch, *, nulls: Nulls = "error", fill_value: Any = None
) -> dict[str, Any]:
    """Give a tensor per column; see ``Permutation.with_format`` for types and nulls."""
    check_nulls(nulls, fill_value)
    return convert(batch, LIBRARY, nulls=nulls, fill_value=fill_value)


def from_native(batch: Batch, *, transform: Transform) -> dict[str, Any]:
    """Give what ``columns`` gives, of a batch of the core."""
    return gather_runs(batch, transform, vectors)


def vectors(name: str, block: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """Give columns of one dtype that lie end to end, as views of one tensor."""
    del name
    whole = torch.frombuffer(block, dtype=DTYPES[dtype])
    if shape[0] == 1:
        return (whole if len(shape) == 2 else whole.view(shape[1:]),)
    return whole.view(shape).unbind(0)


def array(column: pa.Array) -> torch.Tensor:
    """Give an Arrow array without nulls as a tensor, without a copy but for booleans."""
    if pa.types.is_boolean(column.type):
        return torch.from_numpy(column.to_numpy(zero_copy_only=False))
    if pa.types.is_temporal(column.type):
        column = as_integers(column)
    if IS_VERSIONED:
        return from_dlpack(column.__dlpack__(max_version=(1, 0)))
    return from_dlpack(column)


def bfloat16(name: str, bits: torch.Tensor) -> torch.Tensor:
    """Return 16-bit integers as floats with these bits, without a copy."""
    del name
    return bits.view(torch.bfloat16)


LIBRARY = Library(array, bfloat16, torch.permute, "torch_dict")


def tensors_of(batch: pa.RecordBatch, format: str) -> list[torch.Tensor]:  # noqa: A002
    """Return each column as a 1-D tensor; see ``tensor_of``."""
    return [
        tensor_of(field, column, format)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]


def tensor_of(
    field: pa.Field,
    column: pa.Array,
    format: str,  # noqa: A002
) -> torch.Tensor:
    """Give a column of numbers or booleans as a 1-D tensor.

    Raises:
        TensorError: If it holds anything else, or nulls.
    """
    name, column = field.name, plain(column)
    kind = column.type
    if column.null_count:
        message = (
            f"Can only use DLPack on arrays with no nulls: column `{name}` has "
            f'{column.null_count} in {len(column)} rows; use torch_dict with nulls="mask" or '
            f'nulls="fill", or filter them out with {name} IS NOT NULL'
        )
        raise TensorError(message)
    if is_bfloat16(field):
        return bfloat16(name, array(bits_of(column)))
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
    ):
        message = (
            f"column `{name}` of type {field.type}: {format} holds numbers and booleans; leave it "
            "out, or use torch_dict"
        )
        raise TensorError(message)
    return array(column)


def row_values(field: pa.Field, column: pa.Array) -> Any:
    """Give a sequence of what each row has in a column."""
    values = plain(column)
    kind = values.type
    if is_text(kind) and not is_bfloat16(field):
        return values.to_pylist()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ragged = convert_column(field, column)
        if isinstance(ragged, Ragged):
            ends = ragged.offsets.tolist()
            return [
                ragged.values[start:stop] for start, stop in itertools.pairwise(ends)
            ]
    if pa.types.is_fixed_size_list(kind):
        return convert_column(field, column)
    return tensor_of(field, column, "torch")


def convert_column(field: pa.Field, column: pa.Array) -> Any:
    """Convert one column as ``torch_dict`` does."""
    batch = pa.RecordBatch.from_arrays([column], schema=pa.schema([field]))
    library = LIBRARY._replace(format="torch")
    return convert(batch, library, nulls="error", fill_value=None)[field.name]


def register() -> None:
    """Teach torch's default collate the batches that carry their columns."""
    default_collate_fn_map[Row] = collate_rows
    default_collate_fn_map[Collated] = collate_columns


def collate_rows(rows: Any, *, collate_fn_map: Any = None) -> Any:
    """Collate a batch column by column, with the result of collating its rows."""
    del collate_fn_map
    if not isinstance(rows, LazyRows) or rows.is_filled:
        # Somebody put the row into another list, or changed rows.
        return default_collate([dict(row) for row in rows])
    batch = rows.batch
    columns = zip(batch.schema, batch.columns, strict=True)
    if rows.make is globals()["rows"]:
        return {field.name: collate_tensors(field, column) for field, column in columns}
    return {field.name: collate_objects(column) for field, column in columns}


def collate_columns(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Hand over a batch that is a dict of columns already."""
    del collate_fn_map
    return dict(batch)


def collate_tensors(field: pa.Field, column: pa.Array) -> Any:
    """Give what collating the rows of the ``torch`` format gives for a column."""
    values = row_values(field, column)
    if isinstance(values, torch.Tensor) or is_text(plain(column).type):
        return values
    return default_collate(values)


def collate_objects(column: pa.Array) -> Any:
    """Give what collating Python objects gives for a column: 64-bit numbers and lists."""
    kind = column.type
    if column.null_count == 0 and len(column) > 0:
        if pa.types.is_boolean(kind):
            return array(column)
        if pa.types.is_signed_integer(kind) or (
            pa.types.is_unsigned_integer(kind) and kind != pa.uint64()
        ):
            return torch.from_numpy(column.to_numpy().astype(np.int64))
        if pa.types.is_floating(kind):
            return torch.from_numpy(column.to_numpy().astype(np.float64))
        if is_text(kind):
            return column.to_pylist()
        if pa.types.is_struct(kind):
            children = zip(kind, column.flatten(), strict=True)
            return {child.name: collate_objects(values) for child, values in children}
        if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
            size = kind.list_size
            values = column.values.slice(column.offset * size, len(column) * size)
            if values.null_count == 0:
                # One tensor per place of the vector: what collating lists of floats gives.
                places = values.to_numpy().reshape(len(column), size).T
                return list(torch.from_numpy(places.astype(np.float64, order="C")))
    return default_collate(column.to_pylist())
