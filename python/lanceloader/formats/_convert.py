"""Conversion of Arrow columns to the dict formats of numpy and torch.

A column becomes an array of numbers (1-D, or more dimensions for fixed-size lists), ``Ragged``
for lists of numbers of different lengths, a list of Python objects for text and bytes, or a dict
for a struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.errors import FormatError
from lanceloader.formats._columns import Columns
from lanceloader.formats._padding import padding_of
from lanceloader.formats._types import (
    bits_in,
    has_bfloat16,
    is_text,
    item_of,
    unwrapped,
    zero_of,
)
from lanceloader.formats.decoding import is_bfloat16_images, is_images
from lanceloader.formats.ragged import Ragged
from lanceloader.values import is_bfloat16, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader._typing import Nulls

__all__ = ["Library", "convert"]


class Library(NamedTuple):
    """The functions with which an array library builds arrays."""

    array: Callable[[pa.Array], Any]
    """Convert an Arrow array of numbers, booleans or times without nulls."""

    owned: Callable[[pa.Array], Any]
    """The same for numbers that nothing else holds: the array can be written to."""

    bfloat16: Callable[[str, Any], Any]
    """Reinterpret an array of 16-bit integers as bfloat16; the first argument is the name of the
    column, for error messages."""

    permuted: Callable[[Any, list[int]], Any]
    """Permute the dimensions of an array, without a copy."""

    format: str
    """The name of the format, for error messages."""


def convert(
    batch: pa.RecordBatch,
    library: Library,
    *,
    nulls: Nulls,
    fill_value: Any,
    pad: Any = None,
) -> Columns:
    """Convert every column of ``batch``.

    Args:
        batch: The batch.
        library: The functions that build arrays.
        nulls: The policy for nulls.
        fill_value: The replacement for nulls: one value, or a dict by column name.
        pad: How lists are padded; see ``padding_of``.

    Raises:
        FormatError: If the format cannot hold a column, or its nulls.
    """
    out = Columns()
    converter = _Converter(library, nulls, fill_value, pad)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        converter.add(out, field.name, field, column)
    return out


class _Converter:
    """Converts columns to the arrays of one library, with one policy for nulls."""

    def __init__(
        self, library: Library, nulls: Nulls, fill_value: Any, pad: Any
    ) -> None:
        self.library = library
        self.nulls = nulls
        self.fill_value = fill_value
        self.pad = pad
        self.is_inside_lists = False

    def add(
        self, out: dict[str, Any], path: str, field: pa.Field, column: pa.Array
    ) -> None:
        """Convert the column of ``field`` and store it in ``out``, with its mask if required.

        Args:
            out: The dict of converted columns.
            path: The dotted path of the column, for error messages.
            field: The field of the column.
            column: The values.
        """
        key = field.name
        if key in out:
            message = (
                f'column `{path}` has the same name as a mask added by `nulls="mask"`; '
                "rename the column"
            )
            raise FormatError(message)
        if self.nulls == "mask":
            if f"{key}_mask" in out:
                message = (
                    f"column `{key}_mask` has the same name as the mask of column `{path}`, which "
                    '`nulls="mask"` adds; rename the column'
                )
                raise FormatError(message)
            column = plain(column)
            out[f"{key}_mask"] = self.library.array(column.is_valid())
        value = self.value(path, field, column)
        padding = padding_of(self.pad, path) if isinstance(value, Ragged) else None
        if padding is None:
            out[key] = value
            return
        mask = padding.pop("mask", None)
        out[key], valid = value.padded(**padding, return_mask=True)
        if mask is not None:
            out[mask] = valid

    def value(self, path: str, field: pa.Field, column: pa.Array) -> Any:
        """Convert a column and treat its nulls according to the policy."""
        import pyarrow as pa

        if is_images(field) and pa.types.is_struct(column.type):
            return self.images(path, field, column)
        column = unwrapped(field, column)
        if pa.types.is_null(column.type) or (
            column.null_count and not pa.types.is_struct(column.type)
        ):
            column = self.without_nulls(path, field, column)
        if is_images(field):
            values = self.library.owned(column.flatten())
        else:
            values = self.dense(path, field, column)
        if is_bfloat16(field) or is_bfloat16_images(field):
            values = self.library.bfloat16(path, values)
        shape = getattr(field.type, "shape", None)
        if shape is None or isinstance(values, list):
            return values
        values = values.reshape(len(column), *shape)
        order = getattr(field.type, "permutation", None)
        if order is None:
            return values
        return self.library.permuted(values, [0, *(axis + 1 for axis in order)])

    def images(self, path: str, field: pa.Field, column: pa.Array) -> list[Any]:
        """Return images of different sizes as a list, with ``None`` for nulls if they are allowed."""
        if self.nulls == "error" and column.null_count:
            message = (
                f"column `{path}` has {column.null_count} nulls in {len(column)} rows: pass "
                '`nulls="mask"` for None in their place, or filter the rows with '
                f'"{path} IS NOT NULL"'
            )
            raise FormatError(message)
        data, shapes = column.field("data"), column.field("shape").to_pylist()

        def image(at: int) -> Any:
            values = self.library.owned(data.slice(at, 1).flatten())
            if is_bfloat16_images(field):
                values = self.library.bfloat16(path, values)
            return values.reshape(shapes[at])

        return [image(at) if column[at].is_valid else None for at in range(len(column))]

    def without_nulls(self, path: str, field: pa.Field, column: pa.Array) -> pa.Array:
        """Return a column whose nulls are replaced by the fill value, or by a zero."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.nulls == "error" and column.null_count and self.is_inside_lists:
            message = (
                f"column `{path}` has {column.null_count} nulls inside its lists, which "
                f'"{self.library.format}" cannot hold; pass `nulls="fill"` with a `fill_value`, or leave '
                "such rows out, of windows before they are made: call "
                f'filter("{path} IS NOT NULL") before windows()'
            )
            raise FormatError(message)
        if self.nulls == "error" and column.null_count:
            message = (
                f"column `{path}` has {column.null_count} nulls in {len(column)} rows, which "
                f'"{self.library.format}" cannot hold; pass `nulls="mask"` to add a boolean column '
                f'`{path}_mask`, `nulls="fill"` with a `fill_value`, or filter the rows with '
                f'"{path} IS NOT NULL"'
            )
            raise FormatError(message)
        value = self.fill_value if self.nulls == "fill" else None
        if isinstance(value, Mapping):
            if path not in value:
                message = (
                    f"column `{path}` has nulls, but `fill_value` has no entry for it; add "
                    f"{path!r} to {value!r}"
                )
                raise FormatError(message)
            value = value[path]
        try:
            if value is None:
                value = zero_of(column.type)
            elif has_bfloat16(field) or is_bfloat16_images(field):
                value = bits_in(value)
            if pa.types.is_null(column.type):
                return pa.repeat(pa.scalar(value), len(column))
            filler = pa.scalar(value, column.type)
        except (pa.ArrowException, TypeError, ValueError) as error:
            message = (
                f"the fill value {value!r} cannot be stored in column `{path}` of type "
                f"{field.type}; pass one value per column, as in "
                f"`fill_value={{'{path}': ...}}`"
            )
            raise FormatError(message) from error
        try:
            return pc.if_else(column.is_valid(), column, filler)
        except pa.ArrowNotImplementedError:
            # `if_else` does not implement view and interval types.
            values = column.to_pylist()
            return pa.array([value if v is None else v for v in values], column.type)

    def dense(self, path: str, field: pa.Field, column: pa.Array) -> Any:
        """Convert an unwrapped column that has no nulls at the top level.

        Raises:
            FormatError: If the format cannot hold the type.
        """
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
        elif (leaves := leaves_of(field, column)) is not None:
            return self.value(path, pa.field(field.name, leaves.type), leaves)
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
            f'column `{path}` of type {field.type} cannot be converted: "{self.library.format}" '
            "holds numbers, booleans, times, text, bytes, lists of numbers, and structs of these; "
            "use another format, drop the column, or convert it with `with_transform`"
        )
        raise FormatError(message)

    def items(self, path: str, field: pa.Field, values: pa.Array) -> Any:
        """Convert the items of lists.

        Raises:
            FormatError: If there are null items and the policy is ``"mask"``, since masks have
                one value per row.
        """
        if self.nulls == "mask" and values.null_count:
            message = (
                f"column `{path}` has nulls inside its lists, which a mask with one value per row "
                'cannot show; pass `nulls="fill"` with a `fill_value`'
            )
            raise FormatError(message)
        was_inside, self.is_inside_lists = self.is_inside_lists, True
        try:
            return self.value(path, field, values)
        finally:
            self.is_inside_lists = was_inside


def leaves_of(field: pa.Field, column: pa.Array) -> pa.Array | None:
    """Return the numbers of arrays that are stored as lists of lists, as Hugging Face stores them.

    Returns:
        All numbers, or ``None`` for other columns, and for arrays with nulls or of other shapes.
    """
    import pyarrow as pa

    shape = getattr(field.type, "shape", None)
    if shape is None or None in shape:
        return None
    leaves, size = column, len(column)
    for length in shape:
        kind = leaves.type
        if leaves.null_count or not (
            pa.types.is_list(kind) or pa.types.is_large_list(kind)
        ):
            return None
        lengths = set(leaves.value_lengths().unique().to_pylist())
        if lengths - {length}:
            return None
        leaves, size = leaves.flatten(), size * length
    return leaves if len(leaves) == size and not leaves.null_count else None
