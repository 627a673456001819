"""``with_decode``: columns of image files become pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from lanceloader.errors import FormatError
from lanceloader.formats import name_of
from lanceloader.formats.decoding import Decode, is_window
from lanceloader.formats.functions import mapped_transform, steps_of
from lanceloader.images import ImageOptions
from lanceloader.sources import WindowSource
from lanceloader.verbs.columns import ColumnVerbs

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader.sources import Source
    from lanceloader.sources.window_reader import WindowColumn

__all__ = ["DecodeVerbs"]


class DecodeVerbs(ColumnVerbs):
    """Methods that decode columns."""

    def with_decode(self, decode: Mapping[str, ImageOptions]) -> Self:
        """Return a permutation whose columns of image files are decoded.

        Images are decoded by threads of the core before the functions of later calls of ``map`` and
        before the conversion to the format: to a tensor or an array of shape (rows, 3, height,
        width) in the dict formats of torch and NumPy, to one NumPy array per row in the formats of
        Python objects, and to a column of tensors in Arrow data.

        Random crops, flips and colours of a row depend on the seed and the epoch of the last ``shuffle``, or of
        the loader, on the row's place in the table and on the name of the column, and on nothing
        else; see ``docs/determinism.md``. Without a shuffle and a seed, the seed is 0.

        The images of a window, of a column with steps of ``windows``, are decoded to a further dimension, as in
        (rows, steps, 3, height, width), all with the same crop, flip and colours.

        An image that is broken raises ``ImageError``, which in a loader ``on_error`` treats. A null
        stays null, which the formats treat as ``nulls`` says.

        Args:
            decode: The options of each column to decode, which ``lanceloader.image`` returns.

        Raises:
            TypeError: If the options of a column are of another type.
            ColumnNotFoundError: If a column does not exist.
            FormatError: If a column holds something else than bytes, or structs with a field
                ``bytes``.
            ValueError: If ``with_transform`` has replaced the format; if a column is decoded
                already; or if windows hold something else than images beyond the ends.

        Example:
            >>> import io
            >>> import pyarrow as pa
            >>> from PIL import Image
            >>> file = io.BytesIO()
            >>> Image.new("RGB", (40, 30)).save(file, "PNG")
            >>> images = ll.open(pa.table({"image": [file.getvalue()] * 4}))
            >>> pixels = images.with_decode({"image": ll.image(32, crop="center")})
            >>> pixels.with_format("numpy_dict").head(2)["image"].shape
            (2, 3, 32, 32)
        """
        columns = checked(decode)
        if name_of(self.transform_fn) is None:
            raise ValueError(
                "with_decode() cannot follow with_transform(): call it before, and the function "
                "gets decoded columns"
            )
        for step in steps_of(self.transform_fn):
            known = dict(step.columns) if isinstance(step, Decode) else {}
            for name, _ in columns:
                if name in known:
                    message = (
                        f"`decode` names column `{name}`, which is decoded already"
                    )
                    raise ValueError(message)
        # Which columns functions of `map` return shows when they are called.
        if not steps_of(self.transform_fn):
            schema = self.schema
            for name, _ in columns:
                self.resolve_column(name)
                check_windows(name, window_of(self.source, self.selection.get(name)))
                check_files(schema.field(name))
        step = Decode(columns)
        return self._replace(
            transform_fn=mapped_transform(self.transform_fn, step=step)
        )


def checked(decode: Any) -> tuple[tuple[str, ImageOptions], ...]:
    """Return the options of each column.

    Raises:
        TypeError: If these are not options.
        ValueError: If there is no column.
    """
    if not isinstance(decode, Mapping):
        message = (
            "`decode` must be a dict of columns to options, as in {'image': ll.image(224)}, not "
            f"{decode!r}"
        )
        raise TypeError(message)
    if not decode:
        raise ValueError("`decode` must name at least one column")
    for name, options in decode.items():
        if not isinstance(options, ImageOptions):
            message = (
                f"`decode` must hold what lanceloader.image() returns, but column {name!r} has "
                f"{options!r}"
            )
            raise TypeError(message)
    return tuple(decode.items())


def window_of(source: Source, column: str | None) -> WindowColumn | None:
    """Return the windows of a column, if it has any."""
    if column is None or not isinstance(source, WindowSource):
        return None
    return source.windows.columns.get(column)


def check_windows(name: str, window: WindowColumn | None) -> None:
    """Check that windows hold images beyond the ends of episodes, too.

    Raises:
        FormatError: If they are cut off there.
        ValueError: If they are filled with something else.
    """
    if window is None:
        return
    if window.ends == "clip":
        message = (
            f'column `{name}` holds windows of different lengths, as windows() was called with ends="clip", '
            'and these cannot be decoded: pass ends="edge", "fill" or "drop" to windows()'
        )
        raise FormatError(message)
    fill = window.fill_value
    file = fill.get("bytes") if isinstance(fill, Mapping) else fill
    if window.ends == "fill" and not file:
        message = (
            f"column `{name}` has no image beyond the ends of episodes: pass the bytes of an image file as "
            f'`fill_value`={{{name!r}: ...}} to windows(), or ends="edge" or "drop"'
        )
        raise ValueError(message)


def check_files(field: pa.Field) -> None:
    """Check that a column holds files.

    Raises:
        FormatError: If it does not.
    """
    import pyarrow as pa

    kind = field.type.value_type if is_window(field) else field.type
    kind = getattr(kind, "storage_type", kind)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    types = pa.types
    is_bytes = (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )
    if not is_bytes:
        message = (
            f"column `{field.name}` of type {field.type} cannot be decoded: images are columns of "
            "bytes, or of structs with a field `bytes`"
        )
        raise FormatError(message)
