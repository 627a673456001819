"""Tokens/s of packing documents into blocks: ours beside LanceDB's, of one table, shuffled.

By itself: ``python benches/packing.py [--quick]``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lancedb
import lanceloader as ll
from arms import OURS as OURS_LIBRARY
from measure import Failure, Measured, Step, failure
from tables import BenchTable, bench_table

PACKING = "packing"
LENGTH = 2048
BATCH_SIZE = 16
EOS, PAD = 1, 0
SEED = 7
LANCEDB = "lancedb, StreamingDataset"
STRATEGIES = ("concat", "first_fit", "best_fit")


def run_packing(
    table: BenchTable, num_rounds: int, seconds: float, step: Step
) -> tuple[list[Measured], list[Failure]]:
    """Measure every arm in turns.

    Args:
        table: A table with a column ``tokens``.
        num_rounds: Turns of each arm.
        seconds: Of one turn, at most; a turn that comes to the end goes on with another epoch.
        step: Called with the name of each turn.
    """
    measured: list[Measured] = []
    failures: list[Failure] = []
    arms = {
        f"{OURS_LIBRARY}, {name}": lambda name=name: ours(table, name)
        for name in STRATEGIES
    }
    arms[LANCEDB] = lambda: theirs(table)
    # Rows of ours are then in memory for all rounds; LanceDB keeps none.
    for name in list(arms):
        step(f"{PACKING}: {name}, first epoch")
        try:
            turn(arms[name], seconds)
        except Exception as error:
            failures.append(failure(PACKING, name, "", error))
            del arms[name]
    for number in range(num_rounds):
        for name, epochs in arms.items():
            step(f"{PACKING}: {name}")
            try:
                figures = turn(epochs, seconds)
                measured.append(Measured(PACKING, name, number, figures))
            except Exception as error:
                failures.append(failure(PACKING, name, "", error))
    return measured, failures


def turn(
    epochs: Callable[[], Iterator[Iterator[tuple[int, int]]]], seconds: float
) -> dict[str, float]:
    """Take blocks for a while, the start of each epoch among it."""
    num_blocks = num_tokens = 0
    first: float | None = None
    start = time.perf_counter()
    for epoch in epochs():
        for blocks, tokens in epoch:
            num_blocks += blocks
            num_tokens += tokens
            now = time.perf_counter() - start
            first = now if first is None else first
            if now > seconds:
                break
        else:
            continue
        break
    spent = time.perf_counter() - start
    return {
        "tokens_per_s": num_tokens / spent,
        "fill": num_tokens / (num_blocks * LENGTH),
        "first_batch_s": first or spent,
    }


def ours(table: BenchTable, strategy: str) -> Iterator[Iterator[tuple[int, int]]]:
    perm = ll.open(str(table.path))
    packed = perm.pack(
        LENGTH, column="tokens", eos_id=EOS, pad_id=PAD, strategy=strategy
    )
    loader = packed.loader(
        BATCH_SIZE, shuffle=True, seed=SEED, epochs=None, format="torch_dict"
    )
    yield (
        (len(batch["num_tokens"]), int(batch["num_tokens"].sum())) for batch in loader
    )


def theirs(table: BenchTable) -> Iterator[Iterator[tuple[int, int]]]:
    """LanceDB gives blocks of tensors; without workers, as ours.

    The number of its blocks is asked for, so that it need not sample lengths.
    """
    from lancedb.streaming import StreamingDataset
    from torch.utils.data import DataLoader

    handle = lancedb.connect(table.folder).open_table(table.name)
    perm = ll.open(str(table.path))
    blocks = perm.pack(LENGTH, column="tokens", eos_id=EOS).num_blocks()
    for epoch in range(1 << 20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset: Any = StreamingDataset(
                handle,
                num_splits=1,
                shuffle_seed=SEED,
                epoch=epoch,
                columns=["tokens"],
                pack_sequences=LENGTH,
                eos_id=EOS,
                pad_id=PAD,
                blocks_per_epoch=blocks,
            )
            loader = DataLoader(dataset, batch_size=BATCH_SIZE)
            yield (
                (len(batch["input_ids"]), batch["input_ids"].numel())
                for batch in loader
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    table = bench_table("tokens", quick=options.quick)
    measured, failures = run_packing(table, options.rounds, options.seconds, print)
    for sample in measured:
        figures = ", ".join(
            f"{name} {value:,.4g}" for name, value in sample.figures.items()
        )
        print(f"{sample.case:<28} {figures}")
    for problem in failures:
        print(problem)


if __name__ == "__main__":
    main()
