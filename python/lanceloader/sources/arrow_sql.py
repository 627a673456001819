"""SQL over Arrow data, by way of a LanceDB table in memory.

LanceDB treats some columns as vectors, reserves some names and does not store every type. So
only the columns that the SQL text names are copied to the table, cast to types that LanceDB
stores, and renamed where LanceDB would refuse the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Order
from lanceloader.engine import ROW_ID, SYSTEM, Engine, LancedbEngine
from lanceloader.errors import UnsupportedError
from lanceloader.numbers import offsets_of
from lanceloader.sql import name_not_found, references, with_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = ["ArrowEngine"]

RESERVED = {*SYSTEM, "_row_created_at_version", "_row_last_updated_at_version"}
"""Column names that Lance reserves."""


class ArrowEngine(Engine):
    """An engine over Arrow data, in which row ids are row offsets."""

    def __init__(self, data: pa.Table) -> None:
        """Wrap ``data``. A scan copies only the columns that it names."""
        self.data = data

    def schema(self) -> pa.Schema:
        return self.data.schema

    def count_rows(self) -> int:
        return int(self.data.num_rows)

    def version(self) -> int:
        return 1

    def take(self, keys: Sequence[int], key: str, columns: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        numbers = pa.array(keys, pa.uint64())
        names = [name for name in columns if name not in SYSTEM]
        return self.data.select(names).take(numbers).append_column(key, numbers)

    def scan(
        self, columns: dict[str, str], predicate: str | None = None
    ) -> pa.RecordBatchReader:
        # `_rowid` always means the row offset, even if the data has a column of that name.
        texts = {name: text for name, text in columns.items() if name != ROW_ID}
        inputs = SqlColumns(self.data, [*texts.values(), predicate or ""])
        expressions = {name: inputs.rewritten(text) for name, text in texts.items()}
        where = None if predicate is None else inputs.rewritten(predicate)
        try:
            engine = LancedbEngine(memory_table(inputs.table()))
            expressions[inputs.row] = inputs.row
            found = engine.scan(expressions, where).read_all()
        except (RuntimeError, ValueError, OSError) as error:
            name = name_not_found(error)
            reason = None if name is None else inputs.omitted.get(name.casefold())
            if reason is None:
                raise
            message = (
                f"column `{name}` cannot be used in SQL: {reason}; filter by a boolean array "
                "instead, such as the result of a `pyarrow.compute` function"
            )
            raise UnsupportedError(message) from error
        # LanceDB writes and reads the parts of a table in any order.
        found = without_views(found).sort_by(inputs.row)
        names = [inputs.row if name == ROW_ID else name for name in columns]
        return found.select(names).rename_columns(list(columns)).to_reader()


class SqlColumns:
    """The columns of a table that SQL texts refer to, and a column of row offsets."""

    def __init__(self, data: pa.Table, texts: Sequence[str]) -> None:
        """Collect the columns of ``data`` that ``texts`` refer to."""
        self.omitted: dict[str, str] = {}
        """Why a column cannot be stored, by its name in lower case."""
        self._data = data
        self._texts = texts
        self._known = list(dict.fromkeys([*data.column_names, *SYSTEM]))
        self._names: dict[str, str] = {}
        self._columns: dict[str, pa.ChunkedArray] = {}
        self.row = self._unused("row")
        found = {
            part.column for text in texts for part in references(text, self._known)
        }
        for column in self._known:
            if column not in data.column_names:
                self._names[column] = self.row
            elif column in found:
                self._add(column)

    def rewritten(self, text: str) -> str:
        """Return a text in which columns have their names in ``table``."""
        return with_names(text, self._known, self._names)

    def table(self) -> pa.Table:
        """Return the columns as types, and under names, that LanceDB stores."""
        import pyarrow as pa

        columns = {self.row: offsets_of(Order.all(self._data.num_rows))}
        return pa.table(columns | self._columns)

    def _add(self, column: str) -> None:
        import pyarrow as pa

        values = self._data[column]
        try:
            chunks = [
                stored(chunk) for chunk in values.chunks or [pa.nulls(0, values.type)]
            ]
        except (UnsupportedError, pa.ArrowNotImplementedError) as error:
            self.omitted[column.casefold()] = str(error)
            return
        name = column
        if column in RESERVED or not column or not set(column).isdisjoint(".`"):
            name = self._names[column] = self._unused(f"column{len(self._columns)}")
        self._columns[name] = pa.chunked_array(chunks)

    def _unused(self, name: str) -> str:
        """Append underscores to a name until no column and no text contains it."""
        taken = "\n".join([*self._known, *self._texts]).casefold()
        while name in taken:
            name += "_"
        return name


def memory_table(data: pa.Table) -> Any:
    """Create a LanceDB table in memory with exactly these rows.

    Raises:
        UnsupportedError: If lancedb is not installed.
    """
    try:
        import lancedb
    except ImportError:
        message = (
            "SQL over Arrow data needs lancedb, which is not installed: "
            'pip install "lanceloader[lancedb]"'
        )
        raise UnsupportedError(message) from None
    database = lancedb.connect("memory://")
    # `create_table` with rows would turn columns of some names into vectors.
    table = database.create_table("data", schema=data.schema)
    if data.num_rows:
        table.add(data)
    return table


def without_views(table: pa.Table) -> pa.Table:
    """Return a table whose views, which some functions return, are texts and bytes pyarrow can sort."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    fields = [
        field.with_type(plain.get(field.type, field.type)) for field in table.schema
    ]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def stored(array: pa.Array) -> pa.Array:
    """Cast an array to a type that LanceDB stores and that keeps the values.

    Raises:
        UnsupportedError: If there is no such type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = array.type
    if types.is_union(kind) or types.is_interval(kind):
        raise UnsupportedError(f"SQL has no type for the values of {kind}")
    if isinstance(kind, pa.BaseExtensionType):
        inner = stored(array.storage)
        return array if inner.type == kind.storage_type else inner
    if types.is_dictionary(kind):
        return stored(array.dictionary).take(array.indices)
    if types.is_run_end_encoded(kind):
        return stored(pc.run_end_decode(array))
    if types.is_struct(kind):
        fields = [stored(field) for field in array.flatten()]
        if [field.type for field in fields] == [field.type for field in kind]:
            return array
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(fields, names, mask=array.is_null())
    if is_list(kind):
        values = stored(array.flatten())
        # LanceDB treats fixed-size lists of floats as vectors and refuses NaN in them.
        is_vector = types.is_fixed_size_list(kind) and types.is_floating(values.type)
        is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
        if values.type == kind.value_type and not is_vector and not is_view:
            return array
        lengths = pc.list_value_length(array).cast(pa.int64()).fill_null(0)
        ends = pc.cumulative_sum(lengths)
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
        return pa.LargeListArray.from_arrays(offsets, values, mask=array.is_null())
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return array.cast(pa.decimal128(kind.precision, kind.scale))
    if kind == pa.string_view():
        return array.cast(pa.large_string())
    if kind == pa.binary_view():
        return array.cast(pa.large_binary())
    return array


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list of any kind. Maps are not lists."""
    from pyarrow import types

    tests = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(test(kind) for test in tests)
