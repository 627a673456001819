"""Batches as dicts of columns: the containers and options that numpy and torch share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, cast

from lanceloader.formats.ragged import Ragged
from lanceloader.sql import missing_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader._typing import Transform

__all__ = [
    "Collated",
    "Columns",
    "MadeOf",
    "Ragged",
    "check_fill_columns",
    "check_nulls",
    "gather_runs",
]


Runs: TypeAlias = tuple[tuple[tuple[str, ...], str, tuple[int, ...]], ...]
"""The names, the dtype and the shape of the columns of each block."""


class MadeOf(NamedTuple):
    """What columns were made of, from which they can be made again.

    Attributes:
        runs: The columns of each block.
        blocks: The buffers of columns that lie end to end.
        arrays: The columns of the blocks, by name.
    """

    runs: Runs
    blocks: list[Any]
    arrays: dict[str, Any]


class Columns(dict[str, Any]):
    """A dict of columns that torch's default collate returns unchanged.

    The default collate dispatches on the type of ``batch[0]``. Column names are strings, so the
    missing key ``0`` is free to return a marker type.

    Attributes:
        are_sent: Whether this process sends its batches to another one.
        are_copied: Whether it copies them to pinned memory or to a device. Batches that are sent or
            copied keep ``made_of``.
        last_made_of: That of the batch made last, as functions of torch copy a batch by its items;
            only where batches are sent.
        made_of: What the columns were made of, if that is known.
    """

    are_sent: ClassVar[bool] = False
    are_copied: ClassVar[bool] = False
    last_made_of: ClassVar[MadeOf | None] = None
    made_of: MadeOf | None = None

    def note_blocks(self, runs: Runs, blocks: list[Any]) -> None:
        """Keep what columns were made of; see ``MadeOf``."""
        arrays = {name: self[name] for names, *_ in runs for name in names}
        self.made_of = MadeOf(runs, blocks, arrays)
        if Columns.are_sent:
            Columns.last_made_of = self.made_of

    def __missing__(self, key: Any) -> Any:
        if key == 0 and type(key) is int:
            return Collated()
        raise KeyError(key)

    def __reduce__(self) -> tuple[type[Columns], tuple[dict[str, Any]]]:
        return Columns, (dict(self),)


class Collated:
    """The type of ``Columns()[0]``, registered with torch's collate as needing no collation."""


def gather_runs(
    batch: Batch,
    transform: Transform,
    vectors: Callable[[str, Any, str, tuple[int, ...]], Any],
) -> Columns:
    """Convert a batch of the core to columns.

    Number columns of one type that are adjacent in memory are converted together; all other
    columns are converted by ``transform``.

    Args:
        batch: The batch.
        transform: A function that converts a ``pyarrow.RecordBatch`` to a dict of columns.
        vectors: A function ``(name, buffer, dtype, shape)`` that returns one array per column of
            a buffer; ``name`` is a column's name for error messages.
    """
    import pyarrow as pa

    if not batch.is_owned:
        batch = batch.to_owned()
    names, runs, others = batch.runs()
    out = Columns()
    out.update(dict.fromkeys(names))
    if len(out) < len(names) or batch.num_rows == 0:
        return cast("Columns", transform(pa.record_batch(batch)))
    made: list[tuple[tuple[str, ...], str, tuple[int, ...]]] = []
    for columns, dtype, inner, block in runs:
        shape = (len(columns), batch.num_rows, *inner)
        arrays = vectors(names[columns[0]], block, dtype, shape)
        of_run = tuple(map(names.__getitem__, columns))
        out.update(zip(of_run, arrays, strict=True))
        made.append((of_run, dtype, shape))
    if Columns.are_sent or Columns.are_copied:
        out.note_blocks(tuple(made), [block for *_, block in runs])
    if others:
        out.update(transform(pa.record_batch(batch).select(others)))
    return out


def check_nulls(nulls: str, fill_value: Any) -> None:
    """Check the options of a dict format.

    Raises:
        ValueError: If ``nulls`` is not a policy, if ``nulls="fill"`` comes without a fill value,
            or if a fill value comes with another policy.
    """
    if nulls not in ("error", "fill", "mask"):
        message = f'`nulls` must be "error", "fill" or "mask", got {nulls!r}'
        raise ValueError(message)
    if nulls == "fill" and fill_value is None:
        raise ValueError('`nulls="fill"` requires a `fill_value`')
    if nulls != "fill" and fill_value is not None:
        message = (
            f'`fill_value` is used only with `nulls="fill"`, got fill_value={fill_value!r} '
            f"with nulls={nulls!r}"
        )
        raise ValueError(message)


def check_fill_columns(fill_value: Any, schema: pa.Schema) -> None:
    """Check that a dict of fill values names existing columns.

    Fields of structs are named by their dotted path.

    Raises:
        ColumnNotFoundError: If a column does not exist. The message lists the closest names.
    """
    if not isinstance(fill_value, Mapping):
        return
    known = [path for field in schema for path in paths_in(field)]
    for name in fill_value:
        if name not in known:
            message = f"`fill_value` names the column {name!r}, which does not exist"
            raise missing_column(message, name, known)


def paths_in(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of a field and of all fields nested in it."""
    import pyarrow as pa

    path = f"{prefix}{field.name}"
    yield path
    if pa.types.is_struct(field.type):
        for child in field.type:
            yield from paths_in(child, f"{path}.")
