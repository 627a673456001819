"""How fast windows over episodes are read, beside plain rows and beside a dataset that takes them one by one.

Episodes of robot data: windows of 16 actions of 14 float32 numbers and two states of as many, shuffled. The arms
take turns, and the table shows the median of their rounds. The limit is a loader that gathers as many plain
rows, each with its action and its state; the dataset makes one take of lancedb for each window.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lanceloader as ll
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

STEPS, NUMBERS, BATCH = 16, 14, 256
LENGTH = 300
LIMIT = f"as many plain rows, {STEPS} for each window"
OURS = "windows"
ONE_BY_ONE = "one by one, lancedb"
TARGETS = {LIMIT: 0.5, ONE_BY_ONE: 50.0}
"""At least this many times the windows/s of the arm."""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="lanceloader-windows-") as folder:
        arms = make_arms(Path(folder), options.episodes)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, batches in arms.items():
                rates[name].append(rate_of(batches(), options.seconds))
    print(f"{'arm':<42} {'windows/s':>10} {'ours / arm':>11} {'target':>7}")
    for name, of in rates.items():
        ratios = [ours / other for ours, other in zip(rates[OURS], of, strict=True)]
        target = f"{TARGETS[name]:g}" if name in TARGETS else ""
        rate, ratio = statistics.median(of), statistics.median(ratios)
        print(f"{name:<42} {rate:>10,.0f} {ratio:>11.2f} {target:>7}")


def make_arms(folder: Path, episodes: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Return functions that begin to yield the numbers of windows in batches, by the name of the arm."""
    import lancedb
    from lancedb.permutation import Permutation

    table = lancedb.connect(folder / "db").create_table("episodes", data(episodes))
    perm = ll.Permutation.identity(table).with_read(cache_dir="")
    windows = perm.select_columns(["action", "state"]).windows(
        {"action": range(STEPS), "state": [-1, 0]}, by="episode", order="frame"
    )
    plain = perm.select_columns(["action", "state"])
    options: dict[str, Any] = {"shuffle": True, "seed": 1, "epochs": None}
    options |= {"drop_last": True, "format": "torch_dict"}

    def ours() -> Iterator[int]:
        for batch in windows.loader(BATCH, **options):
            yield len(batch["action"])

    def gathered() -> Iterator[int]:
        for batch in plain.loader(BATCH * STEPS, **options):
            yield len(batch["action"]) // STEPS

    def one_by_one() -> Iterator[int]:
        dataset = OneByOne(Permutation.identity(table), table.count_rows())
        while True:
            for batch in DataLoader(dataset, BATCH, shuffle=True):
                yield len(batch["action"])

    return {OURS: ours, LIMIT: gathered, ONE_BY_ONE: one_by_one}


class OneByOne(Dataset[dict[str, torch.Tensor]]):
    """Windows as a dataset takes them that knows where episodes end."""

    def __init__(self, table: Any, num_rows: int) -> None:
        self.table = table.select_columns(["action", "state"]).with_format("arrow")
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        first = at // LENGTH * LENGTH
        steps = [-1, *range(STEPS)]
        places = [min(max(at + step, first), first + LENGTH - 1) for step in steps]
        rows = self.table.__getitems__(sorted(set(places)))
        picked = [sorted(set(places)).index(place) for place in places]
        action, state = (
            rows[name].flatten().to_numpy().reshape(-1, NUMBERS)[picked]
            for name in ("action", "state")
        )
        return {
            "action": torch.from_numpy(action[1:]),
            "state": torch.from_numpy(state[:2]),
            "action_is_pad": torch.arange(at, at + STEPS) >= first + LENGTH,
        }


def data(episodes: int) -> pa.Table:
    rng = np.random.default_rng(0)
    count = episodes * LENGTH

    def numbers() -> pa.Array:
        values = pa.array(rng.random(count * NUMBERS, dtype=np.float32))
        return pa.FixedSizeListArray.from_arrays(values, NUMBERS)

    return pa.table(
        {
            "episode": np.arange(count) // LENGTH,
            "frame": np.arange(count) % LENGTH,
            "action": numbers(),
            "state": numbers(),
        }
    )


def rate_of(batches: Iterator[int], seconds: float) -> float:
    """Return windows per second, after the first batches."""
    for _ in range(2):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += next(batches)
    rate = count / (time.perf_counter() - start)
    batches.close()  # type: ignore[attr-defined]
    return rate


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
