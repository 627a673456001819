"""Arrow types: unwrapping of columns, tests for types, and placeholders for nulls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.values import bits_of, is_bfloat16, is_text, plain

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "as_integers",
    "bits_in",
    "has_bfloat16",
    "is_text",
    "item_of",
    "unwrapped",
    "zero_of",
]


def unwrapped(field: pa.Field, column: pa.Array) -> pa.Array:
    """Return a column, and the items of its lists, as plain Arrow types.

    Lance's bfloat16 becomes int16 with the same bits. Copies only dictionary-encoded and
    run-end encoded values.
    """
    import pyarrow as pa

    if is_bfloat16(field):
        return bits_of(column)
    column = plain(column)
    types, kind = pa.types, column.type
    if not (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    ):
        return column
    values = unwrapped(item_of(field), column.values)
    if values.type == kind.value_type:
        return column
    item = pa.field("item", values.type)
    if types.is_fixed_size_list(kind):
        kind = pa.list_(item, kind.list_size)
    else:
        kind = pa.large_list(item) if types.is_large_list(kind) else pa.list_(item)
    # The first buffers are the list's own: validity and, for variable lengths, offsets.
    buffers = column.buffers()[: kind.num_buffers]
    return pa.Array.from_buffers(
        kind, len(column), buffers, offset=column.offset, children=[values]
    )


def item_of(field: pa.Field) -> pa.Field:
    """Return the item field of a list column."""
    import pyarrow as pa

    kind = field.type
    while not hasattr(kind, "value_field"):
        is_extension = isinstance(kind, pa.BaseExtensionType)
        kind = kind.storage_type if is_extension else kind.value_type
    return kind.value_field


def has_bfloat16(field: pa.Field) -> bool:
    """Return whether the values of a column, or the items of its lists, are Lance's bfloat16."""
    import pyarrow as pa

    kind = field.type
    is_list = isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    return is_bfloat16(field) or (is_list and has_bfloat16(kind.value_field))


def bits_in(value: Any) -> Any:
    """Return the bfloat16 bits of a number as an int16, or a list of them for a list."""
    import numpy as np

    if isinstance(value, list | tuple):
        return [bits_in(item) for item in value]
    with np.errstate(over="ignore"):
        bits = int(np.float32(value).view(np.uint32))
    if value == value:
        # Round half to even. A NaN is only truncated, since rounding could turn it into a number.
        bits += 0x7FFF + (bits >> 16 & 1)
    return int(np.uint16(bits >> 16).view(np.int16))


def as_integers(times: pa.Array) -> pa.Array:
    """Return dates, times or durations as the integers they are stored as, without a copy."""
    import pyarrow as pa

    return times.view(pa.int32() if times.type.bit_width == 32 else pa.int64())


def zero_of(kind: pa.DataType) -> Any:
    """Return the placeholder for a masked null of this type: zero, false or empty."""
    import pyarrow as pa

    types = pa.types
    if types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    ):
        return ""
    if is_text(kind):
        return b""
    if types.is_boolean(kind):
        return False
    if types.is_fixed_size_list(kind):
        return [zero_of(kind.value_type)] * kind.list_size
    if types.is_list(kind) or types.is_large_list(kind):
        return []
    if types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.scalar(0, width).cast(kind)
    return 0
