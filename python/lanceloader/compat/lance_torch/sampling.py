"""Samples of rows, as ``lance.sampler.maybe_sample`` draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader._native import Order
from lanceloader.compat.lance_torch.fragments import CutRows, cut_every
from lanceloader.compat.lance_torch.tables import ScanTable, arrow_batches
from lanceloader.numbers import count

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["maybe_sample", "sampled"]

MAX_TAKES = 2048
"""The most rows that are drawn one by one; larger samples are drawn as runs of neighbours."""


def maybe_sample(
    dataset: Any,
    n: int,
    columns: list[str] | str | None = None,
    batch_size: int = 10240,
    max_takes: int = MAX_TAKES,
    filt: str | None = None,
) -> Generator[pa.RecordBatch]:
    """Iterate over ``n`` random rows of a dataset, or over all of its rows if there are fewer.

    The rows are those that pylance draws after the same ``numpy.random.seed``. With a filter, of
    which pylance supports ``"column is not null"`` only, they are drawn among all rows that
    match.

    Args:
        dataset: The dataset, or whatever ``lanceloader.open`` opens.
        n: The number of rows.
        columns: The column or columns to read; by default all.
        batch_size: The most rows in a batch.
        max_takes: The most places to read at. More rows than that are drawn as runs of neighbours.
        filt: An SQL predicate of the rows to draw from.

    Raises:
        ValueError: If ``n`` is negative.

    Example:
        >>> from lanceloader.compat.lance_torch import maybe_sample
        >>> [batch.num_rows for batch in maybe_sample(table, 6, "x", batch_size=4)]
        [4, 2]
    """
    if isinstance(columns, str):
        columns = [columns]
    drawn, size = count(n, "n"), count(batch_size, "batch_size", least=1)
    yield from arrow_batches(
        dataset,
        lambda table: sampled(table, drawn, size, max_takes),
        columns=columns,
        filter=filt,
    )


def sampled(
    table: ScanTable, n: int, batch_size: int, max_takes: int = MAX_TAKES
) -> CutRows:
    """Return ``n`` random rows of a table, or all of them in storage order."""
    num_rows = table.rows.num_rows
    if n >= num_rows:
        return table.rows_of(table.fragments, batch_size)
    if n > max_takes and table.filter is None:
        runs = list(runs_of(num_rows, n, max_takes))
        positions = np.concatenate([np.arange(*run) for run in runs])
        sizes = np.array([stop - start for start, stop in runs])
        return CutRows(listed(table, positions), ends_of_full(sizes, batch_size))
    positions = np.random.choice(num_rows, n, replace=False)
    return CutRows(listed(table, positions), cut_every(n, batch_size))


def listed(table: ScanTable, positions: NDArray[Any]) -> Order:
    """Return the rows at some positions."""
    return table.rows.pick(Order.listed(positions.astype(np.uint64)))


def runs_of(num_rows: int, n: int, max_takes: int) -> Iterator[tuple[int, int]]:
    """Draw runs of neighbouring rows, one in each of about ``max_takes`` equal parts of a table.

    Numbers are drawn from NumPy's global generator, in the same calls as in pylance.
    """
    part, wanted = num_rows // max_takes, n // max_takes
    drawn = 0
    for start in range(0, num_rows, part):
        if drawn >= n:
            return
        drawn += wanted
        available = min(part, num_rows - start)
        size = min(wanted, available)
        spare = available - size
        first = start + (np.random.randint(0, spare) if spare else 0)
        yield first, first + size


def ends_of_full(sizes: NDArray[Any], batch_size: int) -> NDArray[np.int64]:
    """Return the ends of batches of whole runs, each with at least ``batch_size`` rows."""
    ends, first = [], 0
    for end in np.cumsum(sizes).tolist():
        if end - first >= batch_size:
            ends.append(end)
            first = end
    if first < sizes.sum():
        ends.append(int(sizes.sum()))
    return np.array(ends, dtype=np.int64)
