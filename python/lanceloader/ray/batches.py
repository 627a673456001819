"""Ranges of positions, as tasks read them: in Arrow batches, within a bounded memory."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from lanceloader import _native
from lanceloader.formats.functions import steps_of
from lanceloader.options import ReadOptions
from lanceloader.verbs.reading import FUNCTION_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._permutation import Permutation

__all__ = [
    "arrow_batches",
    "cut",
    "for_parts",
    "has_functions",
    "limit_of",
    "ranges",
    "row_bytes_of",
    "strategy_of",
]

MOST_SCANS = 30
"""The most tasks where each one scans the table to write its rows to scratch files."""

LEAST_LIMIT = 64 << 20
"""The least memory for the rows of a task, in bytes."""


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


def strategy_of(perm: Permutation) -> str:
    """Return how the rows would be read together."""
    reader = perm.open_reader()
    return (
        reader.strategy(perm.order) if isinstance(reader, _native.Reader) else "direct"
    )


def for_parts(perm: Permutation) -> Permutation:
    """Return a permutation whose parts are read as all rows together would be.

    A part by itself may be too small to be worth packed rows or scratch files.
    """
    strategy = strategy_of(perm)
    if strategy == "resident":
        return perm.with_read_options(ReadOptions("resident"))
    if strategy == "external":
        options = ReadOptions("external", memory_limit=limit_of(perm))
        return perm.with_read_options(options)
    return perm


def limit_of(perm: Permutation) -> int:
    """Return how many bytes of rows a task may hold, where they are many and short."""
    limit = perm.read_options.memory_limit
    if limit is not None:
        return limit
    # Tasks of a node share its memory.
    reader = perm.open_reader()
    assert isinstance(reader, _native.Reader)
    return max(LEAST_LIMIT, reader.choice().memory_bytes // (os.cpu_count() or 1))


def cut(perm: Permutation, parts: int) -> list[range]:
    """Cut positions into ranges that differ by one row at most, none of them empty.

    Args:
        perm: The permutation.
        parts: How many ranges there should be. There are fewer if each one costs a scan.
    """
    if parts > MOST_SCANS and perm.num_rows and strategy_of(perm) == "external":
        parts = MOST_SCANS
    return ranges(perm.num_rows, parts)


def ranges(num_rows: int, parts: int) -> list[range]:
    """Cut a number of rows into ranges that differ by one row at most, none of them empty."""
    parts = min(parts, num_rows)
    ends = [part * num_rows // parts for part in range(parts + 1)] if parts else []
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


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
