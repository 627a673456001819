"""Everyone without workers on each table; and those who are followed over batches, widths and rows."""

from __future__ import annotations

from collections.abc import Iterable

import peers
from harness.bench import Bench
from harness.recipes import NUM_FEATURES, RECIPES
from harness.tables import QUICK, BenchTable, table_of
from peers import Arm

TABLES, CURVES, GROWTH = "tables", "curves", "growth"
TABLE, IN_STORAGE_ORDER = "table", "in order"
BATCH_SIZE, WIDTH, ROWS = "batch size", "width", "rows"

NAMES = (*peers.TABLES, "mixed")
BATCH_SIZES = (64, 256, 1024, 4096, 16_384)
WIDTHS = (1, 4, 16, 64)
NUM_ROWS = (100_000, 1_000_000, 10_000_000)
LARGE_NUM_ROWS = (*NUM_ROWS, 100_000_000)
LISTED_ROWS = 20_000_000
"""Above this, nobody is asked to shuffle a Python list of positions: it takes gigabytes."""
CURVE_ROUNDS = 2
"""Curves show a trend; their points need fewer rounds."""
CURVE_SHARE = 0.5
"""A turn of a curve, as a share of one of a table."""


def run_tables(bench: Bench) -> None:
    for name in bench.options.tables:
        table = bench.table(name)
        table.warm()
        race(bench, TABLE, name, table, peers.readers_of(name))
        if name == "narrow":
            arms = (peers.our_loader(peers.MATRIX), peers.TORCH_MATRIX)
            where = f"{name}, as one matrix"
            race(bench, TABLE, where, table.features(NUM_FEATURES), arms)
        large = min(table.large_batch_size, table.num_rows // 4)
        arms = [
            arm
            for arm in peers.in_storage_order()
            if name != "image" or not arm.has_own_batches
        ]
        where = f"{name}, in order"
        race(bench, IN_STORAGE_ORDER, where, table.of(batch_size=large), arms)


def run_curves(bench: Bench) -> None:
    narrow, wide = bench.table("narrow"), bench.table("wide")
    for size in BATCH_SIZES:
        where = f"narrow, batches of {size:,}"
        follow(bench, BATCH_SIZE, where, narrow.of(batch_size=size))
    for width in WIDTHS:
        follow(bench, WIDTH, f"wide, {width} columns", wide.features(width))


def run_growth(bench: Bench) -> None:
    """Make tables as large as need be, and delete them again."""
    with bench.empty_folder("growth-") as folder:
        for size in LARGE_NUM_ROWS if bench.options.large else NUM_ROWS:
            num_rows = size // (QUICK if bench.quick else 1)
            table = table_of(RECIPES["narrow"], folder, num_rows)
            follow(bench, ROWS, f"narrow, {num_rows:,} rows", table)


def follow(bench: Bench, kind: str, where: str, table: BenchTable) -> None:
    arms = peers.followed()
    if table.num_rows > LISTED_ROWS:
        arms = [arm for arm in arms if arm.how != peers.DATA_LOADER]
    race(bench, kind, where, table, arms, is_followed=True)


def race(
    bench: Bench, kind: str, where: str, table: BenchTable, arms: Iterable[Arm], *,
    is_followed: bool = False,
) -> None:  # fmt: skip
    """Race arms, and keep a sample of each turn; only whole tables are checked."""
    arms = list(arms)
    words = bench.options.arms
    if words:
        arms = [arm for arm in arms if any(word in arm.name for word in words)]
    is_whole = kind == TABLE and table.columns is None
    for arm, number, figures in bench.race(
        where,
        table,
        arms,
        rounds=min(CURVE_ROUNDS, bench.rounds) if is_followed else bench.rounds,
        seconds=bench.seconds * (CURVE_SHARE if is_followed else 1),
        is_checked=not is_followed,
        is_compared=not is_followed,
        reference=peers.REFERENCE if is_whole else None,
    ):
        bench.samples.append(
            {
                "kind": kind,
                "race": where,
                "table": table.name,
                "num_rows": table.num_rows,
                "num_columns": None if table.columns is None else len(table.columns),
                "batch_size": table.batch_size,
                "contender": arm.name,
                "output": arm.output,
                "shuffle": arm.shuffle,
                "round": number,
                **figures,
                "load": bench.load(),
            }
        )
