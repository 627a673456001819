"""The text of ``explain``: how rows are read, why, and the expected cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader import _native
from lanceloader.formats.decoding import Decode
from lanceloader.formats.functions import steps_of
from lanceloader.monitor.stats import readable
from lanceloader.options import cache_folder
from lanceloader.sources.window_reader import WindowReader
from lanceloader.verbs.fetching import fetches_of, lines_of, speed_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._native import Choice, Reader, Table
    from lanceloader.verbs.base import View

__all__ = ["explanation"]

# Measured on one core of a virtual machine, with the files in the page cache.
_SECONDS_PER_VALUE = 2e-6
"""The time to find and decode one value at a random position of a file."""
_BYTES_PER_SECOND = 1e9
"""The speed of decoding and copying."""
_SECONDS_PER_ROW = 5e-8
"""The time to gather a packed row."""
_FIRST_ROUND_TRIPS = 2
"""Requests to object storage that wait for each other before the first batch comes."""
_CHUNK_BYTES = 4096
"""The bytes read for one value at a random position: a chunk of its column."""
_WINDOW_BYTES = 16 << 20
"""The decoded bytes of a window of rows that are read together."""
_SMALL_BYTES = 8 << 20
"""Packed rows below this size are kept in memory of the process, not in the cache folder."""
_MAX_ROWS_AT_ONCE = 1024
"""The most rows of a batch whose time is estimated."""


def explanation(view: View) -> str:
    """Return a description of a permutation, which reads a few hundred rows at most."""
    native = getattr(view.source, "native", None)
    reader = view.open_reader()
    lines = [
        f"rows      {view.num_rows:,} of {view.source.num_rows:,}",
        f"source    {view.source.describe()}",
    ]
    if native is not None:
        size = native.data_bytes
        stored = "unknown size" if size is None else f"{size:,} bytes, all columns"
        parts = "fragment" if native.num_fragments == 1 else "fragments"
        lines.append(f"stored as {native.num_fragments:,} {parts}, {stored}")
    order = repr(view.order).removeprefix("<Order of ").removesuffix(">")
    lines += [
        f"order     {order} ({view.order.num_bytes:,} bytes)",
        f"columns   {', '.join(view.column_names)}",
    ]
    steps = steps_of(view.transform_fn)
    for step in steps:
        if isinstance(step, Decode):
            lines += [f"decode    {name}: {how}" for name, how in step.columns]
    functions = sum(not isinstance(step, Decode) for step in steps)
    if functions:
        plural = "function" if functions == 1 else "functions"
        lines.append(f"map       {functions} {plural}, called when rows are read")
    if isinstance(reader, WindowReader):
        return "\n".join([*lines, *windows(view, reader)])
    if not isinstance(reader, _native.Reader):
        lines.append(
            "read      by the table's own library, as the native reader does not support it"
        )
        return "\n".join(lines)
    choice = reader.choice()
    strategy = reader.strategy(view.order)
    if strategy == choice.strategy:
        lines.append(f"read      {strategy}, as {choice.reason}")
    elif view.order.is_ascending:
        how = "direct in order: runs of rows, a window of 16 MiB ahead"
        lines.append(f"read      {how}; at random, {choice.strategy}")
    else:
        share = f"{view.num_rows:,} of {choice.num_rows:,} rows"
        lines.append(
            f"read      {strategy}, as {share} do not pay for packing all rows"
        )
    if choice.row_bytes and view.num_rows:
        lines += costs(view, choice, strategy, reader, native)
    return "\n".join(lines)


def windows(view: View, reader: WindowReader) -> Iterator[str]:
    """Yield the lines about windows: what is read for each row, and how."""
    yield f"windows   places of rows in their episodes take {reader.num_bytes:,} bytes"
    for part in reader.parts:
        names = ", ".join(part.names)
        rows = "1 row" if part.width == 1 else f"{part.width} rows"
        how = "by the table's own library"
        if isinstance(part.reader, _native.Reader):
            strategy = part.reader.strategy(reader.order(part, view.order))
            how = f"{strategy}; at random, {part.reader.choice().reason}"
        yield f"read      {names}: {rows} for each row, {how}"


def costs(
    view: View, choice: Choice, strategy: str, reader: Reader, table: Table | None
) -> Iterator[str]:
    """Yield the lines about the cost, with estimates for what is only known after reading."""
    packed = choice.row_bytes * choice.num_rows
    useful = choice.row_bytes * view.num_rows
    columns = len(view.selection)
    if strategy == "resident":
        reads = f"every row once ({readable(packed)} packed), then from memory"
        amplification = packed / useful
        memory = readable(packed)
        folder = cache_folder(view.read_options.cache_dir)
        if folder is None or packed < _SMALL_BYTES:
            memory += " of this process"
        else:
            memory += f" of files under {folder}, shared with other processes"
    elif strategy == "external":
        reads = (
            f"an epoch scans the table, and writes and reads {readable(useful)} of scratch "
            "files"
        )
        amplification = (packed + 2 * useful) / useful
        memory = f"at most {readable(choice.memory_bytes)}"
    elif view.order.is_ascending:
        reads = f"runs of rows, {readable(useful)} once decoded"
        amplification = 1.0
        memory = f"about {readable(4 * _WINDOW_BYTES)} of windows in flight"
    else:
        window = max(1, min(view.num_rows, _WINDOW_BYTES // choice.row_bytes))
        windows = -(-view.num_rows // window)
        # A value that is longer than a chunk is read by itself.
        touched = min(
            packed,
            window * (choice.row_bytes + (columns - 1) * _CHUNK_BYTES)
            if choice.row_bytes > _CHUNK_BYTES
            else window * columns * _CHUNK_BYTES,
        )
        reads = (
            f"{windows:,} windows of {window:,} rows, sorted and merged: about "
            f"{readable(touched * windows)} an epoch"
        )
        amplification = touched * windows / useful
        memory = f"about {readable(4 * window * choice.row_bytes)} of windows in flight"
    rows = min(view.batch_size, view.num_rows, _MAX_ROWS_AT_ONCE)
    first = (
        rows * columns * _SECONDS_PER_VALUE
        + rows * choice.row_bytes / _BYTES_PER_SECOND
    )
    if table is not None and reader.is_remote:
        fetches = fetches_of(view, table, reader, strategy)
        speed = speed_of(reader.stats())
        if fetches.requests:
            first += _FIRST_ROUND_TRIPS * speed.latency
            first += rows * choice.row_bytes / speed.bandwidth
        amplification = fetches.bytes / useful
        local = _local_seconds(view, choice, strategy)
        yield from lines_of(fetches, speed, local, strategy)
    yield f"row       about {choice.row_bytes:,} bytes, packed"
    yield f"reads     {reads}"
    yield f"amplified {amplification:.1f} times the bytes of the batches, in the first epoch"
    yield f"memory    {memory}"
    yield f"first     batch of {rows:,} rows is expected after {first * 1e3:,.0f} ms"


def _local_seconds(view: View, choice: Choice, strategy: str) -> float:
    """Return about how long an epoch takes once the bytes of its rows are on this machine."""
    useful = choice.row_bytes * view.num_rows
    if strategy == "external":
        useful = choice.row_bytes * choice.num_rows + 2 * useful
    if strategy == "direct" and not view.order.is_ascending:
        values = view.num_rows * len(view.selection)
        return values * _SECONDS_PER_VALUE + useful / _BYTES_PER_SECOND
    return view.num_rows * _SECONDS_PER_ROW + useful / _BYTES_PER_SECOND
