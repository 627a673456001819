"""SQL over Arrow data: the columns that a text names, as a LanceDB table in memory.

LanceDB takes some columns for vectors, keeps names for itself and does not store every type.
So it gets only the columns that are named, as types that it stores with the same values, and
under other names where it would refuse theirs.
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
"""Names that Lance keeps for itself."""


class ArrowEngine(Engine):
    """Arrow data as a table whose row ids are row offsets."""

    def __init__(self, data: pa.Table) -> None:
        """Ask of ``data``. Only columns that are asked for are copied."""
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
        # The column of row ids is ours, also where the data has one of this name.
        texts = {name: text for name, text in columns.items() if name != ROW_ID}
        named = Named(self.data, [*texts.values(), predicate or ""])
        asked = {name: named.rewritten(text) for name, text in texts.items()}
        where = None if predicate is None else named.rewritten(predicate)
        try:
            engine = LancedbEngine(memory_table(named.table()))
            found = engine.scan(asked | {named.row: named.row}, where).read_all()
        except (RuntimeError, ValueError, OSError) as error:
            name = name_not_found(error)
            reason = None if name is None else named.left_out.get(name.casefold())
            if reason is None:
                raise
            message = (
                f"column `{name}`: {reason}; filter by a boolean array instead, as from "
                "pyarrow.compute"
            )
            raise UnsupportedError(message) from error
        # Parts of a table are written, and come back, in any order.
        found = found.sort_by(named.row)
        names = [named.row if name == ROW_ID else name for name in columns]
        return found.select(names).rename_columns(list(columns)).to_reader()


class Named:
    """The columns that SQL texts name, and a column of row offsets."""

    def __init__(self, data: pa.Table, texts: Sequence[str]) -> None:
        """Look for columns of ``data`` in ``texts``."""
        self.left_out: dict[str, str] = {}
        """Why a column is not there, by its name in lower case."""
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
        """Return a text with the names that columns have in ``table``."""
        return with_names(text, self._known, self._names)

    def table(self) -> pa.Table:
        """Return the columns as the engine stores them."""
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
            self.left_out[column.casefold()] = str(error)
            return
        name = column
        if column in RESERVED or not column or not set(column).isdisjoint(".`"):
            name = self._names[column] = self._unused(f"column{len(self._columns)}")
        self._columns[name] = pa.chunked_array(chunks)

    def _unused(self, word: str) -> str:
        """Return a name that no column and no text has."""
        taken = "\n".join([*self._known, *self._texts]).casefold()
        while word in taken:
            word += "_"
        return word


def memory_table(data: pa.Table) -> Any:
    """Put rows into a LanceDB table in memory as they are.

    Raises:
        UnsupportedError: If lancedb is not installed.
    """
    try:
        import lancedb
    except ImportError:
        message = "SQL over Arrow data: pip install lanceloader[lancedb]"
        raise UnsupportedError(message) from None
    database = lancedb.connect("memory://")
    # Made with rows, columns of some names would become vectors.
    table = database.create_table("data", schema=data.schema)
    if data.num_rows:
        table.add(data)
    return table


def stored(array: pa.Array) -> pa.Array:
    """Return the same values as a type that the engine stores.

    Raises:
        UnsupportedError: If there is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = array.type
    if types.is_union(kind) or types.is_interval(kind):
        raise UnsupportedError(f"no SQL type has the values of {kind}")
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
        # Fixed-size lists of floats are vectors to it, which may not hold NaN.
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
    """Whether this is a list, of any kind but a map."""
    from pyarrow import types

    tests = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(test(kind) for test in tests)
