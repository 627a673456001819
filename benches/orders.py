"""Orders through Python: a filter of 100 million rows, and shuffles of up to 2^40."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from lanceloader._native import Order
from measure import Failure, Measured, Step, failure

ORDERS = "order"
FILTER = "filter of {:,} rows, half of them kept at random"
FILTER_ROWS = 100_000_000
MANY_ROWS = 10**12
SIZES = (10**6, 2**22 + 1, 2**30 + 1, 10**12, 2**40)
RUN = 65_536
"""Offsets asked for at a time."""
SECONDS = 0.3
VERBS_REPEATED = 100


def run_orders(
    num_rounds: int, step: Step, *, quick: bool
) -> tuple[list[Measured], list[Failure]]:
    measured: list[Measured] = []
    failures: list[Failure] = []
    num_rows = FILTER_ROWS // (20 if quick else 1)
    jobs: list[tuple[str, Callable[[], list[dict[str, float]]]]] = [
        (
            FILTER.format(num_rows),
            lambda: filters(num_rows, num_rounds),
        ),
        *(
            (
                f"shuffle of {size:,} rows",
                lambda size=size: shuffles(size, num_rounds),
            )
            for size in SIZES
        ),
    ]
    for name, job in jobs:
        step(f"{ORDERS}: {name}")
        try:
            for number, figures in enumerate(job()):
                measured.append(Measured(ORDERS, name, number, figures))
        except Exception as error:
            failures.append(failure(ORDERS, name, "", error))
    return measured, failures


def filters(num_rows: int, num_rounds: int) -> list[dict[str, float]]:
    kept = np.flatnonzero(np.random.default_rng(7).random(num_rows) < 0.5)
    start = time.perf_counter()
    order = Order.set(kept)
    set_s = time.perf_counter() - start
    shuffled = order.shuffled(7)
    return [
        {
            "num_bytes": order.num_bytes,
            "make_s": set_s,
            "offsets_per_s": rate(order),
            "shuffled_offsets_per_s": rate(shuffled),
        }
        for _ in range(num_rounds)
    ]


def shuffles(num_rows: int, num_rounds: int) -> list[dict[str, float]]:
    order = Order.all(num_rows).shuffled(7)
    return [
        {
            "num_bytes": order.num_bytes,
            "offsets_per_s": rate(order),
            "verbs_s": verbs(num_rows),
        }
        for _ in range(num_rounds)
    ]


def rate(order: Order) -> float:
    """Ask for runs from all over the order, on one thread."""
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


def verbs(num_rows: int) -> float:
    """Give the seconds of one new epoch, split, shard and resume, as orders do them."""
    start = time.perf_counter()
    for epoch in range(VERBS_REPEATED):
        shuffled = Order.all(num_rows).shuffled(7, epoch)
        split = shuffled.slice(0, num_rows // 10 * 9)
        shard = split.shard(3, 8, "uneven")
        resumed = shard.slice(len(shard) // 2, len(shard) // 4)
        resumed.at(0)
    return (time.perf_counter() - start) / VERBS_REPEATED
