"""Values of columns, independent of their storage, and their equality.

Values are equal if SQL's ``GROUP BY`` treats them as equal: 0.0 equals -0.0, all NaN are equal,
and all nulls are equal. Hashes, groups, strata, splits and classes all use this equality.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any, TypeVar

from lanceloader.errors import FormatError
from lanceloader.numbers import numpy_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    _Data = TypeVar("_Data", pa.RecordBatch, pa.Table)

__all__ = [
    "as_bfloat16",
    "as_storable",
    "bits_of",
    "by_value",
    "canonical",
    "is_bfloat16",
    "listed",
    "plain",
    "storable",
]


def is_bfloat16(field: pa.Field) -> bool:
    """Return whether a field has Lance's extension type bfloat16, stored as two bytes.

    pyarrow knows the extension type only after pylance is imported; before, only the field's
    metadata names it.
    """
    import pyarrow as pa

    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        return bool(kind.extension_name == "lance.bfloat16")
    name = (field.metadata or {}).get(b"ARROW:extension:name")
    is_two_bytes = pa.types.is_fixed_size_binary(kind) and kind.byte_width == 2
    return bool(is_two_bytes and name == b"lance.bfloat16")


def bits_of(column: pa.Array) -> pa.Array:
    """Return a bfloat16 column as int16 with the same bits, without a copy."""
    import pyarrow as pa

    column = plain(column)
    if pa.types.is_int16(column.type):
        return column
    return pa.Array.from_buffers(
        pa.int16(), len(column), column.buffers(), offset=column.offset
    )


def as_bfloat16(name: str, bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Reinterpret 16-bit integers as ``ml_dtypes.bfloat16``, without a copy.

    Args:
        name: The name of the column, for error messages.
        bits: The integers.

    Raises:
        FormatError: If ``ml_dtypes`` is not installed.
    """
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError as error:
        message = (
            f"column `{name}` of type bfloat16 needs the dtype of ml_dtypes, which is not "
            'installed: pip install ml_dtypes, or use a torch format such as "torch_dict"'
        )
        raise FormatError(message) from error
    return bits.view(ml_dtypes.bfloat16)


def plain(column: pa.Array) -> pa.Array:
    """Return a column without extension types, dictionary encoding and run-end encoding.

    Only dictionary-encoded and run-end encoded values are copied.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    while True:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_dictionary(column.type):
            values = without_views(column.dictionary)
            if values is not column.dictionary:
                column = pa.DictionaryArray.from_arrays(column.indices, values)
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column


def without_views(column: pa.Array) -> pa.Array:
    """Cast view types of text and bytes, which many functions of pyarrow do not support."""
    import pyarrow as pa

    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column


def canonical(table: pa.Table) -> pa.Table:
    """Return the columns of a table as plain types in which equal values have equal bits."""
    import pyarrow as pa

    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        chunks = column.chunks or [pa.nulls(0, field.type)]
        columns.append(pa.chunked_array([_canonical(field, chunk) for chunk in chunks]))
    return pa.table(columns, names=table.column_names)


def _canonical(field: pa.Field, column: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _floats_of(column) if is_bfloat16(field) else plain(column)
    column = without_views(column)
    kind = column.type
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return column.cast(pa.decimal128(kind.precision, kind.scale))
    if not pa.types.is_floating(kind):
        return column
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    nan = pa.scalar(math.nan, column.type)
    # Adding 0.0 turns -0.0 into 0.0.
    zero = pa.scalar(0.0, column.type)
    return pc.if_else(pc.is_nan(column), nan, pc.add(column, zero))


def _floats_of(column: pa.Array) -> pa.Array:
    """Return a bfloat16 column as float32, whose upper 16 bits are those of bfloat16."""
    import numpy as np
    import pyarrow as pa

    bits = bits_of(column)
    wide = numpy_of(bits.fill_null(0)).astype(np.uint32) << 16
    nulls = numpy_of(bits.is_null())
    return pa.array(wide.view(np.float32), mask=nulls)


def listed(column: pa.Array) -> list[Any]:
    """Return values as Python objects that can be used as dict keys: each NaN is ``math.nan``.

    Different NaN objects are different keys, but the same object always finds itself.
    """
    values = column.to_pylist()
    return [math.nan if _is_nan(value) else value for value in values]


def by_value(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping as a dict with ``math.nan`` in place of any NaN key."""
    return {math.nan if _is_nan(key) else key: value for key, value in mapping.items()}


def _is_nan(value: Any) -> bool:
    import numpy as np

    return isinstance(value, float | np.floating) and math.isnan(value)


def as_storable(data: _Data) -> _Data:
    """Return a batch or a table with its columns cast to ``storable`` types."""
    for at, field in enumerate(data.schema):
        kind = storable(field.type)
        if kind != field.type:
            column = data.column(at).cast(kind)
            data = data.set_column(at, field.with_type(kind), column)
    return data


def storable(kind: pa.DataType) -> pa.DataType:
    """Return a type for the same values that Lance and pandas support.

    Neither supports dictionaries of view types, to which polars exports its categoricals, nor Lance
    lists of a fixed size of values whose size varies: those become lists.
    """
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        values = kind.value_type
        if types.is_string_view(values):
            values = pa.string()
        elif types.is_binary_view(values):
            values = pa.binary()
        return pa.dictionary(kind.index_type, values, kind.ordered)
    if types.is_struct(kind):
        return pa.struct([field.with_type(storable(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        item = kind.value_field.with_type(storable(kind.value_type))
        return pa.large_list(item) if types.is_large_list(kind) else pa.list_(item)
    if types.is_fixed_size_list(kind):
        item = kind.value_field.with_type(storable(kind.value_type))
        if is_variable(item.type):
            return pa.list_(item)
        return pa.list_(item, kind.list_size)
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text or bytes, which become Python objects."""
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def is_variable(kind: pa.DataType) -> bool:
    """Return whether values of a type have different sizes, or are encoded by a dictionary."""
    import pyarrow as pa

    types = pa.types
    return bool(
        (is_text(kind) and not types.is_fixed_size_binary(kind))
        or types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_map(kind)
        or types.is_dictionary(kind)
    )
