"""How random each shuffle is: exact, by clumps and by windows, beside numpy's.

The rows are sorted by label, which is the worst for a shuffle that keeps neighbours close: it
shows in what a batch holds. Nothing is read; prints a table, and writes randomness.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lanceloader as ll
import machine
import numpy as np
import pyarrow as pa
from lanceloader.numbers import offsets_of

SEEDS = 5
MODES: dict[str, dict[str, int]] = {
    "exact": {},
    "clump_size=16": {"clump_size": 16},
    "clump_size=64": {"clump_size": 64},
    "clump_size=1024": {"clump_size": 1024},
    "block_size=64": {"block_size": 64},
    "block_size=64, window_blocks=1024": {"block_size": 64, "window_blocks": 1024},
    "block_size=1024": {"block_size": 1024},
    "block_size=1024, window_blocks=16": {"block_size": 1024, "window_blocks": 16},
    "block_size=1024, window_blocks=256": {"block_size": 1024, "window_blocks": 256},
    "block_size=4096": {"block_size": 4096},
}


def main() -> None:
    options = parse()
    perm = ll.open(pa.table({"x": pa.array(range(options.rows), pa.int64())}))
    orders = {"random (numpy)": [truly_random(options.rows, s) for s in range(SEEDS)]}
    for name, arguments in MODES.items():
        shuffles = [perm.shuffle(seed, **arguments) for seed in range(SEEDS)]
        orders[name] = [
            offsets_of(each._order).to_numpy().astype(np.int64) for each in shuffles
        ]
    orders["none"] = [np.arange(options.rows)]
    measured = {
        name: mean([measure(order, options) for order in each])
        for name, each in orders.items()
    }
    print(text(measured))
    summary = {
        "rows": options.rows,
        "labels": options.labels,
        "batch_size": options.batch_size,
        "batches": options.batches,
        "seeds": SEEDS,
        "versions": machine.versions(),
        "modes": measured,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "randomness.json").write_text(json.dumps(summary, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=1000)
    here = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=here)
    return parser.parse_args()


def truly_random(num_rows: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).permutation(num_rows)


def measure(
    order: np.ndarray[Any, Any], options: argparse.Namespace
) -> dict[str, float]:
    size = options.batch_size
    labels = order * options.labels // len(order)
    starts = np.linspace(0, len(order) - size, options.batches).astype(int)
    batches = [
        np.bincount(labels[start : start + size], minlength=options.labels)
        for start in starts
    ]
    distances = np.abs(np.diff(order))
    return {
        "entropy": float(np.mean([entropy(counts) for counts in batches])),
        "labels": float(np.mean([np.count_nonzero(counts) for counts in batches])),
        "distance": float(distances.mean() / len(order)),
        # Offsets and positions are ranks already.
        "correlation": abs(float(np.corrcoef(np.arange(len(order)), order)[0, 1])),
    }


def entropy(counts: np.ndarray[Any, Any]) -> float:
    """Bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def mean(measured: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in measured])) for key in measured[0]}


def text(measured: dict[str, dict[str, float]]) -> str:
    lines = [
        "| shuffle | entropy of a batch, bits | labels in a batch | distance of neighbours | rank correlation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {of['entropy']:.2f} | {of['labels']:.1f} | {of['distance']:.3f} | "
        f"{of['correlation']:.3f} |"
        for name, of in measured.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
