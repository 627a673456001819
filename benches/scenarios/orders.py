"""Orders through Python: a filter of 100 million rows, and shuffles of up to 2^40."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.bench import Bench
from harness.process import result_of

if TYPE_CHECKING:
    from lanceloader._native import Order

ORDERS = "order"
FILTER = "filter of {:,} rows, half of them kept at random"
FILTER_ROWS = 100_000_000
MANY_ROWS = 10**12
SIZES = (10**6, 2**22 + 1, 2**30 + 1, 10**12, 2**40)
RUN = 65_536
"""Offsets asked for at a time."""
SECONDS = 0.3
VERBS_REPEATED = 100


def run(bench: Bench) -> None:
    num_rows = FILTER_ROWS // (20 if bench.quick else 1)
    jobs = {FILTER.format(num_rows): ("filters", num_rows)} | {
        f"shuffle of {size:,} rows": ("shuffles", size) for size in SIZES
    }
    cases = {
        case: lambda _, job=job, size=size: result_of(
            f"scenarios.orders:{job}", num_rows=size
        )
        for case, (job, size) in jobs.items()
    }
    bench.measure(ORDERS, cases, bench.rounds)


# In processes of their own


def filters(num_rows: int) -> Iterator[Any]:
    import numpy as np
    from lanceloader._native import Order

    yield
    kept = np.flatnonzero(np.random.default_rng(7).random(num_rows) < 0.5)
    start = time.perf_counter()
    order = Order.set(kept)
    yield {
        "num_bytes": order.num_bytes,
        "make_s": time.perf_counter() - start,
        "offsets_per_s": rate(order),
        "shuffled_offsets_per_s": rate(order.shuffled(7)),
    }


def shuffles(num_rows: int) -> Iterator[Any]:
    from lanceloader._native import Order

    yield
    order = Order.all(num_rows).shuffled(7)
    found = rate(order)
    start = time.perf_counter()
    for epoch in range(VERBS_REPEATED):
        split = Order.all(num_rows).shuffled(7, epoch).slice(0, num_rows // 10 * 9)
        shard = split.shard(3, 8, "uneven")
        shard.slice(len(shard) // 2, len(shard) // 4).at(0)
    verbs_s = (time.perf_counter() - start) / VERBS_REPEATED
    yield {
        "num_bytes": order.num_bytes,
        "offsets_per_s": found,
        "verbs_s": verbs_s,
    }


def rate(order: Order) -> float:
    """Ask for runs from all over the order, on one thread."""
    import numpy as np

    rng = np.random.default_rng(1)
    size = min(RUN, len(order))
    starts = rng.integers(0, len(order) - size + 1, 1024).tolist()
    count = 0
    start = now = time.perf_counter()
    while now - start < SECONDS:
        at = starts[count % len(starts)]
        order.offsets(at, at + size)
        count += 1
        now = time.perf_counter()
    return count * size / (now - start)
