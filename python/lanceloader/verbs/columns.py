"""The methods that choose columns. Each returns a new permutation and reads no rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Self

from lanceloader.engine import SYSTEM
from lanceloader.errors import ColumnNotFoundError, UnsupportedError
from lanceloader.formats.decoding import Decode
from lanceloader.formats.functions import steps_of
from lanceloader.options import cache_folder
from lanceloader.sources import ComputedSource, WindowSource, computed
from lanceloader.sources.computed import name_of_expression
from lanceloader.sql import missing_column, with_names
from lanceloader.verbs.base import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from lanceloader._typing import Progress

__all__ = ["ColumnVerbs", "expanded", "sources_of"]


class ColumnVerbs(View):
    """Methods that choose columns."""

    def select_columns(
        self,
        columns: Sequence[str] | Mapping[str, str],
        *,
        progress: Progress = False,
    ) -> Self:
        """Return a permutation of some columns, in the order of ``columns``.

        Columns that are not selected are not read.

        Expressions are computed here for all rows of the table, by pylance or, for data in memory,
        by lancedb, unless that was done before. Their values are kept in the cache folder until
        ``lanceloader.cache.clear``, one table for each version and set of expressions, and are read
        like other columns. Tables in object storage, and those that only their own library
        reads, cannot have any.

        Args:
            columns: Names of columns of this permutation; paths of struct fields, with dots
                (``"meta.width"``); or ``_rowid``, ``_rowaddr`` and ``_rowoffset``. Or a dict of
                new names to such names, or to SQL expressions over the columns of the table,
                such as ``{"x2": "x * 2"}``.
            progress: Whether to show a bar while expressions are computed; or a function, called
                with the number of rows done so far and in all.

        Raises:
            ValueError: If ``columns`` is empty, or an expression is not valid.
            ColumnNotFoundError: If a column does not exist. This is both a ``ValueError`` and a
                ``KeyError``.
            TypeError: If ``columns`` is a single string, or a name or an expression is not a string.
            UnsupportedError: If expressions cannot be computed for this table, or the library
                that computes them is not installed.

        Example:
            >>> perm.select_columns(["x"]).column_names
            ['x']
            >>> perm.select_columns({"x": "x", "double": "x * 2"}).head(2)
            [{'x': 0, 'double': 0}, {'x': 1, 'double': 2}]
        """
        self._check_no_functions("select_columns")
        check_names(columns)
        if len(columns) == 0:
            raise ValueError("Must select at least one column")
        if isinstance(columns, Mapping):
            return self._select_expressions(columns, progress)
        return self.with_selection(
            {name: self.resolve_column(name) for name in columns}
        )

    def _check_no_functions(self, verb: str) -> None:
        """Check that columns are chosen before ``map`` and ``with_decode``, which get them.

        Raises:
            ValueError: If there are functions of ``map``, or columns are decoded.
        """
        steps = steps_of(self.transform_fn)
        if steps and all(isinstance(step, Decode) for step in steps):
            message = (
                f"{verb}() cannot follow with_decode(), which decodes the columns that are selected: "
                "call it before with_decode()"
            )
            raise ValueError(message)
        if steps:
            message = (
                f"{verb}() cannot follow map(), whose functions get the columns that are selected: "
                "call it before map(), or pass `remove_columns` to map()"
            )
            raise ValueError(message)

    def _select_expressions(
        self, columns: Mapping[str, str], progress: Progress
    ) -> Self:
        """Return a permutation of columns with new names, and of SQL expressions."""
        selection, texts = {}, []
        for name, text in columns.items():
            check_expression(name, text)
            source = self._plain_column(text)
            if source is None:
                whole = expanded(self, text)
                texts.append(whole)
                source = name_of_expression(whole)
            selection[name] = source
        if not texts:
            return self.with_selection(selection)
        folder = cache_folder(self.read_options.cache_dir)
        kept = self.source
        if isinstance(kept, WindowSource):
            message = (
                f"select_columns() cannot compute {texts[0]!r} after windows(): call it with "
                "expressions before windows()"
            )
            raise UnsupportedError(message)
        if isinstance(kept, ComputedSource):
            kept = kept.only(selection.values())
        new = computed(kept, texts, folder, progress=progress)
        return self._replace(source=new, selection=selection)

    def _plain_column(self, text: str) -> str | None:
        """Return the column that a text names, or ``None`` if the text is an SQL expression."""
        if text in self.source.column_names or text in SYSTEM:
            return text
        if text in self.selection:
            return self.selection[text]
        is_path = all(part.isidentifier() for part in text.split("."))
        if not is_path or "." not in text:
            return None
        try:
            return sources_of(self, [text])[text]
        except ColumnNotFoundError:
            return None

    def resolve_column(self, name: str) -> str:
        """Return the column of the table that a name refers to.

        Raises:
            ColumnNotFoundError: If the column does not exist.
        """
        if name in self.selection:
            return self.selection[name]
        if name in SYSTEM:
            return name
        top, _, rest = str(name).partition(".")
        while rest:
            if top in self.selection:
                nested = f"{self.selection[top]}.{rest}"
                self.source.reader([(name, nested)])
                return nested
            head, _, rest = rest.partition(".")
            top = f"{top}.{head}"
        raise column_error("select", name, self.column_names)

    def remove_columns(self, columns: Sequence[str]) -> Self:
        """Return a permutation without some columns.

        Args:
            columns: Names of columns. Names that do not exist are ignored.

        Raises:
            ValueError: If no column would remain.
            TypeError: If ``columns`` is a single string.
        """
        self._check_no_functions("remove_columns")
        check_names(columns)
        kept = {
            name: source
            for name, source in self.selection.items()
            if name not in columns
        }
        if not kept:
            raise ValueError("Cannot remove all columns")
        return self.with_selection(kept)

    def rename_column(self, old_name: str, new_name: str) -> Self:
        """Return a permutation with a column renamed and moved to the end.

        Args:
            old_name: The name of a column.
            new_name: Its new name.

        Raises:
            ValueError: If no column is named ``old_name``, or one is already named ``new_name``.
            TypeError: If ``new_name`` is not a string.
        """
        self._check_no_functions("rename_column")
        if old_name is None:
            raise AssertionError("old_name is required")
        if new_name is None:
            raise AssertionError("new_name is required")
        if not isinstance(new_name, str):
            message = f"`new_name` must be a string, not {new_name!r}"
            raise TypeError(message)
        if old_name not in self.selection:
            raise column_error("rename", old_name, self.column_names)
        if new_name in self.selection:
            message = (
                f"Cannot rename column `{old_name}` to `{new_name}` because a column "
                "with that name already exists"
            )
            raise ValueError(message)
        selection = self.selection.copy()
        selection[new_name] = selection.pop(old_name)
        return self.with_selection(selection)

    def rename_columns(self, column_map: Mapping[str, str]) -> Self:
        """Return a permutation with several columns renamed, one after the other.

        Args:
            column_map: Old names to new names. Renamed columns move to the end, in this order.

        Raises:
            ValueError: As for ``rename_column``.
            TypeError: If ``column_map`` is not a mapping, or a new name is not a string.
        """
        if column_map is None:
            raise AssertionError("column_map is required")
        if not isinstance(column_map, Mapping):
            message = (
                "Invalid input, `column_map` must be a dict of old names to new names, not "
                f"{type(column_map).__name__}"
            )
            raise TypeError(message)
        new = self
        for old_name, new_name in column_map.items():
            new = new.rename_column(old_name, new_name)
        return new

    def flatten(self) -> Self:
        """Return a permutation in which struct columns are replaced by their fields, at any depth.

        Fields are named by their paths, with dots (``"meta.width"``). Fields that are removed
        afterwards are not read. The fields of a null struct are null.
        """
        self._check_no_functions("flatten")
        import pyarrow as pa

        selection: dict[str, str] = {}

        def add(name: str, source: str, kind: pa.DataType) -> None:
            if pa.types.is_struct(kind):
                for field in kind:
                    add(f"{name}.{field.name}", f"{source}.{field.name}", field.type)
            else:
                selection[name] = source

        for field in self.schema:
            add(field.name, self.selection[field.name], field.type)
        return self.with_selection(selection)


def sources_of(view: ColumnVerbs, names: Iterable[str]) -> dict[str, str]:
    """Return the source of each column, of those selected and of all others of the table.

    Raises:
        ColumnNotFoundError: If a column does not exist.
    """
    known = {name: name for name in view.source.column_names}
    whole = view._replace(selection=known | view.selection)
    return {name: whole.resolve_column(name) for name in names}


def check_names(columns: Sequence[str] | Mapping[str, str]) -> None:
    """Check that ``columns`` is a list of names.

    Raises:
        AssertionError: If it is ``None``, as in LanceDB.
        TypeError: If it is a single string.
    """
    if columns is None:
        raise AssertionError("columns is required")
    if not isinstance(columns, Iterable):
        message = f"`columns` must be a list of column names, not {columns!r}"
        raise TypeError(message)
    if isinstance(columns, str):
        message = f"`columns` must be a list of names, not a string: pass [{columns!r}]"
        raise TypeError(message)


def expanded(view: View, text: str) -> str:
    """Return an SQL text in which names of computed columns are replaced by their expressions."""
    source = view.source
    if isinstance(source, WindowSource):
        source = source.base
    if not isinstance(source, ComputedSource):
        return text
    known = source.column_names
    names = {
        name: f"({source.expressions[column]})"
        for name, column in view.selection.items()
        if column in source.expressions and name not in known
    }
    return with_names(text, [*known, *names], names)


def check_expression(name: str, text: str) -> None:
    """Check a new name and the expression for it.

    Raises:
        TypeError: If one is not a string.
        ValueError: If one is empty.
    """
    for what, value in (("a name", name), (f"the expression of {name!r}", text)):
        if not isinstance(value, str):
            message = (
                "`columns` must be a dict of new names to columns or SQL expressions, but "
                f"{what} is {value!r} of type {type(value).__name__}"
            )
            raise TypeError(message)
        if not value.strip():
            message = f"`columns` must have no empty strings, but {what} is one"
            raise ValueError(message)


def column_error(verb: str, name: str, known: Sequence[str]) -> ColumnNotFoundError:
    """Return the error for a column that does not exist, with LanceDB's message."""
    message = f"Cannot {verb} column `{name}` because it does not exist"
    return missing_column(message, name, known)
