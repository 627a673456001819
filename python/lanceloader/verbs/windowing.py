"""``windows``: each row with rows around it in its episode."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeAlias

from lanceloader._native import Order
from lanceloader.choices import check_choice
from lanceloader.errors import FormatError, UnsupportedError
from lanceloader.formats.decoding import is_bfloat16_images
from lanceloader.formats.functions import steps_of
from lanceloader.hints import with_hints
from lanceloader.numbers import count, numpy_of, offsets_of
from lanceloader.sources import Windows, WindowSource
from lanceloader.sources.native import NativeSource
from lanceloader.sources.window_ends import bits_of_bfloat16, check_ends, filler_of
from lanceloader.sources.window_reader import WindowColumn
from lanceloader.sources.windows import name_of_window
from lanceloader.verbs.columns import ColumnVerbs, sources_of

if TYPE_CHECKING:
    from lanceloader._typing import ArrayLike

__all__ = ["WindowVerbs"]

Ends: TypeAlias = Literal["edge", "fill", "clip", "drop"]

FARTHEST = 2**31
"""Steps must be nearer than this."""

INSTEAD_OF = {
    "delta_timestamps": "pass `steps` in rows: [round(seconds * fps) for seconds in ...]",
    "group_by": "pass `by`, the column that tells episodes apart",
    "group_ids": "pass `by`, the columns that tell series apart",
    "episode": "pass `by`, the column that tells episodes apart",
    "sort_by": "pass `order`, the column that orders the rows of an episode",
    "time_idx": "pass `order`, the column that orders the rows of a series",
    "horizon": 'pass `steps` ahead, as in {"y": range(0, 12)}',
    "history": 'pass `steps` back, as in {"x": range(-24, 0)}',
    "pad": 'pass `ends`: "edge", "fill", "clip" or "drop"',
    "padding": 'pass `ends`: "edge", "fill", "clip" or "drop"',
    "drop_last": 'pass ends="drop" for full windows only',
    "step": "pass `stride` for the rows between windows, or `steps` by column",
}
"""Arguments of other libraries' windows, and what to pass instead."""


