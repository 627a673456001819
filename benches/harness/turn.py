"""One turn of one arm, in a process of its own: the first batch, then batches against the clock.

``timed`` starts the process; ``turn``, ``make`` and what they call run in it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.child import function
from harness.process import PROPORTIONAL, Scale, child, result_of
from harness.tables import BenchTable

if TYPE_CHECKING:
    from peers import Arm

MIN_BATCHES = 3
"""However slow an arm is, it is timed for this many batches."""
COMPARED_ROWS = 64
INTERVAL_S = 0.1
"""How often a process and its workers are weighed."""
MAKE_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Turn:
    figures: dict[str, float]
    first_rows: str
    """Stands for the first rows of the first batch."""
    differs: str
    """What is wrong with a batch, if anything is."""


def timed(
    table: BenchTable, arm: Arm, seed: int, seconds: float, *,
    is_warm: bool = False, is_checked: bool = False, is_weighed: bool = False,
) -> Turn:  # fmt: skip
    """Run a turn.

    Args:
        is_warm: Whether the arm was opened once before the clock starts, in a process that is
            as if it had run for long.
        is_checked: Whether its batches are compared with the table in the end.
        is_weighed: Whether its memory is measured, which slows the first batch.
    """
    arguments = {"table": table, "arm": arm, "seed": seed, "seconds": seconds}
    with child(
        "harness.turn:turn",
        venv=arm.venv,
        is_long_running=is_warm,
        is_warm=is_warm,
        **arguments,
    ) as running:
        scale = Scale(running, PROPORTIONAL, INTERVAL_S) if is_weighed else None
        with scale or contextlib.nullcontext():
            first = running.next()
            running.next()
        figures = running.next()
        if scale:
            with scale:
                running.next()
            figures |= scale.figures()
        figures["first_batch_s"] = first["first_batch_s"]
        differs = ""
        if is_checked:
            differs = first["differs"]
            if not scale:
                running.next()
            differs = differs or running.next()["differs"]
    return Turn(figures, first["rows"], differs)


def turn(
    table: BenchTable, arm: Arm, seed: int, seconds: float, *, is_warm: bool
) -> Iterator[dict[str, Any] | None]:
    opened = arm.imported()
    use = touch_images if table.name == "image" else None
    if is_warm:
        next(opened(table, seed + 1, **arm.options))
        gc.collect()
    yield None
    start = time.perf_counter()
    batches = opened(table, seed, **arm.options)
    batch = next(batches)
    first = time.perf_counter() - start
    differs = "" if arm.has_own_batches else wrong_size(table, batch)
    rows = first_rows(batch)
    del batch
    yield {"first_batch_s": first, "rows": rows, "differs": differs}
    before = most = None
    if arm.is_restarted:
        steps = table.num_batches - 1
        before, most = steps // 4, steps - steps // 4
        if not most:
            message = "an epoch is too short to be timed"
            raise ValueError(message)
    # As many batches must lie ready when the clock starts as when it stops.
    time_batches(batches, seconds / 2, use, before)
    yield None
    yield time_batches(batches, seconds, use, most)
    if not arm.is_restarted:
        time_batches(batches, seconds / 2, use)
    yield None
    yield {"differs": what_differs(table, next(batches), arm)}


def make(table: BenchTable, arm: Arm) -> Iterator[None]:
    """Write what an arm reads instead of the table, or beside it."""
    arm.imported()
    yield
    function(arm.make)(table)
    yield


def prepare(table: BenchTable, arm: Arm) -> None:
    if arm.make:
        arguments = {"table": table, "arm": arm, "limit_s": MAKE_LIMIT_S}
        result_of("harness.turn:make", venv=arm.venv, **arguments)


def time_batches(
    batches: Iterator[Any], seconds: float, use: Any = None, most: int | None = None
) -> dict[str, float]:
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
    return {
        "rows_per_s": num_rows / (now - start),
        "num_batches": num_batches,
        "thread_s_per_batch": thread_s / max(num_batches, 1),
        "process_s_per_batch": process_s / max(num_batches, 1),
    }


def touch_images(batch: Any) -> None:
    """Read a byte of each page of every image, as a decoder would read all of them.

    Otherwise whoever hands out views of a mapped file would be timed without its reading.
    """
    import numpy as np
    import pyarrow as pa

    is_arrow = isinstance(batch, pa.RecordBatch | pa.Table)
    images = batch.column("image") if is_arrow else [one["image"] for one in batch]
    for image in images:
        view = image.as_buffer() if isinstance(image, pa.Scalar) else image
        np.frombuffer(view, np.uint8)[:: mmap.PAGESIZE].sum()


def rows_of(batch: Any) -> int:
    if isinstance(batch, dict):
        column = next(iter(batch.values()))
        # A ragged column is its values, and where each row of them begins and ends.
        return len(column.offsets) - 1 if hasattr(column, "offsets") else len(column)
    return batch.num_rows if hasattr(batch, "num_rows") else len(batch)


def wrong_size(table: BenchTable, batch: Any) -> str:
    found = rows_of(batch)
    return "" if found == table.batch_size else f"a batch of {found} rows"


def first_rows(batch: Any) -> str:
    """Return the same for batches that begin with the same rows, in whatever form."""
    rows = batch[:COMPARED_ROWS].tolist() if hasattr(batch, "stride") else None
    try:
        rows = ids(batch)[:COMPARED_ROWS] if rows is None else rows
    except KeyError:
        return ""
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def ids(batch: Any) -> list[int]:
    if isinstance(batch, list):
        return [row["id"] for row in batch]
    column = batch["id"]
    return column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()


def what_differs(table: BenchTable, batch: Any, arm: Arm) -> str:
    """Return what is wrong with a batch: its rows must be those of the table that its ids say."""
    import lance

    if hasattr(batch, "stride"):
        return ""
    found = ids(batch)
    is_long = len(found) > table.batch_size and not arm.has_own_batches
    if not found or is_long or len(set(found)) != len(found):
        return f"{len(found)} rows, {len(set(found))} of them different"
    # In every table of the benches a row's id is its offset.
    wanted = lance.dataset(table.path).take(found)
    for name in wanted.column_names:
        there = wanted.column(name).combine_chunks()
        if not as_arrow(batch, name, there.type).equals(there):
            return f"other values of {name} than the table has"
    return ""


def as_arrow(batch: Any, name: str, dtype: Any) -> Any:
    """Return one column of any output as an Arrow array."""
    import numpy as np
    import pyarrow as pa

    if isinstance(batch, list):
        values = [row[name] for row in batch]
        if isinstance(values[0], memoryview):
            values = [bytes(value) for value in values]
        return pa.array(values, dtype)
    column = batch[name]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.Array):
        return column.cast(dtype)
    if hasattr(column, "offsets"):
        ends = column.offsets.numpy().astype(np.int32)
        ragged = pa.ListArray.from_arrays(ends, pa.array(column.values.numpy()))
        return ragged.cast(dtype)
    values = column.numpy()
    if values.ndim == 1:
        return pa.array(values, dtype)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(dtype)
