"""The methods that read rows in the format of a permutation."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

from lanceloader._extras import need
from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.errors import FormatError
from lanceloader.formats import (
    is_format,
    whole_of,
)
from lanceloader.formats._rows import is_stack_dataset, rows_of
from lanceloader.formats.functions import steps_of
from lanceloader.formats.python import LazyRows
from lanceloader.locations import location_of_rows, noting
from lanceloader.monitor.preparation import preparing
from lanceloader.monitor.progress import check_bar, progress_over
from lanceloader.numbers import count
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.values import as_storable, canonical, listed
from lanceloader.verbs.converting import ConvertVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from lanceloader._typing import Positions, Progress
    from lanceloader.locations import RowLocation

__all__ = ["ReadVerbs"]

FUNCTION_ROWS = 1000
"""The number of rows for which functions of ``map`` and ``filter`` are called to read all rows."""

ENGINE_BATCH_SIZE = 8192
"""The number of rows in a batch of ``batch_size`` 0, as in LanceDB."""


class ReadVerbs(ConvertVerbs):
    """Methods that iterate, take rows by position, and read all rows."""

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
