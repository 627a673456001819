"""Columns whose values are windows: rows around each row, within its episode."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader.engine import ROW_OFFSET
from lanceloader.sources.episodes import find_episodes
from lanceloader.sources.native import NativeSource
from lanceloader.sources.window_reader import Part, WindowReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from lanceloader._native import Episodes, Order, Table
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions
    from lanceloader.sources.base import RowReader, Source
    from lanceloader.sources.window_reader import WindowColumn

__all__ = ["WindowSource", "Windows", "name_of_window"]


def name_of_window(column: WindowColumn) -> str:
    """Return the name by which a source of windows knows a column."""
    # The representation of large arrays leaves values out.
    value = column.fill_value
    whole = value.tolist() if hasattr(value, "tolist") else value
    text = repr(dataclasses.replace(column, fill_value=whole)).encode()
    return "window_" + hashlib.blake2b(text, digest_size=8).hexdigest()


@dataclass(frozen=True)
class Windows:
    """What the windows of a table are.

    Attributes:
        rows: The rows that have neighbours, and are neighbours, ascending.
        by: The columns that tell episodes apart: a name, and that in the table.
        order: The column that orders the rows of an episode, likewise.
        columns: The columns, by the names that ``name_of_window`` returns.
    """

    rows: Order
    by: tuple[tuple[str, str], ...]
    order: tuple[str, str] | None
    columns: Mapping[str, WindowColumn]


class WindowSource(NativeSource):
    """A table with columns of windows. Everything but these is that of the table.

    The places of rows in their episodes are not pickled: each process finds them when it first
    reads windows.

    Attributes:
        base: The table.
        windows: What the windows are.
    """

    def __init__(self, base: NativeSource, windows: Windows) -> None:
        """Refer to a table and its windows."""
        self.base = base
        self.windows = windows
        self.name, self.version, self.branch = base.name, base.version, base.branch
        self._episodes: Episodes | None = None

    @property
    def native(self) -> Table:
        return self.base.native

    @property
    def table(self) -> Source:
        return self.base.table

    @property
    def schema(self) -> pa.Schema:
        return self.base.schema

    @property
    def episodes(self) -> Episodes:
        """The episodes, for which two columns are read once in each process."""
        if self._episodes is None:
            windows = self.windows
            self._episodes = find_episodes(
                self.base, windows.rows, windows.by, windows.order
            )
        return self._episodes

    def stored_name(self, column: str) -> str:
        window = self.windows.columns.get(column)
        return column if window is None else window.column

    def all_rows(self) -> Order:
        return self.base.all_rows()

    def describe(self) -> str:
        return self.base.describe()

    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        known = self.windows.columns
        if known.keys().isdisjoint(column for _, column in columns):
            return self.base.reader(columns, options)
        outputs = [(name, known.get(column, column)) for name, column in columns]
        # If only padding is selected, row offsets are read to count the rows of a batch.
        groups = groups_of(outputs) or {None: [ROW_OFFSET]}
        parts = [
            Part.of(self.base, names, steps, options, len(groups))
            for steps, names in groups.items()
        ]
        return WindowReader(self.episodes, parts, outputs)

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        _, rows = self.base.matching(predicate, order)
        return self, rows

    def row_ids(self, order: Order) -> pa.Array:
        return self.base.row_ids(order)

    def engine(self) -> Engine:
        return self.base.engine()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_episodes": None}


def groups_of(
    outputs: Sequence[tuple[str, str | WindowColumn]],
) -> dict[tuple[int, ...] | None, list[str]]:
    """Return the columns of the table to read at each set of steps, ``None`` for the rows themselves.

    Columns with other steps are read by themselves: a column of images is not read for each step of
    another column.
    """
    groups: dict[tuple[int, ...] | None, dict[str, None]] = {}
    for _, column in outputs:
        if isinstance(column, str):
            groups.setdefault(None, {})[column] = None
        elif not column.is_padding:
            groups.setdefault(column.steps, {})[column.column] = None
    return {steps: list(names) for steps, names in groups.items()}
