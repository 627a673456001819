"""What ``explain`` says of tables in object storage: requests, bytes and time of epochs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lanceloader import cache
from lanceloader.monitor.formatting import readable
from lanceloader.options import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader import _native
    from lanceloader.verbs.base import View

__all__ = ["Fetches", "Speed", "fetches_of", "lines_of", "speed_of"]

_LATENCY = 0.1
"""The time of a request, unless requests were made: what AWS says of small ones to S3."""
_BANDWIDTH = 200e6
"""The bytes of a second, unless enough were fetched: of a machine with few cores."""
_MEASURED_BYTES = 32 << 20
"""How much must have been fetched for its speed to be that of an epoch."""
_IN_FLIGHT = 100
"""The mean number of requests in flight: 256 may be, but not at the ends of windows."""
_ROUND_TRIPS = 3
"""Those that wait for each other before the first rows come: two for footers, one for rows."""
# How ranges become requests, and rows are scanned: see rust/core/src/files and read/.
_GAP_BYTES = 32 << 10
_SINGLE_BYTES = 40 << 10
_MOST_BYTES = 4 << 20
_SCAN_ROWS = 1 << 14
_BLOCK_BYTES = 16 << 20
_REQUEST_BYTES = 2 << 20
_BLOCKS_AT_ONCE = 4
_FEWEST_RUNS = 4
_SMALL_BYTES = 8 << 20
_SAMPLE_PLACES = 16
_SAMPLE_PLACES_SHORT = 4
_SHORT_BYTES = 1 << 10
_TAIL_BYTES = 64 << 10
_NEGLIGIBLE = 0.02
"""The share of an epoch that this knows no better."""


@dataclass(frozen=True)
class Speed:
    """How fast a store answers: as measured by the requests of this process, or as assumed."""

    latency: float = _LATENCY
    bandwidth: float = _BANDWIDTH
    is_latency_measured: bool = False
    is_bandwidth_measured: bool = False

    def seconds(self, fetches: Fetches) -> float:
        """Return about how long these requests take."""
        if not fetches.requests:
            return 0.0
        waits = fetches.requests * self.latency / _IN_FLIGHT
        round_trips = min(_ROUND_TRIPS, fetches.requests) * self.latency
        return round_trips + max(fetches.bytes / self.bandwidth, waits)

    def __str__(self) -> str:
        def origin(*, is_measured: bool) -> str:
            return "measured" if is_measured else "assumed"

        return (
            f"at {self.bandwidth / 1e6:,.0f} MB/s ({origin(is_measured=self.is_bandwidth_measured)}) and "
            f"{self.latency * 1e3:,.0f} ms a request ({origin(is_measured=self.is_latency_measured)})"
        )


@dataclass(frozen=True)
class Fetches:
    """What is expected of the epochs of an order.

    Attributes:
        bytes: Bytes fetched in the first epoch.
        requests: Requests of the first epoch.
        later_bytes: Bytes fetched in each later one.
        later_requests: Requests of each later one.
        kept_bytes: Bytes that the cache folder has already.
        room: Bytes that the cache folder has room for; ``None`` without a folder.
        folder: The cache folder, or ``None``.
    """

    bytes: int
    requests: int
    later_bytes: int = 0
    later_requests: int = 0
    kept_bytes: int = 0
    room: int | None = None
    folder: str | None = None

    @property
    def later(self) -> Fetches:
        """The same of a later epoch."""
        return replace(self, bytes=self.later_bytes, requests=self.later_requests)


def speed_of(stats: _native.ReadStats) -> Speed:
    """Return the speed of a store by what was fetched of a table so far."""
    speed = Speed()
    if stats.requests:
        mean = stats.in_flight_nanos / stats.requests / 1e9
        is_small = stats.bytes_fetched < stats.requests * 4 * _TAIL_BYTES
        if is_small or mean < speed.latency:
            speed = replace(speed, latency=mean, is_latency_measured=True)
    if stats.bytes_fetched >= _MEASURED_BYTES:
        bandwidth = stats.bytes_fetched / max(stats.busy_nanos / 1e9, 1e-6)
        speed = replace(speed, bandwidth=bandwidth, is_bandwidth_measured=True)
    return speed


def fetches_of(
    view: View, table: _native.Table, reader: _native.Reader, strategy: str
) -> Fetches:
    """Return what the epochs of a permutation are expected to fetch."""
    columns = reader.stored_bytes()
    share = view.num_rows / max(1, view.source.num_rows)
    is_run = strategy != "direct" or view.order.is_ascending
    wanted = sum(columns) * (1.0 if strategy == "resident" else min(1.0, share))
    if is_run:
        requests = _requests_of_scan(view, table, reader, columns, strategy)
        if _is_sampled(reader):
            is_short = sum(columns) <= _SHORT_BYTES * view.source.num_rows
            places = _SAMPLE_PLACES_SHORT if is_short else _SAMPLE_PLACES
            requests += places * len(columns)
    else:
        requests = _requests_at_random(view, columns)
    footers = table.num_fragments * max(0.1, min(1.0, share * view.num_rows))
    whole = Fetches(
        bytes=int(wanted + footers * _TAIL_BYTES * _tail_share(table)),
        requests=int(requests + footers),
    )
    return _kept(view, table, whole, strategy)


def _requests_of_scan(
    view: View,
    table: _native.Table,
    reader: _native.Reader,
    columns: list[int],
    strategy: str,
) -> float:
    rows, stored = view.source.num_rows, sum(columns)
    if strategy == "resident":
        at_once = max(1, _BLOCK_BYTES * rows // max(1, stored)) * _together(columns)
    else:
        rows, at_once = view.num_rows, _SCAN_ROWS
    long = stored / _MOST_BYTES
    runs = max(table.num_fragments, rows / at_once) * len(columns) + long
    if view.order.is_ascending and strategy == "direct":
        return runs
    touched = sum(min(each, view.batch_size * _SINGLE_BYTES) for each in columns)
    if strategy != "direct" and 2 * touched >= stored:
        # All of it is fetched in order, before the first batch.
        has_copies = cache_folder(view.read_options.cache_dir) is not None
        choice = reader.choice()
        is_small = choice.row_bytes * choice.num_rows < _SMALL_BYTES
        if strategy == "resident" and not (has_copies and is_small):
            return table.num_fragments + runs
        if has_copies:
            return table.num_fragments + long
    # Rows of the first batch are fetched one by one.
    single = min(rows, view.batch_size) * len(columns)
    return runs + min(single, stored / _GAP_BYTES + len(columns))


def _together(columns: list[int]) -> int:
    """Return how many blocks of packed rows are asked for together, so that requests are long."""
    wanted = -(-_REQUEST_BYTES * len(columns) // _BLOCK_BYTES)
    blocks = -(-sum(columns) // _BLOCK_BYTES)
    return max(1, min(wanted, _BLOCKS_AT_ONCE, blocks // _FEWEST_RUNS))


def _is_sampled(reader: _native.Reader) -> bool:
    """Return whether some rows are looked at, as their types do not say how long they are."""
    import pyarrow as pa

    return any(_has_lengths(field.type) for field in pa.schema(reader))


def _has_lengths(kind: pa.DataType) -> bool:
    """Return whether values of a type have lengths of their own."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_has_lengths(field.type) for field in kind)
    if pa.types.is_fixed_size_list(kind):
        return _has_lengths(kind.value_type)
    try:
        return not kind.bit_width
    except ValueError:
        return True


