"""Decoding of columns of images, between reading and the format: the step of ``with_decode``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError, ImageError
from lanceloader.images import ImageOptions, decode_threads
from lanceloader.values import as_bfloat16

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from lanceloader.randomness import RowKeys

__all__ = [
    "Decode",
    "images_of",
    "is_bfloat16_images",
    "is_images",
    "is_window",
    "writable",
]

MARK = b"lanceloader.image"
"""The metadata of a field whose values are images that were decoded here: their dtype."""


@dataclass(frozen=True)
class Decode:
    """A step that decodes columns.

    Attributes:
        columns: The name and the options of each column.
    """

    columns: tuple[tuple[str, ImageOptions], ...]

    @property
    def draws(self) -> bool:
        """Whether anything is random, so that it needs the keys of the rows."""
        return any(options.is_random for _, options in self.columns)

    def __call__(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> pa.RecordBatch:
        """Return the batch with decoded columns.

        Raises:
            ImageError: If an image is broken or too large.
        """
        for name, options in self.columns:
            at = batch.schema.get_field_index(name)
            drawn = None
            if options.is_random:
                if keys is None:
                    raise AssertionError(
                        "random crops, flips and colours need the keys of rows"
                    )
                drawn = keys.of(f"image {name}")
            images = batch.select([at])
            decode = decoded_windows if is_window(images.schema[0]) else decoded
            column = decode(images, name, options, drawn)
            batch = batch.set_column(at, field_of(name, column, options.dtype), column)
        return batch


def decoded(column: pa.RecordBatch, name: str, options: ImageOptions, keys: Any) -> Any:
    """Return the images of the only column of a batch as Arrow data.

    They are tensors of a fixed shape, or structs of the data and the shape. Null images stay null.
    """
    import pyarrow as pa

    num_rows = column.num_rows
    blocks, sizes, nulls, faults = options.recipe.decode(
        pa.Table.from_batches([column]), keys, decode_threads()
    )
    if faults:
        row, reason = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        # Decoders end some of their messages with a line break.
        raise ImageError(f"column `{name}`: {' '.join(reason.split())}{more}", row)
    mask = None
    if nulls:
        flags = [False] * num_rows
        for row in nulls:
            flags[row] = True
        mask = pa.array(flags)
    # Arrow has no bfloat16: its bits are integers.
    is_bits = options.dtype == "bfloat16"
    kind = pa.type_for_alias("int16" if is_bits else options.dtype)
    buffers = [pa.py_buffer(block) for block in blocks]
    width = kind.bit_width // 8
    if options.size is None:
        arrays = [
            pa.Array.from_buffers(kind, len(buffer) // width, [None, buffer])
            for buffer in buffers
        ]
        shapes = pa.array(
            [list(options.shape(size)) for size in sizes], pa.list_(pa.int32(), 3)
        )
        ends = [0]
        for array in arrays:
            ends.append(ends[-1] + len(array))
        values = pa.concat_arrays(arrays) if arrays else pa.array([], kind)
        data = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values)
        return pa.StructArray.from_arrays(
            [data, shapes], names=["data", "shape"], mask=mask
        )
    shape = options.shape(options.size)
    length = shape[0] * shape[1] * shape[2]
    values = pa.Array.from_buffers(kind, num_rows * length, [None, buffers[0]])
    rows = pa.FixedSizeListArray.from_arrays(values, length, mask=mask)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, shape), rows)


def decoded_windows(
    column: pa.RecordBatch, name: str, options: ImageOptions, keys: Any
) -> Any:
    """Return the images of windows, the only column of a batch, as tensors of a fixed shape.

    All images of a window are cropped, flipped and coloured alike.

    Raises:
        ImageError: If an image is broken or too large.
        FormatError: If an image is null, or images have different sizes.
    """
    import numpy as np
    import pyarrow as pa

    steps = column.schema[0].type.list_size
    values = column.column(0).flatten()
    if options.size is None:
        message = f"column `{name}`: images of windows cannot be of different sizes: pass `size` to image()"
        raise FormatError(message)
    if values.null_count:
        message = (
            f"column `{name}` has {values.null_count} nulls in the windows of {len(column)} rows, which "
            f'images of windows cannot be: call filter("{name} IS NOT NULL") before windows()'
        )
        raise FormatError(message)
    inner = pa.RecordBatch.from_arrays([values], [name])
    if keys is not None:
        keys = np.repeat(np.asarray(keys), steps)
    try:
        images = decoded(inner, name, options, keys)
    except ImageError as error:
        row, step = divmod(error.row_in_batch, steps)
        message = f"{error}; it is image {step + 1} of {steps} in the window"
        raise ImageError(message, row) from error
    kind = pa.fixed_shape_tensor(
        images.type.value_type, (steps, *options.shape(options.size))
    )
    leaves = images.storage.values
    rows = pa.FixedSizeListArray.from_arrays(leaves, kind.storage_type.list_size)
    return pa.ExtensionArray.from_storage(kind, rows)


def is_window(field: pa.Field) -> bool:
    """Return whether a column holds a fixed number of values for each row."""
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(field.type))


def field_of(name: str, column: Any, dtype: str) -> pa.Field:
    """Return the field of a decoded column."""
    import pyarrow as pa

    return pa.field(name, column.type, metadata={MARK: dtype})


def is_images(field: pa.Field) -> bool:
    """Return whether a column holds images that were decoded here."""
    return bool(field.metadata) and MARK in field.metadata


def is_bfloat16_images(field: pa.Field) -> bool:
    """Return whether a column holds the bits of bfloat16 images that were decoded here."""
    return bool(field.metadata) and field.metadata.get(MARK) == b"bfloat16"


def images_of(field: pa.Field, column: pa.Array) -> list[Any]:
    """Return decoded images as a list of NumPy arrays, ``None`` for nulls.

    They share the memory of the column, and can be written to if it was decoded here.

    Raises:
        FormatError: If they are bfloat16, and ``ml_dtypes`` is not installed.
    """
    import pyarrow as pa

    def memory_of(values: pa.Array) -> np.ndarray[Any, Any]:
        numbers = writable(values)
        is_bits = is_bfloat16_images(field)
        return as_bfloat16(field.name, numbers) if is_bits else numbers

    images: list[Any] = []
    is_fixed = not pa.types.is_struct(column.type)
    for row in range(len(column)):
        if not column[row].is_valid:
            images.append(None)
        elif is_fixed:
            values = column.storage.slice(row, 1).flatten()
            images.append(memory_of(values).reshape(column.type.shape))
        else:
            data = column.field("data").slice(row, 1).flatten()
            shape = column.field("shape")[row].as_py()
            images.append(memory_of(data).reshape(shape))
    return images


def writable(values: pa.Array) -> np.ndarray[Any, Any]:
    """Return numbers without nulls as a NumPy array, writable unless the buffer is not."""
    import numpy as np

    dtype = np.dtype(values.type.to_pandas_dtype())
    if not len(values):
        return np.zeros(0, dtype)
    start = values.offset * dtype.itemsize
    return np.frombuffer(values.buffers()[1], dtype, len(values), start)
