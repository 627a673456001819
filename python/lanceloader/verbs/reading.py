"""The methods that choose a format and read rows in it."""

from __future__ import annotations

import functools
import itertools
import operator
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast, overload

from lanceloader import _native
from lanceloader._extras import need
from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.drawing.functions import drawing
from lanceloader.engine import SYSTEM
from lanceloader.errors import FormatError
from lanceloader.formats import (
    check_fill_columns,
    check_nulls,
    check_pad,
    format_of,
    is_format,
    is_matrix,
    is_torch,
    native_of,
    needs_own_buffers,
    transform_of,
    whole_of,
)
from lanceloader.formats._rows import is_stack_dataset, rows_of
from lanceloader.formats.functions import draws, mapped_transform, steps_of
from lanceloader.formats.python import LazyRows
from lanceloader.locations import location_of_rows, noting
from lanceloader.monitor.preparation import preparing
from lanceloader.monitor.progress import check_bar, progress_over
from lanceloader.numbers import count, numbers_of, numpy_of
from lanceloader.randomness import RowKeys
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.values import as_storable, canonical, listed
from lanceloader.verbs.blobs import BlobVerbs, with_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from lanceloader._typing import Format, Nulls, Pad, Positions, Progress, Transform
    from lanceloader.locations import RowLocation
    from lanceloader.sources import RowReader

__all__ = ["ReadVerbs"]

FUNCTION_ROWS = 1000
"""The number of rows for which functions of ``map`` and ``filter`` are called to read all rows."""

ENGINE_BATCH_SIZE = 8192
"""The number of rows in a batch of ``batch_size`` 0, as in LanceDB."""