class WindowVerbs(ColumnVerbs):
    """The method that reads rows with their neighbours."""

    @with_hints("windows", INSTEAD_OF)
    def windows(
        self,
        steps: Mapping[str, Sequence[int] | ArrayLike],
        *,
        by: str | Sequence[str] | None,
        order: str | None = None,
        stride: SupportsIndex = 1,
        ends: Ends = "edge",
        fill_value: Any = None,
    ) -> Self:
        """Return a permutation whose rows come with rows around them, in the same episode.

        A column with steps has the values of one row for each step: the next row of the episode is
        at step 1, the one before at step -1. In the dict formats of torch and NumPy it has shape
        (rows, steps, ...), and in Arrow data it is a list of a fixed size. All other columns stay.
        Columns with other steps are read by themselves, and all windows of a batch at once.

        Neighbours are rows of this permutation, whatever its order: rows that were filtered or split
        off before are not neighbours, and rows that are left out afterwards still are. The windows of
        splits therefore never overlap if ``windows`` is called for each split, or if the splits are
        made with ``group_by``, the column ``by``.

        The columns ``by`` and ``order`` are read now, and once in each process that reads windows.
        The places of rows take 8 bytes per row in memory (16 from 2**32 rows on), or 8 bytes per
        episode if the table has its rows in this order and all of them are in the permutation.

        Args:
            steps: Which rows, by the name of the column, as in ``{"action": range(0, 16), "state":
                [-1, 0]}``. For several windows of a column select it by several names first, as in
                ``select_columns({"past": "x", "future": "x"})``.
            by: The column, or the columns, that are equal in all rows of an episode, or of a
                series; selected or not. ``None`` if all rows are of one.
            order: The column that orders the rows of an episode, selected or not: numbers, times or
                text that differ. By default rows are in the order of the table. Steps count rows,
                not its values.
            stride: Every how many rows of an episode a window starts. The other rows are still
                neighbours.
            ends: What windows hold beyond the first and the last row of an episode: ``"edge"`` repeats
                that row; ``"fill"`` puts ``fill_value`` there. Both add a boolean column
                ``"<column>_is_pad"`` of shape (rows, steps), which is true there. ``"clip"`` leaves
                it out, so that windows are lists of different lengths. ``"drop"`` leaves rows out
                whose windows are not full.
            fill_value: With ``ends="fill"``, one value for all columns with steps, or a dict of one
                value per column; by default zero, false, or empty.

        Raises:
            ColumnNotFoundError: If a column does not exist.
            TypeError: If an argument has the wrong type.
            ValueError: If steps are missing or too far; if a value of ``by`` or ``order`` is null; or if two
                rows of an episode have the same ``order``.
            FormatError: If ``order`` does not order rows, or a column cannot hold the fill value.
            UnsupportedError: If the table is read by its own library.

        Example:
            >>> windows = perm.windows({"x": [-1, 0, 1]}, by=None, ends="drop")
            >>> windows.with_format("numpy_dict").head(2)["x"]
            array([[0, 1, 2],
                   [1, 2, 3]])
            >>> padded = perm.windows({"x": range(0, 2)}, by=None)
            >>> padded[-1]
            [{'x': [9, 9], 'x_is_pad': [False, True]}]
        """
        source = self._source_of_windows()
        check_choice("ends", ends, Ends)
        stride = count(stride, "stride", least=1)
        windows = {
            name: checked_steps(name, values)
            for name, values in checked_mapping(steps).items()
        }
        fills = self._fill_values(windows, ends, fill_value)
        selection: dict[str, str] = {}
        columns: dict[str, WindowColumn] = {}
        for name, column in self.selection.items():
            if name not in windows:
                selection[name] = column
                continue
            window = WindowColumn(column, windows[name], ends, fills.get(name))
            columns[selection.setdefault(name, name_of_window(window))] = window
            if ends in ("edge", "fill"):
                padding = WindowColumn("", windows[name], ends, is_padding=True)
                mask = f"{name}_is_pad"
                if mask in self.selection:
                    message = (
                        f"column `{mask}` has the same name as the mask of `{name}` that windows() "
                        "adds: rename it with rename_column(), or leave it out"
                    )
                    raise ValueError(message)
                columns[selection.setdefault(mask, name_of_window(padding))] = padding
        names = names_of_episodes(by, order)
        group = tuple(sources_of(self, names).items())
        ordered = None if order is None else (order, sources_of(self, [order])[order])
        rows = ascending(self.order)
        new = WindowSource(source, Windows(rows, group, ordered, columns))
        episodes, kept = new.episodes, self.order
        if ends == "drop" or stride > 1:
            farthest = [step for window in windows.values() for step in window]
            starts = episodes.starts_of(farthest, stride, ends == "drop")
            kept = kept.filtered(starts)
        # No later skip or take brings rows back that have no neighbours.
        return self._replace(source=new, selection=selection).with_rows(kept)

    def _source_of_windows(self) -> NativeSource:
        """Return the source that windows are read from.

        Raises:
            UnsupportedError: If the core does not read it.
            ValueError: If ``windows`` must be called before.
        """
        source = self.source
        if isinstance(source, WindowSource):
            raise ValueError(
                "windows() was called before: pass the steps of all columns in one call"
            )
        if steps_of(self.transform_fn):
            raise ValueError(
                "windows() cannot follow map() or with_decode(), whose functions get the windows: "
                "call it before"
            )
        if not isinstance(source, NativeSource):
            message = (
                f"windows() needs rows by position, which the library of {source.describe()} does "
                "not read: copy the rows with materialize(), and call windows() of the copy"
            )
            raise UnsupportedError(message)
        return source

    def _fill_values(
        self, windows: Mapping[str, tuple[int, ...]], ends: str, fill_value: Any
    ) -> dict[str, Any]:
        """Return the fill value of each column of windows, after checking all of them.

        Raises:
            ColumnNotFoundError: If a column does not exist.
            ValueError: If a column has no fill value, or there is no use for one.
            FormatError: If a column cannot hold its fill value.
        """
        schema = self.schema
        for name in windows:
            column = self.resolve_column(name)
            if name not in self.selection:
                message = (
                    f"`steps` names {name!r}, which is not a selected column: select it by a name, as "
                    f"in select_columns({{'{name.rpartition('.')[2]}': {name!r}}})"
                )
                raise ValueError(message)
            check_ends(schema.field(name), ends)
            if column in getattr(self, "file_columns", ()):
                message = (
                    f'`steps` names {name!r}, a column of files: call with_blobs("bytes") before '
                    "windows()"
                )
                raise ValueError(message)
        if ends != "fill":
            if fill_value is not None:
                message = f'`fill_value`={fill_value!r} has no effect with ends={ends!r}: pass ends="fill"'
                raise ValueError(message)
            return {}
        values = fill_value if isinstance(fill_value, Mapping) else None
        found = {}
        for name in windows:
            if values is not None and name not in values:
                message = (
                    f"`fill_value` has no entry for column {name!r}, which has steps: add one to "
                    f"{fill_value!r}"
                )
                raise ValueError(message)
            value = fill_value if values is None else values[name]
            field = schema.field(name)
            if is_bfloat16_images(field) and value is not None:
                value = bits_of_bfloat16(name, value)
            try:
                filler_of(field.type, value)
            except FormatError as error:
                message = f"column `{name}`: {error}; pass one value per column, as in fill_value={{{name!r}: ...}}"
                raise FormatError(message) from error
            found[name] = value
        if values is not None and (others := [n for n in values if n not in windows]):
            message = (
                f"`fill_value` names {others[0]!r}, a column without steps: leave it out, or pass its "
                "`steps`"
            )
            raise ValueError(message)
        return found


