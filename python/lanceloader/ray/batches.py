"""Ranges of positions, and the Arrow batches that tasks read at them within bounded memory."""

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
"""The maximum number of tasks if each task scans the whole table to write scratch files."""

LEAST_LIMIT = 64 << 20
"""The minimum memory for the rows of a task, in bytes."""


def has_functions(perm: Permutation) -> bool:
    """Return whether functions of ``map`` make the rows."""
    return bool(steps_of(perm.transform_fn))


def row_bytes_of(perm: Permutation) -> int | None:
    """Return the approximate number of bytes of a row in memory, or ``None`` if it is unknown.

    Looks at a few hundred rows if the types do not say.
    """
    reader = perm.open_reader()
    if has_functions(perm) or not isinstance(reader, _native.Reader):
        return None
    return reader.choice().row_bytes or None


def strategy_of(perm: Permutation) -> str:
    """Return the strategy by which one process would read all rows."""
    reader = perm.open_reader()
    return (
        reader.strategy(perm.order) if isinstance(reader, _native.Reader) else "direct"
    )


def for_parts(perm: Permutation) -> Permutation:
    """Return a permutation whose parts are read by the strategy for all rows.

    A part alone may seem too small for packed rows or scratch files to be worthwhile.
    """
    strategy = strategy_of(perm)
    if strategy == "resident":
        return perm.with_read_options(ReadOptions("resident"))
    if strategy == "external":
        options = ReadOptions("external", memory_limit=limit_of(perm))
        return perm.with_read_options(options)
    return perm


def limit_of(perm: Permutation) -> int:
    """Return how many bytes of rows a task may hold with the ``"external"`` strategy."""
    limit = perm.read_options.memory_limit
    if limit is not None:
        return limit
    # The tasks of a node share its memory.
    reader = perm.open_reader()
    assert isinstance(reader, _native.Reader)
    return max(LEAST_LIMIT, reader.choice().memory_bytes // (os.cpu_count() or 1))


def cut(perm: Permutation, parts: int) -> list[range]:
    """Cut the positions of a permutation into non-empty ranges whose lengths differ by one at most.

    Args:
        perm: The permutation.
        parts: The maximum number of ranges. There are fewer if each range costs a scan.
    """
    if parts > MOST_SCANS and perm.num_rows and strategy_of(perm) == "external":
        parts = MOST_SCANS
    return ranges(perm.num_rows, parts)


def ranges(num_rows: int, parts: int) -> list[range]:
    """Cut ``range(num_rows)`` into non-empty ranges whose lengths differ by one at most."""
    parts = min(parts, num_rows)
    ends = [part * num_rows // parts for part in range(parts + 1)] if parts else []
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


def arrow_batches(perm: Permutation, positions: range) -> Iterator[pa.RecordBatch]:
    """Yield the rows at some positions, after the functions of ``map``.

    Batches have a few megabytes, or ``FUNCTION_ROWS`` rows if there are functions.

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
