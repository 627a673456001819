"""What the dict formats of numpy and torch share: types, nulls and lists.

A column becomes one of: an array of numbers (1-D, or more for fixed-size lists), ``Ragged``
values with offsets, a list of Python objects, or a dict for a struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lanceloader.errors import FormatError
from lanceloader.sql import missing_column
from lanceloader.values import bits_of, is_bfloat16, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader._typing import Nulls, Transform

__all__ = [
    "Columns",
    "Library",
    "Ragged",
    "as_integers",
    "check_fill_columns",
    "check_nulls",
    "convert",
    "gather_runs",
    "has_bfloat16",
    "is_text",
]


class Ragged(NamedTuple):
    """Lists of different lengths: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Any
    """The values of all lists, end to end."""

    offsets: Any
    """Where each list starts, and the end of the last: one more than there are lists."""


class Columns(dict[str, Any]):
    """A dict of columns that torch's default collate hands over as it is.

    Collating starts by looking at ``batch[0]``, which no dict of columns has.
    """

    def __missing__(self, key: Any) -> Any:
        if key == 0 and type(key) is int:
            return Collated()
        raise KeyError(key)

    def __reduce__(self) -> tuple[type[Columns], tuple[dict[str, Any]]]:
        return Columns, (dict(self),)


class Collated:
    """The type of ``Columns()[0]``: tells torch that there is nothing left to collate."""


class Library(NamedTuple):
    """What makes arrays."""

    array: Callable[[pa.Array], Any]
    """Makes an array of an Arrow array of numbers, booleans or times, without nulls."""

    bfloat16: Callable[[str, Any], Any]
    """Makes 16-bit floats of an array of 16-bit integers with their bits; the column is named
    in messages."""

    permuted: Callable[[Any, list[int]], Any]
    """Puts the dimensions of an array into another order, without a copy."""

    format: str
    """What to call the format in messages."""


def gather_runs(
    batch: Batch,
    transform: Transform,
    vectors: Callable[[str, Any, str, tuple[int, ...]], Any],
) -> Columns:
    """Convert a batch of the core: columns of numbers run by run, the others by ``transform``.

    Args:
        batch: The rows.
        transform: Converts a ``pyarrow.RecordBatch``.
        vectors: Makes an array of a buffer, a dtype and a shape; a column is named in messages.
    """
    import pyarrow as pa

    if not batch.is_owned:
        batch = batch.to_owned()
    names, runs, others = batch.runs()
    out = Columns()
    out.update(dict.fromkeys(names))
    if len(out) < len(names) or batch.num_rows == 0:
        return cast("Columns", transform(pa.record_batch(batch)))
    for columns, dtype, width, block in runs:
        shape = (len(columns), batch.num_rows) + ((width,) if width else ())
        arrays = vectors(names[columns[0]], block, dtype, shape)
        for at, values in zip(columns, arrays, strict=True):
            out[names[at]] = values
    if others:
        out.update(transform(pa.record_batch(batch).select(others)))
    return out


def check_nulls(nulls: str, fill_value: Any) -> None:
    """Check the options of a dict format.

    Raises:
        ValueError: If ``nulls`` is no policy, or a fill value is missing or not used.
    """
    if nulls not in ("error", "fill", "mask"):
        message = f'nulls={nulls!r}: wanted "error", "fill" or "mask"'
        raise ValueError(message)
    if (nulls == "fill") != (fill_value is not None):
        wanted = (
            "a fill_value" if nulls == "fill" else 'a fill_value only with nulls="fill"'
        )
        message = f"nulls={nulls!r}, fill_value={fill_value!r}: wanted {wanted}"
        raise ValueError(message)


def check_fill_columns(fill_value: Any, schema: pa.Schema) -> None:
    """Check that fill values given by column name are for columns that exist.

    Raises:
        ColumnNotFoundError: If there is no such column, naming the nearest.
    """
    if not isinstance(fill_value, Mapping):
        return
    known = [path for field in schema for path in paths_in(field)]
    for name in fill_value:
        if name not in known:
            message = f"`fill_value` names column {name!r}, which does not exist"
            raise missing_column(message, name, known)


