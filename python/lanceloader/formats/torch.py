"""Batches as torch tensors, and the collate functions for the batches of other formats."""

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
from lanceloader.formats._columns import Collated, check_nulls, gather_runs
from lanceloader.formats._convert import Library, convert
from lanceloader.formats._types import as_integers, is_text
from lanceloader.formats.decoding import is_images
from lanceloader.formats.python import LazyRows, Row
from lanceloader.formats.ragged import Ragged
from lanceloader.values import bits_of, is_bfloat16, plain

if TYPE_CHECKING:
    from lanceloader._native import Batch
    from lanceloader._typing import Nulls, Transform

__all__ = ["columns", "matrix", "register", "row_matrix", "row_tensors", "rows"]


def is_versioned() -> bool:
    """Return whether pyarrow exports, and torch imports, DLPack capsules of version 1.

    Newer releases of pyarrow deprecate unversioned capsules; older releases of torch accept
    nothing else.
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
        *("bfloat16", "float16", "float32", "float64", "bool"),
    )
}


class TensorError(FormatError, pa.ArrowTypeError):  # type: ignore[misc]
    """A column that a tensor cannot hold.

    Also a ``pyarrow.ArrowTypeError``, which LanceDB's transforms raise.
    """


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return a list with one dict per row.

    Numbers are 0-D tensors and lists of numbers 1-D tensors, all views of their columns. Text
    and bytes are Python objects.

    Raises:
        FormatError: If a column has nulls or a type that tensors cannot hold.
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
    """Return a list with one 1-D tensor per row.

    The columns are copied and promoted to their common dtype.

    Raises:
        FormatError: If a column does not hold numbers or booleans.
    """
    if any(is_bfloat16(field) for field in batch.schema):
        return list(torch.stack(tensors_of(batch, "torch_row"), dim=1).unbind(dim=0))
    arrays = [plain(column).to_numpy(zero_copy_only=False) for column in batch.columns]
    for name, values in zip(batch.schema.names, arrays, strict=True):
        if values.dtype.kind not in "iufb":
            message = (
                f"column `{name}` of type {batch.schema.field(name).type} cannot be converted: "
                '"torch_row" holds only numbers; drop the column, or use "torch_dict"'
            )
            raise FormatError(message)
    return list(torch.tensor(np.column_stack(arrays)).unbind(dim=0))


def matrix(batch: pa.RecordBatch) -> torch.Tensor:
    """Return a tensor of shape (columns, rows).

    The columns are copied and promoted to their common dtype.

    Raises:
        FormatError: If a column does not hold numbers or booleans, or has nulls.
    """
    return torch.stack(tensors_of(batch, "torch_col"))


def row_matrix(batch: pa.RecordBatch) -> torch.Tensor:
    """Return a contiguous tensor of shape (rows, columns).

    Raises:
        FormatError: If the columns do not all hold numbers of one type, or if they have nulls.
    """
    kinds = {str(field.type): field.name for field in batch.schema}
    if len(kinds) > 1:
        found = ", ".join(f"{kind} (`{name}`)" for kind, name in kinds.items())
        message = (
            f'"torch_matrix" needs columns of one type, got {found}; select or cast columns, or '
            'use "torch_dict"'
        )
        raise FormatError(message)
    return matrix(batch).T.contiguous()


def matrix_from_native(batch: Batch) -> torch.Tensor:
    """Convert a batch of the core, with one row-major column, to a tensor like ``row_matrix``."""
    _, runs, _ = batch.runs()
    if batch.num_rows == 0:
        rows = pa.record_batch(batch)
        return convert_column(rows.schema[0], rows.column(0))  # type: ignore[no-any-return]
    ((_, dtype, shape, block),) = runs
    return torch.frombuffer(block, dtype=DTYPES[dtype]).view(-1, *shape)


def columns(
    batch: pa.RecordBatch,
    *,
    nulls: Nulls = "error",
    fill_value: Any = None,
    pad: Any = None,
) -> dict[str, Any]:
    """Return a dict of one tensor per column; see ``Permutation.with_format``."""
    check_nulls(nulls, fill_value)
    return convert(batch, LIBRARY, nulls=nulls, fill_value=fill_value, pad=pad)


def from_native(batch: Batch, *, transform: Transform) -> dict[str, Any]:
    """Convert a batch of the core to a dict of one tensor per column, like ``columns``."""
    return gather_runs(batch, transform, vectors)


def vectors(name: str, block: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """Return adjacent columns of one dtype as views of one tensor.

    Args:
        name: Unused.
        block: The buffer of all columns.
        dtype: The dtype of all columns.
        shape: Columns, rows and, for fixed-size lists, the sizes of the lists.
    """
    del name
    whole = torch.frombuffer(block, dtype=DTYPES[dtype])
    if shape[0] == 1:
        return (whole if len(shape) == 2 else whole.view(shape[1:]),)
    return whole.view(shape).unbind(0)


def array(column: pa.Array) -> torch.Tensor:
    """Convert an Arrow array without nulls. Only booleans are copied."""
    if pa.types.is_boolean(column.type):
        return torch.from_numpy(column.to_numpy(zero_copy_only=False))
    if pa.types.is_temporal(column.type):
        column = as_integers(column)
    if IS_VERSIONED:
        return from_dlpack(column.__dlpack__(max_version=(1, 0)))
    return from_dlpack(column)


def bfloat16(name: str, bits: torch.Tensor) -> torch.Tensor:
    """Reinterpret 16-bit integers as bfloat16, without a copy."""
    del name
    return bits.view(torch.bfloat16)


LIBRARY = Library(array, array, bfloat16, torch.permute, "torch_dict")


def tensors_of(batch: pa.RecordBatch, format: str) -> list[torch.Tensor]:  # noqa: A002
    """Return a list with one 1-D tensor per column; see ``tensor_of``."""
    return [
        tensor_of(field, column, format)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]


def tensor_of(
    field: pa.Field,
    column: pa.Array,
    format: str,  # noqa: A002
) -> torch.Tensor:
    """Return a column of numbers or booleans as a 1-D tensor.

    Args:
        field: The field of the column.
        column: The values.
        format: The name of the format, for error messages.

    Raises:
        TensorError: If the column has another type, or nulls.
    """
    name, column = field.name, plain(column)
    kind = column.type
    if column.null_count:
        message = (
            f"Can only use DLPack on arrays with no nulls: column `{name}` has "
            f'{column.null_count} in {len(column)} rows; use "torch_dict" with `nulls="mask"` or '
            f'`nulls="fill"`, or filter the rows with "{name} IS NOT NULL"'
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
            f'column `{name}` of type {field.type} cannot be converted: "{format}" holds only '
            'numbers and booleans; drop the column, or use "torch_dict"'
        )
        raise TensorError(message)
    return array(column)


def row_values(field: pa.Field, column: pa.Array) -> Any:
    """Return a sequence with the value of each row of a column."""
    if is_images(field):
        return convert_column(field, column)
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
    """Convert one column as ``"torch_dict"`` does."""
    batch = pa.RecordBatch.from_arrays([column], schema=pa.schema([field]))
    library = LIBRARY._replace(format="torch")
    return convert(batch, library, nulls="error", fill_value=None)[field.name]


def register() -> None:
    """Register collate functions for ``LazyRows`` and ``Columns`` with torch's default collate."""
    default_collate_fn_map[Row] = collate_rows
    default_collate_fn_map[Collated] = collate_columns


