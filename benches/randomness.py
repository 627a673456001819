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
import numpy as np
import pyarrow as pa
from harness.machine import versions

SEEDS = 5
MODES: dict[str, dict[str, int]] = {
    "exact": {},
    **{f"clump_size={size}": {"clump_size": size} for size in (16, 64, 1024)},
    "block_size=64": {"block_size": 64},
    "block_size=64, window_blocks=1024": {"block_size": 64, "window_blocks": 1024},
    "block_size=1024": {"block_size": 1024},
    "block_size=1024, window_blocks=16": {"block_size": 1024, "window_blocks": 16},
    "block_size=1024, window_blocks=256": {"block_size": 1024, "window_blocks": 256},
    "block_size=4096": {"block_size": 4096},
}
Order = np.ndarray[Any, Any]


def main() -> None:
    options = parse()
    rows = np.arange(options.rows)
    perm = ll.open(pa.table({"row": rows}))
    orders: dict[str, list[Order]] = {
        "random (numpy)": [
            np.random.default_rng(s).permutation(rows) for s in range(SEEDS)
        ]
    }
    for name, arguments in MODES.items():
        shuffles = [perm.shuffle(seed, **arguments) for seed in range(SEEDS)]
        orders[name] = [each.to_arrow()["row"].to_numpy() for each in shuffles]
    orders["none"] = [rows]
    modes = {}
    for name, of in orders.items():
        found = [measure(order, options) for order in of]
        modes[name] = {
            key: float(np.mean([one[key] for one in found])) for key in found[0]
        }
    print(text(modes))
    summary = {
        "rows": options.rows,
        "labels": options.labels,
        "batch_size": options.batch_size,
        "batches": options.batches,
        "seeds": SEEDS,
        "versions": versions(),
        "modes": modes,
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


def measure(order: Order, options: argparse.Namespace) -> dict[str, float]:
    size = options.batch_size
    labels = order * options.labels // len(order)
    starts = np.linspace(0, len(order) - size, options.batches).astype(int)
    batches = [
        np.bincount(labels[start : start + size], minlength=options.labels)
        for start in starts
    ]
    return {
        "entropy": float(np.mean([entropy(counts) for counts in batches])),
        "labels": float(np.mean([np.count_nonzero(counts) for counts in batches])),
        "distance": float(np.abs(np.diff(order)).mean() / len(order)),
        # Offsets and positions are ranks already.
        "correlation": abs(float(np.corrcoef(np.arange(len(order)), order)[0, 1])),
    }


def entropy(counts: Order) -> float:
    """Bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def text(modes: dict[str, dict[str, float]]) -> str:
    lines = [
        "| shuffle | entropy of a batch, bits | labels in a batch | distance of neighbours | rank correlation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {of['entropy']:.2f} | {of['labels']:.1f} | {of['distance']:.3f} | {of['correlation']:.3f} |"
        for name, of in modes.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