def _requests_at_random(view: View, columns: list[int]) -> float:
    """Return how many requests random rows take: one for each value, except for neighbours."""
    rows = max(1, view.source.num_rows)
    window = min(view.num_rows, max(1, (16 << 20) * rows // max(1, sum(columns))))
    windows = view.num_rows / max(1, window)
    requests = 0.0
    for stored in columns:
        value = max(1.0, stored / rows)
        # The next value that is wanted may lie in the same request.
        between = 1 + int(_GAP_BYTES / value)
        apart = (1 - window / rows) ** between if window < rows else 0.0
        single = view.num_rows * apart
        joined = windows * (1 + window * value / _MOST_BYTES) * (1 - apart)
        # What lay in between is kept.
        requests += min(single + joined, max(windows, stored / (_GAP_BYTES / 2)))
    return requests


def _tail_share(table: _native.Table) -> float:
    """Return which part of the end of a file is not data: files may be shorter than one read."""
    size = table.data_bytes or 0
    return min(1.0, size / max(1, table.num_fragments) / _TAIL_BYTES)


def _kept(view: View, table: _native.Table, whole: Fetches, strategy: str) -> Fetches:
    """Return what is fetched although a cache folder keeps what it has room for."""
    folder = cache_folder(view.read_options.cache_dir)
    if folder is None:
        again = 0 if strategy == "resident" else 1
        return replace(
            whole,
            later_bytes=again * whole.bytes,
            later_requests=again * whole.requests,
        )
    room = view.read_options.for_native()["cache_limit"]
    if room is None:
        room = free_bytes(folder) // 2
    kept = min(whole.bytes, _bytes_there(view, table, folder, strategy, whole.bytes))
    if whole.bytes - kept < _NEGLIGIBLE * whole.bytes:
        kept = whole.bytes
    left = (whole.bytes - kept) / max(1, whole.bytes)
    lost = 0 if strategy == "resident" else max(0, whole.bytes - kept - room)
    return Fetches(
        bytes=whole.bytes - kept,
        requests=round(whole.requests * left),
        later_bytes=lost,
        later_requests=round(whole.requests * lost / max(1, whole.bytes)),
        kept_bytes=kept,
        room=room,
        folder=folder,
    )


def _bytes_there(
    view: View, table: _native.Table, folder: str, strategy: str, whole: int
) -> int:
    """Return the bytes that need not be fetched, as far as the names of files say."""
    columns = {str(name) for name in view.selection.values()}
    there = 0
    for entry in cache.entries(folder):
        if entry.origin is not None and entry.origin.startswith(f"{table.uri}/"):
            there += entry.bytes
        is_packed = entry.table == table.identity and columns <= set(entry.columns)
        if strategy == "resident" and is_packed and entry.is_complete:
            return whole
    return there


def lines_of(
    fetches: Fetches, speed: Speed, local: float, strategy: str
) -> Iterator[str]:
    """Yield the lines about requests, bytes and time.

    Args:
        fetches: What is expected.
        speed: How fast the store is.
        local: The seconds that an epoch takes once its bytes are on this machine.
        strategy: How rows are read.
    """
    yield f"fetched   {_fetched(fetches, strategy)}"
    later = fetches.later
    again = f"about {later.requests:,}" if later.requests else "none"
    first = f"about {fetches.requests:,}" if fetches.requests else "none"
    yield f"requests  {first} in epoch 0, {again} in each later one"
    seconds = [max(local, speed.seconds(each)) for each in (fetches, later)]
    times = [_about(each) for each in seconds]
    said = (
        f"{times[0]} for epoch 0, {times[1]} for each later one"
        if times[0] != times[1]
        else f"{times[0]} for each epoch"
    )
    by = f", {speed}" if fetches.requests else ""
    yield f"expected  {said}{by}, if nothing else takes longer"


def _fetched(fetches: Fetches, strategy: str) -> str:
    size = f"about {readable(fetches.bytes)}"
    if fetches.folder is None:
        again = "" if strategy == "resident" else ", and again in every epoch"
        return (
            f"{size}{again}, as there is no cache folder; `with_read(cache_dir=...)` keeps what "
            "was fetched on a local disk"
        )
    if fetches.kept_bytes and not fetches.bytes:
        return f"nothing, as {fetches.folder} has it"
    if fetches.kept_bytes:
        size += f", as {fetches.folder} has about {readable(fetches.kept_bytes)},"
    if not fetches.later_bytes:
        return (
            f"{size} once for all processes and later runs, kept under {fetches.folder}"
        )
    return (
        f"{size}; the {readable(fetches.room or 0)} that {fetches.folder} has room for are kept, "
        f"the other {readable(fetches.later_bytes)} fetched in every epoch: a larger "
        "LANCELOADER_CACHE_LIMIT, another `cache_dir` or fewer columns help"
    )


def _about(seconds: float) -> str:
    if seconds < 1:
        return f"about {max(seconds * 1e3, 1):,.0f} ms"
    if seconds < 600:
        return f"about {seconds:,.3g} s"
    return f"about {seconds / 60:,.0f} minutes"


def free_bytes(folder: str) -> int:
    """Return the free space of the disk that a folder, which need not exist, will lie on."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
