"""The picture: rows per second per table and contender, on a logarithmic scale."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from contenders import ARROW, LANCEDB, OURS, OURS_ITER, OURS_SCAN, SCAN, TAKE
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter
from report import CLASSES, Results

mpl.use("Agg")

COLOURS = {
    OURS: "#0072b2",
    LANCEDB: "#d55e00",
    TAKE: "#e69f00",
    OURS_ITER: "#56b4e9",
    SCAN: "#777777",
    OURS_SCAN: "#bbbbbb",
}


def draw(results: Results, path: Path) -> None:
    tables = results.tables()
    width = max(4.5 * len(tables), 7)
    figure, axes = plt.subplots(1, len(tables), figsize=(width, 5.2), squeeze=False)
    for axis, table in zip(axes[0], tables, strict=True):
        draw_table(axis, results, table)
    axes[0][0].set_ylabel("rows per second (logarithmic)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    labels = [f"{name} ({CLASSES.get(name, 'torch DataLoader')})" for name in COLOURS]
    columns = min(len(tables), 3)
    bottom = 0.03 + 0.05 * len(COLOURS) / columns
    figure.legend(
        handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=11
    )
    figure.suptitle("Whole Arrow batches, no workers: median, lowest and highest round")
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_table(axis: plt.Axes, results: Results, table: str) -> None:
    highest = 0.0
    lowest = float("inf")
    for at, (name, colour) in enumerate(COLOURS.items()):
        found = results.values("rows_per_s", table, ARROW, name)
        median = results.rate(table, ARROW, name)
        ends = [[median - min(found)], [max(found) - median]]
        axis.bar(at, median, color=colour, yerr=ends, capsize=4, width=0.8)
        axis.text(at, max(found) * 1.2, short(median), ha="center", fontsize=10)
        highest, lowest = max(highest, *found), min(lowest, *found)
    axis.set_yscale("log")
    axis.set_ylim(10 ** math.floor(math.log10(lowest / 2)), highest * 2.2)
    axis.yaxis.set_major_formatter(lambda rate, _: short(rate))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks([])
    axis.set_title(table)
    axis.spines[["top", "right"]].set_visible(False)


def short(rate: float) -> str:
    """Three figures: 8.15 M, 412 k."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if rate >= size:
            return f"{rate / size:.3g}{unit}"
    return f"{rate:.3g}"