def checked_mapping(steps: Any) -> Mapping[str, Any]:
    """Return the steps by column.

    Raises:
        TypeError: If they are not a dict.
        ValueError: If there is no column.
    """
    if not isinstance(steps, Mapping):
        message = (
            "`steps` must be a dict of columns to steps, as in {'action': range(0, 16)}, not "
            f"{steps!r}"
        )
        raise TypeError(message)
    if not steps:
        raise ValueError("`steps` must name at least one column")
    return steps


def checked_steps(name: Any, values: Any) -> tuple[int, ...]:
    """Return the steps of a column.

    Raises:
        TypeError: If they are not whole numbers.
        ValueError: If there are none, or one is too far.
    """
    example = f"as in {{{name!r}: range(0, 16)}}"
    # The order of a set is none, and a dict may be meant for something else.
    is_wrong = isinstance(values, str | bytes | Mapping | AbstractSet)
    if is_wrong or not isinstance(values, Iterable):
        message = f"`steps` of {name!r} must be a sequence of whole numbers, {example}, not {values!r}"
        raise TypeError(message)
    found = []
    for value in values:
        try:
            if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
                raise TypeError
            found.append(operator.index(value))
        except TypeError:
            message = (
                f"`steps` of {name!r} must be whole numbers of rows, {example}, but one is {value!r}; "
                "for seconds, multiply by the frames per second and round"
            )
            raise TypeError(message) from None
        if not -FARTHEST < found[-1] < FARTHEST:
            message = f"`steps` of {name!r} must be nearer than 2**31 rows, but one is {value}"
            raise ValueError(message)
    if not found:
        message = f"`steps` of {name!r} is empty: pass at least one, {example}"
        raise ValueError(message)
    return tuple(found)


def names_of_episodes(by: Any, order: Any) -> list[str]:
    """Return the columns that tell episodes apart, after checking them and the one that orders rows.

    Raises:
        TypeError: If one is not a name.
        ValueError: If there is none, or a name occurs twice.
    """
    names = [by] if isinstance(by, str) else by
    if names is not None and not isinstance(names, list | tuple):
        message = (
            "`by` must be the name of a column, a list of names, or None if all rows are of one "
            f"episode, not {by!r}"
        )
        raise TypeError(message)
    if names is not None and not names:
        raise ValueError(
            "`by` is an empty list: pass None if all rows are of one episode"
        )
    names = list(names or ())
    for argument, name in [*(("by", name) for name in names), ("order", order)]:
        if not isinstance(name, str) and (argument, name) != ("order", None):
            message = f"`{argument}` must be the name of a column, not {name!r}"
            raise TypeError(message)
    if order in names:
        message = f"`order`={order!r} is a column of `by`, which is equal in all rows of an episode"
        raise ValueError(message)
    if len(set(names)) < len(names):
        message = f"`by`={names!r} names a column twice"
        raise ValueError(message)
    return names


def ascending(rows: Order) -> Order:
    """Return the rows of an order in the order of the table, each once."""
    if rows.is_ascending:
        return rows
    return Order.set(numpy_of(offsets_of(rows)))
