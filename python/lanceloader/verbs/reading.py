"""The methods that iterate over batches, and read all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lanceloader._extras import need
from lanceloader.errors import FormatError
from lanceloader.formats.functions import steps_of
from lanceloader.locations import location_of_rows, noting
from lanceloader.monitor.preparation import preparing
from lanceloader.monitor.progress import check_bar, progress_over
from lanceloader.numbers import count
from lanceloader.sources.core_readers import core_reads
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.values import as_storable, canonical, listed
from lanceloader.verbs.columns import sources_of
from lanceloader.verbs.converting import ConvertVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from lanceloader._typing import Progress
    from lanceloader.locations import RowLocation

__all__ = ["ReadVerbs"]

FUNCTION_ROWS = 1000
"""The number of rows for which functions of ``map`` and ``filter`` are called to read all rows."""

ENGINE_BATCH_SIZE = 8192
"""The number of rows in a batch of ``batch_size`` 0, as in LanceDB."""


class ReadVerbs(ConvertVerbs):
    """Methods that iterate over batches, and read all rows."""

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
        with preparing(core_reads(reader, self.order), progress):
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
        with preparing(core_reads(reader, self.order), progress):
            batches = reader.load(self.order, None, False)  # noqa: FBT003
            yield from progress_over(
                map(view._record_batch, batches),
                self.num_rows,
                what,
                enabled=progress,
                rows_of=lambda batch: batch.num_rows,
            )

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

    def _columns(
        self, columns: str | Sequence[str], what: str, *, progress: bool | None
    ) -> pa.Table:
        """Return columns of all rows, selected or not, as canonical values."""
        names = [columns] if isinstance(columns, str) else list(columns)
        if not names:
            message = f"`{what}` is empty: pass the name of at least one column"
            raise ValueError(message)
        selection = sources_of(self, names)
        return canonical(self._without_functions(selection).to_arrow(progress=progress))