def collate_rows(rows: Any, *, collate_fn_map: Any = None) -> Any:
    """Collate ``LazyRows`` by columns, with the same result as collating the rows."""
    del collate_fn_map
    if not isinstance(rows, LazyRows) or rows.is_filled:
        # The row was moved to another list, or rows were changed.
        return default_collate([dict(row) for row in rows])
    batch = rows.batch
    columns = zip(batch.schema, batch.columns, strict=True)
    if rows.make is globals()["rows"]:
        return {field.name: collate_tensors(field, column) for field, column in columns}
    return {field.name: collate_objects(column) for field, column in columns}


def collate_columns(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Return a ``Columns`` batch as a plain dict, uncollated."""
    del collate_fn_map
    return dict(batch)


def collate_tensors(field: pa.Field, column: pa.Array) -> Any:
    """Collate one column, with the same result as collating the rows of format ``"torch"``."""
    values = row_values(field, column)
    if isinstance(values, torch.Tensor) or is_text(plain(column).type):
        return values
    return default_collate(values)


def collate_objects(column: pa.Array) -> Any:
    """Collate one column, with the same result as collating rows of Python objects.

    Numbers become 64-bit tensors; text stays a list.
    """
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
                # Collating lists of floats transposes them: one tensor per list index.
                items = values.to_numpy().reshape(len(column), size).T
                return list(torch.from_numpy(items.astype(np.float64, order="C")))
    return default_collate(column.to_pylist())
