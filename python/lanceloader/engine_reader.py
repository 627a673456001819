"""Reading rows through an engine, for columns and tables that the native reader cannot read."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lanceloader._native import Order
from lanceloader.blobs import with_bytes
from lanceloader.engine import KEYS_PER_TAKE, ROW_ID, SYSTEM
from lanceloader.errors import ColumnNotFoundError, UnsupportedError
from lanceloader.numbers import numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from lanceloader._native import Table
    from lanceloader.engine import Engine

__all__ = ["EngineReader"]

SYSTEM_PATHS = tuple((name,) for name in SYSTEM)


class EngineReader:
    """A reader of columns through an engine; see ``RowReader`` for the methods."""

    def __init__(
        self,
        engine: Engine,
        columns: Sequence[tuple[str, str]],
        key: str,
        keys: Table | None = None,
    ) -> None:
        """Create a reader.

        Args:
            engine: The engine.
            columns: Pairs of output name and source name.
            key: The column by which the engine looks rows up: ``_rowid`` or ``_rowoffset``.
            keys: The native table that maps the row offsets of an order to row ids; ``None`` if
                orders hold the values of ``key``.

        Raises:
            ColumnNotFoundError: If a column does not exist.
            UnsupportedError: If a system column is requested that the engine cannot read.
        """
        known = SYSTEM if keys is not None else (key, ROW_ID)
        for _, source in columns:
            if source in SYSTEM and source not in known:
                names = " and ".join(f"`{name}`" for name in dict.fromkeys(known))
                message = (
                    f"column `{source}` cannot be read, because this table is read by its own "
                    f"library; of the system columns, only {names} can be"
                )
                raise UnsupportedError(message)
        self._engine = engine
        schema = engine.schema()
        self._columns = [(name, path_of(schema, source)) for name, source in columns]
        self._key = key
        self._keys = keys
        self._schema = self._output_schema()

    def as_signed(self) -> EngineReader:
        """Return the same reader with system columns as int64 instead of uint64."""
        import pyarrow as pa

        fields = [
            field.with_type(pa.int64())
            if path in SYSTEM_PATHS and field.type == pa.uint64()
            else field
            for field, (_, path) in zip(self._schema, self._columns, strict=True)
        ]
        new = copy.copy(self)
        new._schema = pa.schema(fields, metadata=self._schema.metadata)
        return new

    def __arrow_c_schema__(self) -> Any:
        """Return the schema of the batches as a capsule."""
        return self._schema.__arrow_c_schema__()

    def take(self, order: Order, positions: Sequence[int]) -> pa.RecordBatch:
        """Return the rows at ``positions``, in that order."""
        picked = order.pick(Order.listed(positions))
        return self.read(picked, 0, len(picked))

    def read(self, order: Order, start: int, stop: int) -> pa.RecordBatch:
        """Return the rows at positions ``start`` to ``stop`` (exclusive).

        Raises:
            IndexError: If a row was deleted.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        offsets = numbers_of(order.offsets(start, stop))
        keys = offsets
        if self._keys is not None:
            keys = numbers_of(self._keys.row_ids(order, start, stop))
        if len(keys) == 0:
            return empty(self._schema)
        tops = list(dict.fromkeys(top for _, (top, *_) in self._columns))
        rows = self._engine.take(pc.unique(keys).to_pylist(), self._key, tops)
        found = rows[self._key].combine_chunks()
        indices = pc.index_in(keys, value_set=found)
        if indices.null_count:
            missing = keys.filter(indices.is_null())[0]
            message = f"row {missing} is no longer in the table"
            raise IndexError(message)
        rows = rows.take(indices).combine_chunks()
        system = self._system_columns(order, start, stop)
        system.setdefault(self._key, keys)
        columns = []
        for field, (_, path) in zip(self._schema, self._columns, strict=True):
            top, *inner = path
            column = system[top] if top in system else rows[top].combine_chunks()
            if inner:
                column = pc.struct_field(column, inner)
            columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _system_columns(self, order: Order, start: int, stop: int) -> dict[str, Any]:
        """Return the system columns by name, if a native table provides them."""
        import pyarrow as pa

        if self._keys is None:
            return {}
        reader = self._keys.reader([(name, name) for name in SYSTEM])
        batch = pa.record_batch(reader.read(order, start, stop))
        return dict(zip(SYSTEM, batch.columns, strict=True))

    def load(
        self,
        order: Order,
        batch_size: int | None,
        drop_last: bool,  # noqa: FBT001
    ) -> Iterator[pa.RecordBatch]:
        """Iterate over all rows in batches; see ``RowReader.load``."""
        batch_size = batch_size or KEYS_PER_TAKE
        for start in range(0, len(order), batch_size):
            stop = min(start + batch_size, len(order))
            if stop - start == batch_size or not drop_last:
                yield self.read(order, start, stop)

    def _output_schema(self) -> pa.Schema:
        import pyarrow as pa

        table = self._engine.schema()
        fields = []
        for name, (top, *inner) in self._columns:
            if top in SYSTEM and top not in table.names:
                fields.append(pa.field(name, pa.uint64()))
                continue
            field = table.field(top)
            for part in inner:
                child = field.type.field(part)
                field = child.with_nullable(child.nullable or field.nullable)
            fields.append(with_bytes(field).with_name(name))
        return pa.schema(fields, metadata=table.metadata)


def path_of(schema: pa.Schema, name: str) -> tuple[str, ...]:
    """Return the path of a column, or of a struct field given by its dotted name.

    Raises:
        ColumnNotFoundError: If it does not exist.
    """
    import pyarrow as pa

    if name in schema.names or name in SYSTEM:
        return (name,)

    def paths(fields: Iterable[pa.Field], rest: str) -> Iterator[tuple[str, ...]]:
        for field in fields:
            if rest == field.name:
                yield (field.name,)
            elif rest.startswith(f"{field.name}.") and pa.types.is_struct(field.type):
                inner = paths(list(field.type), rest[len(field.name) + 1 :])
                yield from ((field.name, *path) for path in inner)

    for path in paths(schema, name):
        return path
    names = ", ".join(f"`{column}`" for column in schema.names)
    message = f"column `{name}` does not exist; the columns are {names}"
    raise ColumnNotFoundError(message)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch without rows."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(
        [pa.array([], field.type) for field in schema], schema=schema
    )
