"""Ranges of positions, as tasks read them: in Arrow batches, within a bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader import _native
from lanceloader.formats.functions import steps_of
from lanceloader.verbs.reading import FUNCTION_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._permutation import Permutation

__all__ = ["arrow_batches", "cut", "has_functions", "row_bytes_of"]


def has_functions(perm: Permutation) -> bool:
    """Return whether functions of ``map`` make the rows."""
    return bool(steps_of(perm.transform_fn))


def row_bytes_of(perm: Permutation) -> int | None:
    """Return about how many bytes a row has in memory, or ``None`` if that is unknown.

    Looks at a few hundred rows if the types do not say.
    """
    reader = perm.open_reader()
    if has_functions(perm) or not isinstance(reader, _native.Reader):
        return None
    return reader.choice().row_bytes or None


def cut(num_rows: int, parts: int) -> list[range]:
    """Cut positions into ranges that differ by one row at most, none of them empty."""
    parts = max(1, min(parts, num_rows))
    ends = [part * num_rows // parts for part in range(parts + 1)]
    return [range(ends[part], ends[part + 1]) for part in range(parts)]


def arrow_batches(perm: Permutation, positions: range) -> Iterator[pa.RecordBatch]:
    """Yield the rows at some positions, after the functions of ``map``.

    Batches have a few megabytes, or as many rows as functions get.

    Args:
        perm: The permutation.
        positions: Positions without gaps.
    """
    import pyarrow as pa

    part = perm.skip(positions.start).take(len(positions)).with_format("arrow")
    if has_functions(perm):
        yield from part.iter(FUNCTION_ROWS, progress=False)
        return
    for batch in part.open_reader().load(part.order, None, False):  # noqa: FBT003
        yield pa.record_batch(batch)
