"""The verbs that choose columns. Each gives a new permutation and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from lanceloader.engine import SYSTEM
from lanceloader.sql import missing_column
from lanceloader.verbs.base import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from lanceloader.errors import ColumnNotFoundError

__all__ = ["ColumnVerbs"]


class ColumnVerbs(View):
    """Select, remove, rename, flatten."""

    def select_columns(self, columns: Sequence[str]) -> Self:
        """Keep ``columns``, in the order given. Only they are read.

        Args:
            columns: Names of columns of this permutation; of fields of structs, with dots
                (``"meta.width"``); or of ``_rowid``, ``_rowaddr`` and ``_rowoffset``.

        Raises:
            ValueError: If there are none.
            ColumnNotFoundError: If one does not exist. It is a ``ValueError`` and a
                ``KeyError``.
        """
        check_names(columns)
        if len(columns) == 0:
            raise ValueError("Must select at least one column")
        return self._with_selection({name: self._resolve(name) for name in columns})

    def _resolve(self, name: str) -> str:
        """Find the source column of a name, checking that there is one."""
        if name in self.selection:
            return self.selection[name]
        if name in SYSTEM:
            return name
        top, _, rest = str(name).partition(".")
        while rest:
            if top in self.selection:
                nested = f"{self.selection[top]}.{rest}"
                self._source.reader([(name, nested)])
                return nested
            head, _, rest = rest.partition(".")
            top = f"{top}.{head}"
        raise missing("select", name, self.column_names)

    def remove_columns(self, columns: Sequence[str]) -> Self:
        """Leave ``columns`` out; names that do not exist are ignored.

        Raises:
            ValueError: If none would be left.
        """
        check_names(columns)
        kept = {
            name: source
            for name, source in self.selection.items()
            if name not in columns
        }
        if not kept:
            raise ValueError("Cannot remove all columns")
        return self._with_selection(kept)

    def rename_column(self, old_name: str, new_name: str) -> Self:
        """Rename a column, which moves to the end.

        Raises:
            ValueError: If there is no ``old_name``, or there is a ``new_name`` already.
        """
        if old_name is None:
            raise AssertionError("old_name is required")
        if new_name is None:
            raise AssertionError("new_name is required")
        if not isinstance(new_name, str):
            message = f"new_name {new_name!r}: wanted a string"
            raise TypeError(message)
        if old_name not in self.selection:
            raise missing("rename", old_name, self.column_names)
        if new_name in self.selection:
            message = (
                f"Cannot rename column `{old_name}` to `{new_name}` because a column "
                "with that name already exists"
            )
            raise ValueError(message)
        selection = self.selection.copy()
        selection[new_name] = selection.pop(old_name)
        return self._with_selection(selection)

    def rename_columns(self, column_map: Mapping[str, str]) -> Self:
        """Rename several columns, one after another.

        Raises:
            ValueError: As for ``rename_column``.
            TypeError: If ``column_map`` is no mapping.
        """
        if column_map is None:
            raise AssertionError("column_map is required")
        if not isinstance(column_map, Mapping):
            message = (
                f"Invalid input, column_map of type {type(column_map).__name__}: wanted a dict "
                "of old name to new name"
            )
            raise TypeError(message)
        new = self
        for old_name, new_name in column_map.items():
            new = new.rename_column(old_name, new_name)
        return new

    def flatten(self) -> Self:
        """Replace each struct column by its fields, named with dots, at any depth.

        Reads nothing; fields that are left out afterwards are not read either. A struct that
        is null makes its fields null.
        """
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
        return self._with_selection(selection)


def check_names(columns: Sequence[str]) -> None:
    """Refuse what is no list of names.

    Raises:
        AssertionError: If it is ``None``, as in LanceDB.
        TypeError: If it is a single name.
    """
    if columns is None:
        raise AssertionError("columns is required")
    if isinstance(columns, str):
        message = f"columns {columns!r}: wanted a list of names, as in [{columns!r}]"
        raise TypeError(message)


def missing(verb: str, name: str, known: Sequence[str]) -> ColumnNotFoundError:
    """Make the error for a column that is not there, in LanceDB's words."""
    message = f"Cannot {verb} column `{name}` because it does not exist"
    return missing_column(message, name, known)
