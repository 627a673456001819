"""Asking for batches against the clock. Processes of all peers import this file."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

MIN_BATCHES = 3
"""However slow a contender is, a sample has this many batches."""


@dataclass(frozen=True)
class Turn:
    num_rows: int
    num_batches: int
    wall_s: float
    thread_s: float
    process_s: float


def time_batches(
    batches: Iterator[Any],
    seconds: float,
    use: Callable[[Any], object] | None = None,
    most: int | None = None,
) -> Turn:
    """Ask for batches, and use them, until the time is up or there were ``most`` of them."""
    num_rows = num_batches = 0
    process, thread = time.process_time(), time.thread_time()
    start = now = time.perf_counter()
    while (now - start < seconds or num_batches < MIN_BATCHES) and num_batches != most:
        batch = next(batches)
        if use is not None:
            use(batch)
        num_rows += rows_of(batch)
        num_batches += 1
        now = time.perf_counter()
    thread_s = time.thread_time() - thread
    process_s = time.process_time() - process
    return Turn(num_rows, num_batches, now - start, thread_s, process_s)


def touch_images(batch: Any) -> None:
    """Read a byte of each page of every image, as a decoder would read all of them.

    Otherwise whoever hands out views of a mapped file would be timed without its reading.
    """
    is_arrow = isinstance(batch, pa.RecordBatch | pa.Table)
    images = batch.column("image") if is_arrow else [one["image"] for one in batch]
    for image in images:
        view = image.as_buffer() if isinstance(image, pa.Scalar) else image
        np.frombuffer(view, np.uint8)[:: mmap.PAGESIZE].sum()


def rows_of(batch: Any) -> int:
    if isinstance(batch, pa.RecordBatch | pa.Table):
        return batch.num_rows
    if isinstance(batch, dict):
        return rows_of_column(next(iter(batch.values())))
    return len(batch)


def rows_of_column(column: Any) -> int:
    # A ragged column is its values, and where each row of them begins and ends.
    return len(column.offsets) - 1 if hasattr(column, "offsets") else len(column)
