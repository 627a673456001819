"""Reading windows: the rows of all windows of a batch at once, for each set of steps."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._native import Order
from lanceloader.options import ReadOptions
from lanceloader.sources.window_batches import WindowBatches
from lanceloader.sources.window_ends import clipped, filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from lanceloader._native import Episodes
    from lanceloader.sources.base import Source

    Steps = tuple[int, ...] | None

__all__ = ["Part", "WindowColumn", "WindowReader"]

ROWS_AT_ONCE = 8192
"""The number of rows, of all steps, in a batch of unspecified size."""


@dataclass(frozen=True)
class WindowColumn:
    """A column of windows.

    Attributes:
        column: The column of the table; empty for padding.
        steps: The distances of the rows of a window from its own row.
        ends: What windows hold beyond the ends of an episode; see ``Permutation.windows``.
        fill_value: What they hold with ``ends="fill"``.
        is_padding: Whether the column says which steps are beyond the ends instead.
    """

    column: str
    steps: tuple[int, ...]
    ends: str
    fill_value: Any = None
    is_padding: bool = False

    def field(self, name: str, values: pa.Field | None) -> pa.Field:
        """Return the field of the column.

        Args:
            name: The name of the column.
            values: The field of the column of the table.
        """
        import pyarrow as pa

        size = len(self.steps)
        if self.is_padding or values is None:
            item = pa.field("item", pa.bool_(), nullable=False)
            return pa.field(name, pa.list_(item, size), nullable=False)
        item = values.with_name("item")
        kind = pa.list_(item) if self.ends == "clip" else pa.list_(item, size)
        return pa.field(name, kind, nullable=False)


class SharedOptions(ReadOptions):
    """Options of one of several readers, which share the memory equally.

    Attributes:
        num_readers: How many there are.
    """

    num_readers = 1

    @classmethod
    def of(cls, options: ReadOptions, num_readers: int) -> SharedOptions:
        """Return the options of a reader."""
        names = [field.name for field in dataclasses.fields(options)]
        shared = cls(**{name: getattr(options, name) for name in names})
        object.__setattr__(shared, "num_readers", num_readers)
        return shared

    def for_native(self) -> dict[str, Any]:
        return super().for_native() | {"num_readers": self.num_readers}


@dataclass(frozen=True)
class Part:
    """Columns that are read at the same steps.

    Attributes:
        reader: The reader of the columns.
        names: Their names in the table.
        steps: The steps; ``None`` for the rows themselves.
    """

    reader: Any
    names: tuple[str, ...]
    steps: Steps

    @classmethod
    def of(
        cls,
        source: Source,
        names: Sequence[str],
        steps: Steps,
        options: ReadOptions | None,
        num_parts: int,
    ) -> Part:
        """Return a part of the columns that a source reads.

        All parts together keep within the memory limit. Rows that are read several times are not
        written to scratch files, unless that is requested.
        """
        options = options or ReadOptions()
        columns = [(name, name) for name in names]
        reader = source.reader(columns, SharedOptions.of(options, num_parts))
        if (
            steps is not None
            and isinstance(reader, _native.Reader)
            and options.for_native()["read"] != "external"
            and reader.choice().strategy == "external"
        ):
            direct = dataclasses.replace(options, read="direct")
            reader = source.reader(columns, SharedOptions.of(direct, num_parts))
        return cls(reader, tuple(names), steps)

    @property
    def width(self) -> int:
        """The number of rows to read for each row of a batch."""
        return 1 if self.steps is None else len(self.steps)

    def order(self, episodes: Episodes, order: Order) -> Order:
        """Return the rows to read for those of an order."""
        return order if self.steps is None else episodes.neighbours(order, self.steps)


class WindowReader:
    """A reader of windows; see ``RowReader`` for the methods.

    Attributes:
        parts: The columns of the table, by steps.
    """

    def __init__(
        self,
        episodes: Episodes,
        parts: Sequence[Part],
        outputs: Sequence[tuple[str, str | WindowColumn]],
    ) -> None:
        """Create a reader.

        Args:
            episodes: The episodes.
            parts: The columns that are read, by steps.
            outputs: Pairs of an output name, and a column of the table or of windows.
        """
        self.parts = tuple(parts)
        self._episodes = episodes
        self._outputs = list(outputs)
        # Padding comes after what is read, at its own steps.
        self._paddings = list(
            dict.fromkeys(
                column.steps
                for _, column in outputs
                if isinstance(column, WindowColumn) and needs_padding(column)
            )
        )
        self._schema, self._columns = self._layout()

    def _layout(self) -> tuple[pa.Schema, list[tuple[str, int, int, int | None]]]:
        """Return the schema of the batches, and where each column comes from."""
        import pyarrow as pa

        schemas = [pa.schema(part.reader) for part in self.parts]
        at_steps = {part.steps: at for at, part in enumerate(self.parts)}
        fields, columns = [], []
        for name, column in self._outputs:
            if isinstance(column, str):
                steps, size, source = None, None, column
            else:
                steps, size, source = column.steps, len(column.steps), column.column
            if isinstance(column, WindowColumn) and column.is_padding:
                at = len(self.parts) + self._paddings.index(column.steps)
                fields.append(column.field(name, None))
                columns.append((name, at, 0, size))
                continue
            at = at_steps[steps]
            place = self.parts[at].names.index(source)
            field = schemas[at].field(place)
            if isinstance(column, WindowColumn):
                fields.append(column.field(name, field))
            else:
                fields.append(field.with_name(name))
            columns.append((name, at, place, size))
        return pa.schema(fields, metadata=schemas[0].metadata), columns

    @property
    def num_bytes(self) -> int:
        """The bytes that the places of rows in their episodes take."""
        return self._episodes.num_bytes

    def order(self, part: Part, order: Order) -> Order:
        """Return the rows that a part reads for those of an order."""
        return part.order(self._episodes, order)

    def as_signed(self) -> WindowReader:
        """Return the same reader with system columns as int64 instead of uint64."""
        new = copy.copy(self)
        new.parts = tuple(
            dataclasses.replace(part, reader=part.reader.as_signed())
            for part in self.parts
        )
        new._schema, new._columns = new._layout()
        return new

    def __arrow_c_schema__(self) -> Any:
        """Return the schema of the batches as a capsule."""
        return self._schema.__arrow_c_schema__()

    def take(self, order: Order, positions: Sequence[int]) -> Any:
        """Return the rows at ``positions``, in that order."""
        picked = order.pick(Order.listed(positions))
        return self.read(picked, 0, len(picked))

    def read(self, order: Order, start: int, stop: int) -> Any:
        """Return the rows at positions ``start`` to ``stop`` (exclusive)."""
        batches = [
            part.reader.read(
                self.order(part, order), start * part.width, stop * part.width
            )
            for part in self.parts
        ]
        return self._joined(batches, order, start, stop)

    def load(
        self,
        order: Order,
        batch_size: int | None,
        drop_last: bool,  # noqa: FBT001
        following: Order | None = None,
        ends: Any = None,
    ) -> WindowBatches:
        """Iterate over all rows in batches, which are read ahead; see ``RowReader.load``.

        Args:
            order: The rows whose windows are read.
            batch_size: The number of rows in a batch.
            drop_last: Whether to leave out a last batch that is smaller.
            following: The rows that will be read next, which the core prepares for.
            ends: The end of each batch, as an array of 64-bit integers, instead of ``batch_size``.
        """
        widest = max(part.width for part in self.parts)
        size = batch_size or max(1, ROWS_AT_ONCE // widest)
        loads = [
            self._load(part, order, size, drop_last, following, ends)
            for part in self.parts
        ]
        num_rows = order.num_rows
        if drop_last:
            num_rows -= num_rows % size
        cuts: Iterable[tuple[int, int]] = (
            (start, min(start + size, num_rows)) for start in range(0, num_rows, size)
        )
        if ends is not None:
            cuts = pairwise([0, *ends.tolist()])

        def joined(batches: Sequence[Any], start: int, stop: int) -> Any:
            return self._joined(batches, order, start, stop)

        return WindowBatches(loads, cuts, joined)

    def _load(
        self,
        part: Part,
        order: Order,
        size: int,
        drop_last: bool,  # noqa: FBT001
        following: Order | None,
        ends: Any,
    ) -> Iterator[Any]:
        """Iterate over what a part reads for windows; the arguments are those of ``load``."""
        rows, width, reader = self.order(part, order), part.width, part.reader
        if isinstance(reader, _native.Reader):
            after = None if following is None else self.order(part, following)
            if ends is not None:
                return reader.load(rows, None, drop_last, after, ends * width)
            return reader.load(rows, size * width, drop_last, after)
        if ends is None:
            return iter(reader.load(rows, size * width, drop_last))
        cuts = pairwise([0, *ends.tolist()])
        return (reader.read(rows, a * width, b * width) for a, b in cuts)

    def _joined(
        self, batches: Sequence[Any], order: Order, start: int, stop: int
    ) -> Any:
        """Return what the parts read as one batch."""
        paddings: list[_native.Batch] = []
        if self._paddings:
            paddings = self._episodes.padding(order, start, stop, self._paddings)
        batch = _native.stacked([*batches, *paddings], self._columns)
        return self._with_ends(batch, paddings)

    def _with_ends(self, batch: _native.Batch, paddings: Sequence[Any]) -> Any:
        """Return a batch with columns that hold something else than rows beyond the ends."""
        import pyarrow as pa

        rows: pa.RecordBatch | None = None
        for at, (_, column) in enumerate(self._outputs):
            if isinstance(column, str) or column.is_padding:
                continue
            if column.ends not in ("fill", "clip"):
                continue
            if rows is None:
                rows = pa.record_batch(batch)
            padding = pa.record_batch(paddings[self._paddings.index(column.steps)])
            field = self._schema.field(at)
            if column.ends == "clip":
                values = clipped(rows.column(at), padding.column(0), field.type)
            else:
                value = column.fill_value
                values = filled(rows.column(at), padding.column(0), value)
            rows = rows.set_column(at, field, values)
        return batch if rows is None else rows


def needs_padding(column: WindowColumn) -> bool:
    """Return whether reading a column needs to know which steps are beyond the ends."""
    return column.is_padding or column.ends in ("fill", "clip")
