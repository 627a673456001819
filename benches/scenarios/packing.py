"""Tokens/s of packing documents into blocks: ours beside LanceDB's, of one table, shuffled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from harness.bench import Bench
from harness.child import function
from harness.process import result_of
from harness.tables import BenchTable
from peers import LANCEDB, OURS

PACKING = "packing"
LENGTH = 2048
OPTIONS = {"length": LENGTH, "batch_size": 16, "eos_id": 1, "pad_id": 0}
SEED = 7
STRATEGIES = ("concat", "first_fit", "best_fit")
OURS_CONCAT = f"{OURS}, {STRATEGIES[0]}"
THEIRS = f"{LANCEDB}, StreamingDataset"


ARMS = {
    **{
        f"{OURS}, {name}": ("peers.loader:packed", {"strategy": name})
        for name in STRATEGIES
    },
    THEIRS: ("peers.streaming:packed", {}),
}


def run(bench: Bench) -> None:
    arguments = {"table": bench.table("tokens"), "seconds": bench.seconds}
    cases = {
        name: lambda _, epochs=epochs, options=options: result_of(
            "scenarios.packing:pack", epochs=epochs, options=options, **arguments
        )
        for name, (epochs, options) in ARMS.items()
    }
    bench.measure(PACKING, cases, bench.rounds)


def pack(
    table: BenchTable, epochs: str, options: dict[str, Any], seconds: float
) -> Iterator[Any]:
    """Take blocks for a while, the start of each epoch among it."""
    opened = function(epochs)
    import lancedb.streaming  # noqa: F401
    import lanceloader  # noqa: F401
    import torch  # noqa: F401

    yield
    # What ours keeps between epochs is then there; LanceDB keeps nothing.
    turn(opened(table, SEED, **OPTIONS, **options), seconds)
    yield turn(opened(table, SEED, **OPTIONS, **options), seconds)


def turn(
    epochs: Iterator[Iterator[tuple[int, int]]], seconds: float
) -> dict[str, float]:
    num_blocks = num_tokens = 0
    first = 0.0
    start = time.perf_counter()
    for blocks, tokens in (batch for epoch in epochs for batch in epoch):
        num_blocks += blocks
        num_tokens += tokens
        spent = time.perf_counter() - start
        first = first or spent
        if spent > seconds:
            break
    return {
        "tokens_per_s": num_tokens / spent,
        "fill": num_tokens / (num_blocks * LENGTH),
        "first_batch_s": first,
    }
