"""Formats, and reading batches in them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast, overload

from lanceloader import _native
from lanceloader._extras import need
from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.engine import SYSTEM
from lanceloader.errors import FormatError
from lanceloader.formats import (
    check_fill_columns,
    check_nulls,
    is_format,
    is_matrix,
    is_torch,
    native_of,
    needs_own_buffers,
    transform_of,
    whole_of,
)
from lanceloader.formats._rows import is_stack_dataset, rows_of
from lanceloader.formats.python import LazyRows
from lanceloader.locations import location_of_rows, noting
from lanceloader.monitor.progress import check_bar, progress_over
from lanceloader.numbers import count
from lanceloader.stop_iteration import without_stop_iteration
from lanceloader.values import as_storable, canonical, listed
from lanceloader.verbs.columns import ColumnVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from lanceloader._typing import Format, Nulls, Positions, Progress, Transform
    from lanceloader.locations import RowLocation
    from lanceloader.sources import RowReader

__all__ = ["ReadVerbs"]

# What LanceDB's engine takes a batch size of 0 to mean.
ENGINE_BATCH_SIZE = 8192


class ReadVerbs(ColumnVerbs):
    """Formats, iteration, random access, and reading everything."""

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
    ) -> Self:
        """Choose what a batch is handed out as.

        Args:
            format: One of

                * ``"python"``, the default: a list of dicts, one per row;
                * ``"python_col"``: a dict of lists;
                * ``"numpy"``: an array of shape (rows, columns);
                * ``"pandas"``, ``"polars"``: a frame;
                * ``"arrow"``: a ``pyarrow.RecordBatch``;
                * ``"torch"``: a list of dicts of tensors, one per row;
                * ``"torch_row"``: a list of tensors, one per row;
                * ``"torch_col"``: a tensor of shape (columns, rows);
                * ``"torch_matrix"``: a tensor of shape (rows, columns), of columns of one type;
                * ``"torch_dict"``, ``"numpy_dict"``: a dict with a tensor or array per
                  column, each of its own dtype: of shape (rows,), or (rows, dim) for
                  fixed-size lists, and in their logical shape for tensors. Lists become
                  ``Ragged(values, offsets)``, structs dicts,
                  times whole numbers (in numpy, ``datetime64``), decimals 64-bit floats,
                  text and bytes lists of Python objects.
            nulls: For the dict formats: ``"error"``, the default; ``"fill"`` to put
                ``fill_value`` in their place; or ``"mask"`` to add a boolean
                ``"<column>_mask"`` per column that is true where there is a value.
            fill_value: One value, or a dict with one per column.

        Raises:
            ValueError: If there is no such format, or it takes no such option.
            ImportError: If its library is not installed.
        """
        if format is None:
            raise AssertionError("format is required")
        options = {"nulls": nulls, "fill_value": fill_value}
        given = {name: value for name, value in options.items() if value is not None}
        transform = transform_of(format, **given)
        if given:
            check_nulls(nulls or "error", fill_value)
            if isinstance(fill_value, Mapping):
                check_fill_columns(fill_value, self.schema)
        return self.with_transform(transform)

    def with_transform(self, transform: Transform) -> Self:
        """Hand out ``transform(batch)`` for each ``pyarrow.RecordBatch``.

        It runs once per batch, in the thread that asks for it.
        """
        if transform is None:
            raise AssertionError("transform is required")
        if not callable(transform):
            message = f"`transform` must be a function of a pyarrow.RecordBatch, not {transform!r}"
            raise TypeError(message)
        return self._replace(transform_fn=transform)

    def with_batch_size(self, batch_size: int) -> Self:
        """Set the rows of a batch of ``for batch in perm``.

        Raises:
            ValueError: If ``batch_size`` is negative.
            TypeError: If it is not a whole number.
        """
        return self._replace(batch_size=count(batch_size, "batch_size"))

    def with_connection_factory(self, connection_factory: Callable[[str], Any]) -> Self:
        """Reopen the table with ``connection_factory(name)`` where this is unpickled.

        The factory must pickle: a module-level function, a partial of one, or an instance
        of a module-level class. The pickle then holds no address and no options.
        """
        if connection_factory is None:
            raise AssertionError("connection_factory is required")
        if not callable(connection_factory):
            message = (
                "`connection_factory` must be a function that opens the table of a name, not "
                f"{connection_factory!r}"
            )
            raise TypeError(message)
        return self._replace(connection_factory=connection_factory)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over batches of ``batch_size`` rows; the last may have fewer.

        Permutations made by LanceDB's names, of ``lanceloader.permutation``, leave a short last one
        out, as LanceDB does.
        """
        return self.iter(self.batch_size)

    def iter(
        self,
        batch_size: int,
        skip_last_batch: bool = False,  # noqa: FBT001, FBT002
        *,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Give the rows in batches, in order, read ahead by threads.

        Args:
            batch_size: Rows of a batch; only the last may have fewer. 0 means 8192.
            skip_last_batch: Whether to leave a short last batch out.
            progress: Whether to show a bar.
        """
        size = count(batch_size, "batch_size") or ENGINE_BATCH_SIZE
        if progress:
            check_bar()
        return self._batches(size, skip_last_batch, progress=progress)

    def _batches(
        self,
        size: int,
        skip_last_batch: bool,  # noqa: FBT001
        *,
        progress: bool,
    ) -> Iterator[Any]:
        rows = self.num_rows
        if skip_last_batch:
            rows -= rows % size
        batches: Iterator[Any] = self._open_for_format().load(
            self._order, size, skip_last_batch
        )
        counted = progress_over(
            batches, rows, "reading", enabled=progress, rows_of=lambda b: b.num_rows
        )

        def location(number: int) -> RowLocation:
            start = number * size
            positions = range(start, min(start + size, self.num_rows))
            return location_of_rows(
                self._source, self._order, positions, f"batch {number}"
            )

        convert = without_stop_iteration(self._converter())
        yield from map(noting(convert, location), counted)

    def _bulk(self, what: str, *, progress: Progress) -> Iterator[pa.RecordBatch]:
        """Give all rows in batches of some megabytes, however wide they are."""
        reading = self.with_format("arrow")
        batches = reading._ensure_open().load(self._order, None, False)  # noqa: FBT003
        return progress_over(
            map(reading._record_batch, batches),
            self.num_rows,
            what,
            enabled=progress,
            rows_of=lambda batch: batch.num_rows,
        )

    def take_offsets(self, offsets: Positions) -> Any:
        """Give the rows at these positions, in this order, repeats included.

        Args:
            offsets: Positions in ``range(len(self))``: a sequence, or a 1-d array or tensor.

        Returns:
            What the format makes of them.

        Raises:
            IndexError: If a position is too large.
            OverflowError: If one is negative.
            TypeError: If they are no whole numbers.
        """
        taken = self._take_native(offsets)
        return self._converted(taken, offsets)

    def __getitems__(self, indices: Positions) -> Any:
        """Give the rows at these positions: what ``DataLoader`` calls for a batch.

        Like ``take_offsets``, except that lists of dicts carry their columns, so that
        torch's default collate need not look at rows.
        """
        register_collate()
        taken = self._take_native(indices)
        transform = self.transform_fn
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
        """Give a batch: of one row, as in LanceDB, of a slice, or of any positions.

        Single positions may be negative. For a row as a dict see ``row``.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self.num_rows)
            length = len(range(start, stop, step))
            picked = self._order.slice(start if length else 0, length, step)
            reader = self._open_for_format()
            return self._converted(
                reader.read(picked, 0, length), range(start, stop, step)
            )
        if isinstance(index, str):
            message = (
                f"perm[{index!r}]: wanted positions; for a column use select_columns"
            )
            raise TypeError(message)
        try:
            position = operator.index(index)
        except TypeError:
            check_positions(index)
            return self.take_offsets(index)
        if position < 0:
            position += self.num_rows
        if not 0 <= position < self.num_rows:
            message = f"row {index} is out of range for {self.num_rows} rows"
            raise IndexError(message)
        return self.take_offsets([position])

    def row(self, index: SupportsIndex) -> dict[str, Any]:
        """Give the row at a position as a dict of Python objects, whatever the format.

        Raises:
            IndexError: If there is no such row.
        """
        position = operator.index(index)
        rows: list[dict[str, Any]] = self.with_transform(Transforms.arrow2python)[
            position
        ]
        return rows[0]

    def head(self, n: int = 5) -> Any:
        """Give the first ``n`` rows as one batch, or fewer if there are fewer."""
        return self[: count(n, "n")]

    def to_arrow(self, *, progress: bool = False) -> pa.Table:
        """Read everything into a ``pyarrow.Table``."""
        import pyarrow as pa

        batches = self._bulk("reading", progress=progress)
        return pa.Table.from_batches(batches, schema=self.schema)

    def to_polars(self, *, progress: bool = False) -> pl.DataFrame:
        """Read everything into a polars frame."""
        need("polars", "to_polars()")
        import polars as pl

        frame = pl.from_arrow(self.to_arrow(progress=progress))
        if not isinstance(frame, pl.DataFrame):
            raise TypeError(type(frame))
        return frame

    def to_pandas(self, *, progress: bool = False) -> pd.DataFrame:
        """Read everything into a pandas frame."""
        need("pandas", "to_pandas()")
        return as_storable(self.to_arrow(progress=progress)).to_pandas()

    def unique(self, column: str, *, progress: bool = False) -> list[Any]:
        """Give the distinct values of a column, in order of first appearance.

        Raises:
            ColumnNotFoundError: If the column does not exist.
            FormatError: If it holds lists or structs, which have no distinct values.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        narrow = self._with_selection({column: self._resolve(column)})
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
        reader = self._open_for_format()
        if not isinstance(positions, list | range) and hasattr(positions, "tolist"):
            # A torch tensor is no buffer; a numpy array is, and is read as one.
            positions = (
                positions
                if hasattr(positions, "__array_interface__")
                else positions.tolist()
            )
        return reader.take(self._order, positions)

    def _open_for_format(self, *, by_column: bool = False) -> RowReader:
        """Return the reader of batches as the format wants them.

        torch can neither index with unsigned numbers nor add them, so its formats get ids,
        addresses and offsets of rows as signed ones.

        Args:
            by_column: Whether rows must not be put side by side, even for a matrix.

        Raises:
            FormatError: If the columns of a matrix are not of one type.
        """
        reader = self._ensure_open()
        transform = self.transform_fn
        if not is_torch(transform):
            return reader
        key = transform, by_column
        known = self._formed
        if known is None or known[:2] != (reader, key):
            known = reader, key, self._formed_for(transform, by_column=by_column)
            self._formed = known
        return known[2]

    def _formed_for(self, transform: Transform, *, by_column: bool) -> RowReader:
        reader: Any = self._ensure_open()
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

    def _converter(self) -> Callable[[Any], Any]:
        """Return the function from a raw batch to a batch in the format."""
        convert = native_of(self.transform_fn)
        transform = self.transform_fn

        def hand_out(batch: Any) -> Any:
            if convert is not None and isinstance(batch, _native.Batch):
                return convert(batch)
            return transform(self._record_batch(batch))

        return hand_out

    def _converted(self, batch: Any, positions: Any) -> Any:
        """Return the batch of the rows at some positions in its format."""
        try:
            return without_stop_iteration(self._converter())(batch)
        except Exception as error:
            location_of_rows(self._source, self._order, positions).note(
                error, batch.num_rows
            )
            raise

    def _record_batch(self, batch: Any) -> pa.RecordBatch:
        """Import a batch; give it buffers of its own if what is made of it may be written to."""
        import pyarrow as pa

        if isinstance(batch, _native.Batch):
            if not batch.is_owned and needs_own_buffers(self.transform_fn):
                batch = batch.to_owned()
            return pa.record_batch(batch)
        return batch


def check_positions(positions: Any) -> None:
    """Refuse what is taken for positions, but means something else.

    Raises:
        TypeError: If it is a mask, or bytes.
    """
    kind = str(getattr(positions, "dtype", "")).rpartition(".")[2]
    first = next(iter(positions), None) if isinstance(positions, list | tuple) else None
    if kind == "bool" or isinstance(first, bool):
        raise TypeError(
            "perm[mask]: wanted positions; for a mask use perm.filter(mask)"
        )
    if isinstance(positions, bytes | bytearray):
        message = f"perm[{bytes(positions[:8])!r}]: wanted positions, not bytes"
        raise TypeError(message)


_is_registered = False


def register_collate() -> None:
    """Teach torch our batches, if torch is there; it is when a ``DataLoader`` asks."""
    global _is_registered
    if not _is_registered and "torch.utils.data" in sys.modules:
        from lanceloader.formats.torch import register

        register()
        _is_registered = True
