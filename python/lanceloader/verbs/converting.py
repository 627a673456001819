"""The methods that choose a format, and convert what is read to it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from lanceloader import _native
from lanceloader.drawing.functions import drawing
from lanceloader.engine import SYSTEM
from lanceloader.errors import FormatError
from lanceloader.formats import (
    check_fill_columns,
    check_nulls,
    check_pad,
    format_of,
    is_matrix,
    is_torch,
    native_of,
    needs_own_buffers,
    transform_of,
)
from lanceloader.formats.functions import draws, mapped_transform, steps_of
from lanceloader.locations import location_of_rows
from lanceloader.numbers import rows_at
from lanceloader.randomness import RowKeys
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.verbs.blobs import BlobVerbs, with_files

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader._typing import Format, Nulls, Pad, Transform
    from lanceloader.sources import RowReader

__all__ = ["ConvertVerbs"]


class ConvertVerbs(BlobVerbs):
    """Methods that choose a format, open readers for it, and convert batches to it."""

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
        pad: Pad | None = None,
    ) -> Self:
        """Return a permutation whose batches have another format.

        Args:
            format: The format of a batch, one of

                * ``"python"``, the default: a list of dicts, one per row;
                * ``"python_col"``: a dict of lists, one per column;
                * ``"numpy"``: an array of shape (rows, columns);
                * ``"pandas"``, ``"polars"``: a ``DataFrame``;
                * ``"arrow"``: a ``pyarrow.RecordBatch``;
                * ``"torch"``: a list of dicts of tensors, one per row;
                * ``"torch_row"``: a list of tensors, one per row;
                * ``"torch_col"``: a tensor of shape (columns, rows);
                * ``"torch_matrix"``: a tensor of shape (rows, columns), for columns of one type;
                * ``"torch_dict"``, ``"numpy_dict"``: a dict with one tensor or array per column,
                  with the dtype of the column and shape (rows,), (rows, size) for fixed-size
                  lists, or (rows, *shape) for tensors of a fixed shape. Lists become
                  ``Ragged(values, offsets)``; structs become dicts; dates and times become
                  int64 (``datetime64`` in numpy); decimals become float64; strings and bytes
                  become lists of Python objects.
            nulls: How the dict formats represent nulls: ``"error"``, the default, raises;
                ``"fill"`` replaces them by ``fill_value``; ``"mask"`` adds a boolean
                ``"<column>_mask"`` for each column, which is false for nulls.
            fill_value: With ``nulls="fill"``, one value for all columns, or a dict of one value
                per column.
            pad: How the dict formats pad lists, in place of ``Ragged``: one value for all columns
                of lists, such as 0; or a dict by column of a value or of the arguments of
                ``Ragged.padded``, as in ``{"tokens": {"value": 0, "side": "left"}}``. There,
                ``"mask"`` is the name of a column to add that is true where values are, and
                false where padding is. Lists are padded to the longest one of each batch, unless
                ``"length"`` is passed.

        Raises:
            ValueError: If the format is unknown or does not support an option.
            ImportError: If the library of the format is not installed.

        Example:
            >>> perm.with_format("numpy_dict").head(3)["x"]
            array([0, 1, 2])
        """
        if format is None:
            raise AssertionError("format is required")
        options = {"nulls": nulls, "fill_value": fill_value, "pad": pad}
        passed = {name: value for name, value in options.items() if value is not None}
        transform = transform_of(format, **passed)
        if passed:
            check_nulls(nulls or "error", fill_value)
            # Which columns functions of `map` return shows when they are called.
            is_mapped = bool(steps_of(self.transform_fn))
            if isinstance(fill_value, Mapping) and not is_mapped:
                check_fill_columns(fill_value, self.schema)
            if isinstance(pad, Mapping) and not is_mapped:
                check_pad(pad, self.schema)
        return self.with_transform(transform)

    def with_transform(self, transform: Transform) -> Self:
        """Return a permutation whose batches are converted by a function, in place of a format.

        Args:
            transform: A function of a ``pyarrow.RecordBatch``, which is called once per batch, in
                the thread that requests the batch. Its results are the batches. The functions of
                ``map`` are called before it. If it has a parameter ``rng``, it is passed a
                ``BatchGenerator``, as in ``loader(transform=...)``.

        Raises:
            TypeError: If ``transform`` is not callable.

        Example:
            >>> perm.with_transform(lambda batch: batch.num_rows).head(3)
            3
        """
        if transform is None:
            raise AssertionError("transform is required")
        if not callable(transform):
            message = f"`transform` must be a function of a pyarrow.RecordBatch, not {transform!r}"
            raise TypeError(message)
        return self._replace(
            transform_fn=mapped_transform(
                self.transform_fn, transform=drawing(transform, "with_transform")
            )
        )

    def _without_functions(self, selection: dict[str, str]) -> Self:
        """Return the rows with other columns, as they are stored: without functions of ``map``."""
        view = self.with_selection(selection)
        return view._replace(transform_fn=format_of(self.transform_fn))

    def open_format_reader(self, *, by_column: bool = False) -> RowReader:
        """Return the reader of batches in the layout that the format needs.

        torch supports few operations on unsigned integers, so ids, addresses and offsets of rows
        are read as signed integers for its formats.

        Args:
            by_column: Whether batches must have separate columns, also for a matrix.

        Raises:
            FormatError: If the columns of a matrix are not of one type.
        """
        reader = self.open_reader()
        transform = self.transform_fn
        if self.has_files or not is_torch(transform):
            return reader
        key = transform, by_column
        known = self._format_reader
        if known is None or known[:2] != (reader, key):
            known = reader, key, self._reader_for(transform, by_column=by_column)
            self._format_reader = known
        return known[2]

    def _reader_for(self, transform: Transform, *, by_column: bool) -> RowReader:
        reader: Any = self.open_reader()
        formed = reader
        if not set(SYSTEM).isdisjoint(self.selection.values()):
            formed = reader.as_signed()
        is_native = isinstance(reader, _native.Reader)
        if is_matrix(transform) and not by_column and is_native:
            try:
                formed = formed.as_matrix()
            except ValueError as error:
                raise FormatError(str(error)) from None
        return cast("RowReader", formed)

    def converter(self) -> Callable[..., Any]:
        """Return the function from a raw batch to a batch in the format."""
        convert = native_of(self.transform_fn)
        transform = self.transform_fn

        if self.has_files:
            # Files are refused after steps that take keys.
            return lambda batch, _keys=None: with_files(self, self._record_batch(batch))

        def to_format(batch: Any, keys: RowKeys | None = None) -> Any:
            if convert is not None and isinstance(batch, _native.Batch):
                return convert(batch)
            rows = self._record_batch(batch)
            # Only what draws takes keys.
            return (
                transform(rows) if keys is None else cast("Any", transform)(rows, keys)
            )

        return to_format

    def _row_keys(self, positions: Any) -> RowKeys:
        """Return what random crops and flips of the rows at some positions draw from."""

        def find() -> Any:
            return *self.randomness, rows_at(self.order, positions)

        return RowKeys(find)

    def _numbered_converter(self, size: int) -> Callable[[Any], Any]:
        """Return the converter of batches of ``size`` rows that come one after another."""
        convert = self.converter()
        if not draws(self.transform_fn):
            return convert
        starts = itertools.count(0, size)

        def to_format(batch: Any) -> Any:
            start = next(starts)
            return convert(batch, self._row_keys(range(start, start + batch.num_rows)))

        return to_format

    def _converted(self, batch: Any, positions: Any) -> Any:
        """Return the batch of the rows at some positions in its format."""
        try:
            convert: Callable[..., Any] = self.converter()
            if draws(self.transform_fn):
                convert = functools.partial(convert, keys=self._row_keys(positions))
            return without_stop_iteration(convert)(batch)
        except Exception as error:
            location_of_rows(self.source, self.order, positions).note(
                error, batch.num_rows
            )
            raise

    def _record_batch(self, batch: Any) -> pa.RecordBatch:
        """Return a batch as Arrow data, copied if the format needs writable buffers of its own."""
        import pyarrow as pa

        if isinstance(batch, _native.Batch):
            if not batch.is_owned and needs_own_buffers(self.transform_fn):
                batch = batch.to_owned()
            return pa.record_batch(batch)
        return batch
