"""Rows of fragments, and where batches of them end: arithmetic over row offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lanceloader._native import Order
from lanceloader.engine import ROW_ADDRESS
from lanceloader.numbers import numbers_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lanceloader.sources import Source

__all__ = [
    "CutRows",
    "FragmentRows",
    "cut_every",
    "cut_within",
    "fragments_of",
    "in_blocks",
]


class FragmentRows(NamedTuple):
    """The rows of a fragment that are not deleted, as a run of row offsets."""

    fragment_id: int
    start: int
    stop: int


class CutRows(NamedTuple):
    """Rows in the order in which they are read, and the positions at which batches end."""

    order: Order
    ends: NDArray[np.int64]

    def buffered(self, size: int) -> CutRows:
        """Return batches joined, in turn, as long as they have at most ``size`` rows together."""
        ends, first, last = [], 0, 0
        for end in self.ends.tolist():
            if end - first > size and last > first:
                ends.append(last)
                first = last
            last = end
        if last > first:
            ends.append(last)
        return CutRows(self.order, np.array(ends, dtype=np.int64))


def fragments_of(source: Source) -> list[FragmentRows]:
    """Find where fragments begin, by bisection over the addresses of rows.

    Rows of a fragment are neighbours, so rows between two of one fragment belong to it as well.
    """
    reader = source.reader([(ROW_ADDRESS, ROW_ADDRESS)])
    rows = source.all_rows()

    def fragment_ids(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        taken: Any = reader.take(rows, offsets)  # type: ignore[arg-type]
        return numpy_of(numbers_of(taken)).astype(np.int64) >> 32

    # `first` and `last` bound the intervals in which another fragment begins.
    first = np.zeros(1, dtype=np.int64)
    last = np.full(1, source.num_rows - 1, dtype=np.int64)
    starts = [first]
    while len(first):
        is_cut = fragment_ids(first) != fragment_ids(last)
        first, last = first[is_cut], last[is_cut]
        is_found = last - first == 1
        starts.append(last[is_found])
        first, last = first[~is_found], last[~is_found]
        middle = (first + last) // 2
        first, last = np.concatenate([first, middle]), np.concatenate([middle, last])
    found = np.sort(np.concatenate(starts))
    stops = [*found[1:].tolist(), source.num_rows]
    return [
        FragmentRows(*numbers)
        for numbers in zip(
            fragment_ids(found).tolist(), found.tolist(), stops, strict=True
        )
    ]


def cut_every(num_rows: int, size: int) -> NDArray[np.int64]:
    """Return the ends of batches of ``size`` rows, of which the last one may be shorter."""
    ends = np.arange(size, num_rows + size, size, dtype=np.int64)
    return np.minimum(ends, num_rows)


def cut_within(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the ends of batches of at most ``size`` rows, none of which spans two runs of rows."""
    parts = -(-lengths // size)
    last_part = np.cumsum(parts)
    number = np.arange(parts.sum(), dtype=np.int64) - np.repeat(
        last_part - parts, parts
    )
    starts = np.repeat(np.cumsum(lengths) - lengths, parts)
    ends: NDArray[np.int64] = starts + np.minimum(
        (number + 1) * size, np.repeat(lengths, parts)
    )
    return ends


def in_blocks(
    order: Order,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    numbers: Iterable[int],
) -> CutRows:
    """Return batches of neighbouring positions of an order, in the order of their numbers."""
    chosen = np.fromiter(numbers, dtype=np.int64)
    if len(chosen) == 0:
        return CutRows(order.slice(0, 0), chosen)
    starts, sizes = starts[chosen], (stops - starts)[chosen]
    ends = np.cumsum(sizes)
    if len(chosen) == 1 or (
        (np.diff(starts) == starts[1] - starts[0]).all()
        and (sizes[:-1] == sizes[0]).all()
        and starts[1] > starts[0]
    ):
        stride = int(starts[1] - starts[0]) if len(chosen) > 1 else int(sizes[0])
        block = int(sizes[0])
        return CutRows(order.blocks(int(starts[0]), block, stride, int(ends[-1])), ends)
    positions = np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1])
    return CutRows(order.pick(Order.listed(positions.astype(np.uint64))), ends)