def paths_in(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of a field and of all fields inside it."""
    import pyarrow as pa

    path = f"{prefix}{field.name}"
    yield path
    if pa.types.is_struct(field.type):
        for child in field.type:
            yield from paths_in(child, f"{path}.")


def convert(
    batch: pa.RecordBatch, library: Library, *, nulls: Nulls, fill_value: Any
) -> Columns:
    """Convert every column of ``batch``.

    Args:
        batch: The rows.
        library: Makes arrays.
        nulls: What to do with nulls.
        fill_value: What to put in their place: one value, or one per column name.
    """
    out = Columns()
    converter = _Converter(library, nulls, fill_value)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        converter.add(out, field.name, field, column)
    return out


class _Converter:
    def __init__(self, library: Library, nulls: Nulls, fill_value: Any) -> None:
        self.library = library
        self.nulls = nulls
        self.fill_value = fill_value

    def add(
        self, out: dict[str, Any], path: str, field: pa.Field, column: pa.Array
    ) -> None:
        """Convert the column of ``field``, called ``path`` in messages, into ``out``."""
        key = field.name
        if key in out:
            message = f'column `{path}` has the name of a mask that nulls="mask" adds: rename it'
            raise FormatError(message)
        if self.nulls == "mask":
            if f"{key}_mask" in out:
                message = f"column `{key}_mask` has the name of the mask of `{path}`: rename it"
                raise FormatError(message)
            column = plain(column)
            out[f"{key}_mask"] = self.library.array(column.is_valid())
        out[key] = self.value(path, field, column)

    def value(self, path: str, field: pa.Field, column: pa.Array) -> Any:
        """Convert a column, its nulls by the policy."""
        import pyarrow as pa

        column = unwrapped(field, column)
        if pa.types.is_null(column.type) or (
            column.null_count and not pa.types.is_struct(column.type)
        ):
            column = self.without_nulls(path, field, column)
        values = self.dense(path, field, column)
        if is_bfloat16(field):
            return self.library.bfloat16(path, values)
        shape = getattr(field.type, "shape", None)
        if shape is None or isinstance(values, list):
            return values
        values = values.reshape(len(column), *shape)
        order = field.type.permutation
        if order is None:
            return values
        return self.library.permuted(values, [0, *(axis + 1 for axis in order)])

    def without_nulls(self, path: str, field: pa.Field, column: pa.Array) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.nulls == "error" and column.null_count:
            message = (
                f"column `{path}` has {column.null_count} nulls in {len(column)} rows, which "
                f'{self.library.format} cannot hold: pass nulls="mask" for a second column '
                f'"{path}_mask" that says which rows have a value, nulls="fill" with a '
                f"fill_value, or filter them out with {path} IS NOT NULL"
            )
            raise FormatError(message)
        value = self.fill_value if self.nulls == "fill" else None
        if isinstance(value, Mapping):
            if path not in value:
                message = f"column `{path}` has nulls: wanted a fill value for it in {value!r}"
                raise FormatError(message)
            value = value[path]
        try:
            if value is None:
                value = zero_of(column.type)
            elif has_bfloat16(field):
                value = bits_in(value)
            if pa.types.is_null(column.type):
                return pa.repeat(pa.scalar(value), len(column))
            filler = pa.scalar(value, column.type)
        except (pa.ArrowException, TypeError, ValueError) as error:
            message = (
                f"column `{path}` of type {field.type}: {value!r} is no value of it; for a "
                f"value per column pass fill_value={{'{path}': ...}}"
            )
            raise FormatError(message) from error
        try:
            return pc.if_else(column.is_valid(), column, filler)
        except pa.ArrowNotImplementedError:
            # Views and intervals.
            values = column.to_pylist()
            return pa.array([value if v is None else v for v in values], column.type)

    def dense(self, path: str, field: pa.Field, column: pa.Array) -> Any:
        """Convert an unwrapped column without nulls of its own."""
        import pyarrow as pa

        types, kind = pa.types, column.type
        array = self.library.array
        if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            return array(column)
        if types.is_temporal(kind) and not types.is_interval(kind):
            return array(column)
        if types.is_decimal(kind):
            return array(column.cast(pa.float64()))
        if is_text(kind):
            return column.to_pylist()
        if types.is_struct(kind):
            out = Columns()
            for child, values in zip(kind, column.flatten(), strict=True):
                self.add(out, f"{path}.{child.name}", child, values)
            return out
        if types.is_fixed_size_list(kind):
            size = kind.list_size
            start = column.offset * size
            inside = column.values.slice(start, len(column) * size)
            values = self.items(path, item_of(field), inside)
            if not isinstance(values, list | dict | Ragged):
                return values.reshape(len(column), size, *values.shape[1:])
        elif types.is_list(kind) or types.is_large_list(kind):
            offsets = column.offsets
            start, stop = offsets[0].as_py(), offsets[-1].as_py()
            inside = column.values.slice(start, stop - start)
            values = self.items(path, item_of(field), inside)
            if not isinstance(values, list | dict | Ragged):
                shifted = (
                    offsets.cast(pa.int64()).to_numpy(zero_copy_only=False) - start
                )
                return Ragged(values, array(pa.array(shifted)))
        message = (
            f"column `{path}` of type {field.type}: {self.library.format} holds numbers, "
            "booleans, times, text and bytes, lists of numbers, and structs of these; use "
            "another format for it, leave it out, or convert it with with_transform"
        )
        raise FormatError(message)

    def items(self, path: str, field: pa.Field, values: pa.Array) -> Any:
        """Convert the items of lists, whose nulls have no mask."""
        if self.nulls == "mask" and values.null_count:
            message = (
                f"column `{path}` has nulls inside its lists, which a mask of its rows "
                'cannot show: pass nulls="fill" with a fill_value'
            )
            raise FormatError(message)
        return self.value(path, field, values)


def unwrapped(field: pa.Field, column: pa.Array) -> pa.Array:
    """Return the plain values of a column, also inside of its lists.

    Those of Lance's 16-bit floats are their bits. No copy but for dictionaries and runs.
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
    # Before those of the values come the mask and, of lists, the offsets.
    buffers = column.buffers()[: kind.num_buffers]
    return pa.Array.from_buffers(
        kind, len(column), buffers, offset=column.offset, children=[values]
    )


def item_of(field: pa.Field) -> pa.Field:
    """Return the field of the items of a column of lists."""
    import pyarrow as pa

    kind = field.type
    while not hasattr(kind, "value_field"):
        is_extension = isinstance(kind, pa.BaseExtensionType)
        kind = kind.storage_type if is_extension else kind.value_type
    return kind.value_field


def has_bfloat16(field: pa.Field) -> bool:
    """Return whether the values of a column, or of its lists, are Lance's 16-bit floats."""
    import pyarrow as pa

    kind = field.type
    is_list = isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    return is_bfloat16(field) or (is_list and has_bfloat16(kind.value_field))


def bits_in(value: Any) -> Any:
    """Return the bits of a number as one of Lance's 16-bit floats, or those of a list of them."""
    import numpy as np

    if isinstance(value, list | tuple):
        return [bits_in(item) for item in value]
    with np.errstate(over="ignore"):
        bits = int(np.float32(value).view(np.uint32))
    if value == value:
        # Half to even. The bits of a NaN are kept, as rounding could make another number of it.
        bits += 0x7FFF + (bits >> 16 & 1)
    return int(np.uint16(bits >> 16).view(np.int16))


def as_integers(times: pa.Array) -> pa.Array:
    """Give the whole numbers that times are stored as, in their own unit. No copy."""
    import pyarrow as pa

    return times.view(pa.int32() if times.type.bit_width == 32 else pa.int64())


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type come out as Python objects."""
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


def zero_of(kind: pa.DataType) -> Any:
    """Give the value that stands where a mask says there is none."""
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