class ReadVerbs(BlobVerbs):
    """Methods that choose a format, iterate, take rows by position, and read all rows."""

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

    def with_batch_size(self, batch_size: int) -> Self:
        """Return a permutation with another default batch size.

        Args:
            batch_size: The number of rows in a batch of ``for batch in perm`` and of
                ``perm.loader()``.

        Raises:
            ValueError: If ``batch_size`` is negative.
            TypeError: If ``batch_size`` is not an integer.
        """
        return self._replace(batch_size=count(batch_size, "batch_size"))

    def with_connection_factory(self, connection_factory: Callable[[str], Any]) -> Self:
        """Return a permutation that opens its table with ``connection_factory(name)`` when unpickled.

        Its pickles then hold neither the URI of the table nor storage options.

        Args:
            connection_factory: A function from the name of a table to the table. It must be
                picklable: a module-level function, a ``functools.partial`` of one, or an instance
                of a module-level class.

        Raises:
            TypeError: If ``connection_factory`` is not callable.
        """
        if connection_factory is None:
            raise AssertionError("connection_factory is required")
        if not callable(connection_factory):
            message = (
                "`connection_factory` must be a function from the name of a table to the table, "
                f"not {connection_factory!r}"
            )
            raise TypeError(message)
        return self._replace(connection_factory=connection_factory)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over batches of ``batch_size`` rows; the last one may be shorter.

        The classes of ``lanceloader.permutation``, which behave like LanceDB's, drop a shorter last
        batch.
        """
        return self.iter(self.batch_size)

    def iter(
        self,
        batch_size: int,
        skip_last_batch: bool = False,  # noqa: FBT001, FBT002
        *,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        """Return an iterator over batches in order, which threads read ahead.

        Args:
            batch_size: The number of rows in a batch; the last one may be shorter. 0 means 8192.
            skip_last_batch: Whether to drop a shorter last batch.
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            An iterator over batches in the format of the permutation.

        Raises:
            ValueError: If ``batch_size`` is negative.
            ImportError: If ``progress`` is true and tqdm is not installed.

        Example:
            >>> [len(batch) for batch in perm.iter(4)]
            [4, 4, 2]
        """
        size = count(batch_size, "batch_size") or ENGINE_BATCH_SIZE
        check_bar(progress)
        return self._batches(size, skip_last_batch, progress=progress)

    def _batches(
        self,
        size: int,
        skip_last_batch: bool,  # noqa: FBT001
        *,
        progress: bool | None,
    ) -> Iterator[Any]:
        rows = self.num_rows
        if skip_last_batch:
            rows -= rows % size
        reader = self.open_format_reader()

        def location(number: int) -> RowLocation:
            start = number * size
            positions = range(start, min(start + size, self.num_rows))
            return location_of_rows(
                self.source, self.order, positions, f"batch {number}"
            )

        convert = without_stop_iteration(self._numbered_converter(size))
        with preparing([(reader, self.order)], progress):
            batches: Iterator[Any] = reader.load(self.order, size, skip_last_batch)
            counted = progress_over(
                batches, rows, "reading", enabled=progress, rows_of=lambda b: b.num_rows
            )
            yield from map(noting(convert, location), counted)

    def _bulk(
        self, what: str, *, progress: Progress | None
    ) -> Iterator[pa.RecordBatch]:
        """Return all rows in Arrow batches, after the functions of ``map``.

        Batches have a few megabytes, at any size of the rows, or as many rows as functions get.
        """
        if self.has_files:
            raise FormatError(
                'Arrow data cannot hold the files of with_blobs("files"): call with_blobs("bytes") first'
            )
        if steps_of(self.transform_fn):
            view = self.with_format("arrow")
            yield from progress_over(
                view._batches(FUNCTION_ROWS, skip_last_batch=False, progress=False),
                self.num_rows,
                what,
                enabled=progress,
                rows_of=lambda batch: batch.num_rows,
            )
            return
        view = self.with_format("arrow")
        reader = view.open_reader()
        with preparing([(reader, self.order)], progress):
            batches = reader.load(self.order, None, False)  # noqa: FBT003
            yield from progress_over(
                map(view._record_batch, batches),
                self.num_rows,
                what,
                enabled=progress,
                rows_of=lambda batch: batch.num_rows,
            )

    def take_offsets(self, offsets: Positions) -> Any:
        """Return the rows at some positions as one batch.

        Args:
            offsets: Positions in ``range(len(self))``, as a sequence, a 1-d array or a 1-d tensor.
                They may repeat.

        Returns:
            A batch of the rows in the order of ``offsets``, in the format of the permutation.

        Raises:
            IndexError: If a position is too large.
            OverflowError: If a position is negative.
            TypeError: If a position is not an integer.

        Example:
            >>> perm.take_offsets([3, 1, 3])
            [{'x': 3}, {'x': 1}, {'x': 3}]
        """
        taken = self._take_native(offsets)
        return self._converted(taken, offsets)

    def __getitems__(self, indices: Positions) -> Any:
        """Return the rows at some positions; torch's ``DataLoader`` calls this for each batch.

        Like ``take_offsets``, except that lists of dicts keep their columns, from which torch's
        ``default_collate`` makes a batch without converting single rows.
        """
        register_batches()
        taken = self._take_native(indices)
        transform = self.transform_fn
        if self.has_files:
            return self._converted(taken, indices)
        if transform is Transforms.arrow2python or is_format(transform, "torch"):
            return LazyRows(self._record_batch(taken), transform)
        batch = self._converted(taken, indices)
        if is_stack_dataset(sys._getframe(1)):
            return rows_of(batch, taken.num_rows, whole_of(transform))
        return batch

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...

    @overload
    def __getitem__(self, index: slice | Positions) -> Any: ...

    def __getitem__(self, index: Any) -> Any:
        """Return a batch of one row, as in LanceDB, of a slice, or of any positions.

        Use ``row`` for a single row as a dict.

        Args:
            index: A position, which may be negative; a slice; or positions as for
                ``take_offsets``.

        Raises:
            IndexError: If a position is out of range.
            TypeError: If ``index`` is a mask or the name of a column.

        Example:
            >>> perm[2:4], perm[-1]
            ([{'x': 2}, {'x': 3}], [{'x': 9}])
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self.num_rows)
            length = len(range(start, stop, step))
            picked = self.order.slice(start if length else 0, length, step)
            reader = self.open_format_reader()
            return self._converted(
                reader.read(picked, 0, length), range(start, stop, step)
            )
        if isinstance(index, str):
            message = (
                f"permutations are indexed by position, not by {index!r}: pass positions, or "
                f"call select_columns([{index!r}]) for a column"
            )
            raise TypeError(message)
        try:
            position = operator.index(index)
        except TypeError:
            check_not_mask(index)
            return self.take_offsets(index)
        if position < 0:
            position += self.num_rows
        if not 0 <= position < self.num_rows:
            message = f"row {index} is out of range for {self.num_rows} rows"
            raise IndexError(message)
        return self.take_offsets([position])

    def row(self, index: SupportsIndex) -> dict[str, Any]:
        """Return one row as a dict of Python objects, in any format of the permutation.

        Args:
            index: A position, which may be negative.

        Raises:
            IndexError: If ``index`` is out of range.

        Example:
            >>> perm.with_format("arrow").row(3)
            {'x': 3}
        """
        position = operator.index(index)
        rows: list[dict[str, Any]] = self.with_transform(Transforms.arrow2python)[
            position
        ]
        return rows[0]

    def head(self, n: int = 5) -> Any:
        """Return the first ``n`` rows as one batch, or all rows if there are fewer."""
        return self[: count(n, "n")]

    def to_arrow(self, *, progress: bool | None = None) -> pa.Table:
        """Return all rows as a ``pyarrow.Table``.

        Args:
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.
        """
        import pyarrow as pa

        batches = self._bulk("reading", progress=progress)
        if steps_of(self.transform_fn) and self.num_rows:
            tables = [pa.Table.from_batches([batch]) for batch in batches]
            return pa.concat_tables(tables, promote_options="permissive")
        return pa.Table.from_batches(batches, schema=self.schema)

    def to_polars(self, *, progress: bool | None = None) -> pl.DataFrame:
        """Return all rows as a ``polars.DataFrame``.

        Args:
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Raises:
            ImportError: If polars is not installed.
        """
        need("polars", "to_polars()")
        import polars as pl

        frame = pl.from_arrow(self.to_arrow(progress=progress))
        if not isinstance(frame, pl.DataFrame):
            raise TypeError(type(frame))
        return frame

    def to_pandas(self, *, progress: bool | None = None) -> pd.DataFrame:
        """Return all rows as a ``pandas.DataFrame``.

        Args:
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Raises:
            ImportError: If pandas is not installed.
        """
        need("pandas", "to_pandas()")
        return as_storable(self.to_arrow(progress=progress)).to_pandas()

    def unique(self, column: str, *, progress: bool | None = None) -> list[Any]:
        """Return the distinct values of a column, in order of first appearance.

        Args:
            column: The name of a column, which is read once.
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            Python objects, with ``None`` for null.

        Raises:
            ColumnNotFoundError: If the column does not exist.
            FormatError: If the values are lists or structs, for which this is not supported.

        Example:
            >>> perm.with_take(3).unique("x")
            [0, 1, 2]
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        narrow = self._without_functions({column: self.resolve_column(column)})
        parts = []
        try:
            for batch in narrow._bulk(f"reading {column}", progress=progress):
                values = canonical(pa.Table.from_batches([batch])).column(0)
                parts.append(pc.unique(values))
            kind = parts[0].type if parts else pa.null()
            distinct = listed(pc.unique(pa.chunked_array(parts, kind)))
        except pa.ArrowNotImplementedError as error:
            message = (
                f"column `{column}` of type {narrow.schema.field(0).type}: {error}"
            )
            raise FormatError(message) from error
        return distinct

    def _without_functions(self, selection: dict[str, str]) -> Self:
        """Return the rows with other columns, as they are stored: without functions of ``map``."""
        view = self.with_selection(selection)
        return view._replace(transform_fn=format_of(self.transform_fn))

    def _take_native(self, positions: Any) -> Any:
        reader = self.open_format_reader()
        if not isinstance(positions, list | range) and hasattr(positions, "tolist"):
            # The core reads numpy arrays by the buffer protocol, which tensors lack.
            positions = (
                positions
                if hasattr(positions, "__array_interface__")
                else positions.tolist()
            )
        try:
            return reader.take(self.order, positions)
        except OverflowError as error:
            outside = next((p for p in positions if not 0 <= p < self.num_rows), None)
            if outside is None:
                raise
            message = (
                f"`offsets` holds {outside}, but the positions of this permutation are 0 to "
                f"{self.num_rows - 1}; only single positions in brackets, as in perm[-1], may be "
                "negative"
            )
            raise OverflowError(message) from error

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
            import numpy as np

            places: Any
            if isinstance(positions, range) and positions.step == 1:
                start, stop = positions.start, positions.stop
                places = numpy_of(numbers_of(self.order.offsets(start, stop)))
            else:
                places = [self.order.at(int(position)) for position in positions]
            return *self.randomness, np.asarray(places, np.uint64)

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


def check_not_mask(positions: Any) -> None:
    """Check that ``positions`` is neither a mask nor bytes, which would be read as integers.

    Raises:
        TypeError: If it is.
    """
    kind = str(getattr(positions, "dtype", "")).rpartition(".")[2]
    first = next(iter(positions), None) if isinstance(positions, list | tuple) else None
    if kind == "bool" or isinstance(first, bool):
        raise TypeError(
            "permutations are indexed by position, not by a mask: call perm.filter(mask) instead"
        )
    if isinstance(positions, bytes | bytearray):
        message = f"permutations are indexed by position, not by bytes ({bytes(positions[:8])!r})"
        raise TypeError(message)


_is_registered = False


def register_batches() -> None:
    """Register the classes of batches with torch's ``default_collate``, if torch was imported."""
    global _is_registered
    if not _is_registered and "torch.utils.data" in sys.modules:
        from lanceloader.formats.torch import register

        register()
        _is_registered = True
