"""Shuffled rows of a local disk, with the files dropped from the page cache.

Bytes are those that the process had the disk read, pages that were mapped included. The limit is a loop of
``preadv`` with 32 reads in flight that reads the same bytes in random order.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.bench import Bench, Figures
from harness.process import child
from harness.tables import BenchTable

from scenarios import storage
from scenarios.storage import LANCEDB, OURS, PYLANCE, Remote, case_of

COLD_DISK = "cold disk"
PREADV = "preadv, 32 in flight"
NAMES = ("narrow", "image")
IN_FLIGHT = 32
LONG_BYTES = 16 << 10
"""Rows of more bytes are read one by one."""
BLOCK_BYTES = 1 << 20


def run(bench: Bench) -> None:
    for name in NAMES:
        table = bench.table(name)
        cases = {
            case_of(name, arm): lambda _, arm=arm, table=table: one(bench, arm, table)
            for arm in (OURS, PREADV, LANCEDB, PYLANCE)
        }
        bench.measure(COLD_DISK, cases, bench.rounds)


def one(bench: Bench, arm: str, table: BenchTable) -> Figures:
    arguments: dict[str, Any] = {"table": table}
    job = "scenarios.cold:read"
    if arm != PREADV:
        rows = table.num_rows // table.batch_size * table.batch_size
        arguments = {"remote": Remote(str(table.path), {}, rows, table.batch_size)}
        jobs = {
            OURS: "ours",
            LANCEDB: "lancedb_permutation",
            PYLANCE: "pylance_take",
        }
        job = f"{storage.__name__}:{jobs[arm]}"
    with bench.empty_folder() as cache, child(job, cache=cache, **arguments) as running:
        # Imports may have mapped something.
        table.cool()
        cached_share = table.cached_share()
        found = running.next()
        running.finish()
    return {
        "rows_per_s": found["rows"] / found["seconds"],
        "first_batch_s": found["first_batch_s"],
        "bytes_per_useful_byte": found["disk_bytes"] / found["bytes"],
        "cached_share": cached_share,
    }


# In a process of its own


def read(table: BenchTable) -> Iterator[Any]:
    """Read all data files, a row at a time if rows are long."""
    yield
    files = [file for file in table.files() if file.parent.name == "data"]
    length = sum(file.stat().st_size for file in files) // table.num_rows
    step = length if length > LONG_BYTES else BLOCK_BYTES
    ranges = [
        (file, start) for file in files for start in range(0, file.stat().st_size, step)
    ]
    random.Random(1).shuffle(ranges)
    start, before = time.perf_counter(), storage.disk_bytes()
    found = sum(read_all(files, ranges, step))
    seconds = time.perf_counter() - start
    yield {
        "rows": table.num_rows,
        "bytes": found,
        "seconds": seconds,
        "first_batch_s": 0.0,
        "disk_bytes": storage.disk_bytes() - before,
    }


def read_all(
    files: list[Path], ranges: list[tuple[Path, int]], step: int
) -> Iterator[int]:
    opened = {file: os.open(file, os.O_RDONLY) for file in files}
    for number in opened.values():
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)

    def some(part: list[tuple[Path, int]]) -> int:
        buffer = bytearray(step)
        return sum(os.preadv(opened[file], [buffer], start) for file, start in part)

    parts = [ranges[at::IN_FLIGHT] for at in range(IN_FLIGHT)]
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        yield from threads.map(some, parts)
    for number in opened.values():
        os.close(number)
