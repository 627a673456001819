"""Pictures of orders and of what loaders did, with matplotlib: ``pip install lanceloader[plots]``.

Each function draws into ``ax``, or a new figure, and gives the axes back. Colours can be told
apart by the colour-blind, and in print.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.loader.loader import Loader
from lanceloader.monitor.report import brief
from lanceloader.monitor.stats import STAGES, Stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lanceloader._permutation import Permutation

__all__ = ["order", "stages", "throughput", "waits"]

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"

BINS = 64
"""Curves over time are means of so many parts of the time: single batches are noise."""


def order(
    perm: Permutation | Loader,
    ax: Axes | None = None,
    *,
    num_points: int = 5000,
) -> Axes:
    """Draw which row stands where: the position in the order, and the row offset in the table.

    An exact shuffle is an even cloud, a windowed one a band of blocks, storage order a line.
    Clumps are short rising lines; look at ``perm.with_take(2000)`` to see small ones.

    Args:
        perm: A permutation, or a loader, whose rows of all ranks are drawn.
        ax: Where to draw.
        num_points: At most so many positions are drawn, evenly far apart. Costs some
            microseconds each.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``num_points`` is less than 1.

    Example:
        >>> axes = ll.plots.order(perm.shuffle(seed=7))
        >>> axes.get_xlabel()
        'position in the order'
    """
    if num_points < 1:
        message = f"num_points={num_points}: wanted at least 1"
        raise ValueError(message)
    view: Any = perm.permutation if isinstance(perm, Loader) else perm
    num_rows = len(view)
    stride = max(1, -(-num_rows // num_points))
    positions = range(0, num_rows, stride)
    offsets = [view._order.at(position) for position in positions]
    axes = _axes(ax)
    size = 9 if len(positions) < 1000 else 3
    axes.scatter(
        positions, offsets, s=size, color=BLUE, linewidths=0, alpha=0.7, rasterized=True
    )
    axes.set_xlabel("position in the order")
    axes.set_ylabel("row offset in the table")
    axes.margins(0.01)
    for axis in (axes.xaxis, axes.yaxis):
        _count(axis)
    return _tidy(axes)


def throughput(
    stats: Stats | Loader, ax: Axes | None = None, *, label: str | None = None
) -> Axes:
    """Draw the rows per second over time, beside their mean, after the first batch.

    Args:
        stats: What a loader did, or the loader.
        ax: Where to draw; several may be drawn into the same axes.
        label: What the curve is called in a legend.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If fewer than two batches were handed out.
    """
    stats = _of(stats)
    series = stats.series
    if len(series) < 2:
        message = f"{stats.batches} batches: wanted at least 2 for a curve"
        raise ValueError(message)
    axes = _axes(ax)
    edges, rates = _rates(series)
    (first, rows, _), (last, all_rows, _) = series[0], series[-1]
    mean = (all_rows - rows) / max(last - first, 1e-9)
    colour = axes.stairs(
        rates, edges, linewidth=1.8, baseline=None, label=label
    ).get_edgecolor()
    axes.axhline(mean, color=colour, linestyle="--", linewidth=1)
    axes.text(
        1.0,
        mean,
        f" {_short(mean)}\n mean",
        transform=axes.get_yaxis_transform(),
        color=colour,
        va="center",
    )
    axes.set_xlabel("seconds since the first batch was asked for")
    axes.set_ylabel("rows per second")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _count(axes.yaxis)
    if label is not None:
        axes.legend(frameon=False, loc="lower right")
    return _tidy(axes)


def waits(stats: Stats | Loader, ax: Axes | None = None) -> Axes:
    """Draw how long the trainer waited for batches, and how often: both axes are logarithmic.

    Args:
        stats: What a loader did, or the loader.
        ax: Where to draw.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If fewer than two batches were handed out.
    """
    stats = _of(stats)
    if not stats.waits:
        message = f"{stats.batches} batches: wanted at least 2 for their waits"
        raise ValueError(message)
    axes = _axes(ax)
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ends = [max(seconds, 1e-9) for seconds, _ in stats.waits]
    numbers = [number for _, number in stats.waits]
    widths = [_width(end) for end in ends]
    starts = [end - width for end, width in zip(ends, widths, strict=True)]
    axes.bar(starts, numbers, width=widths, align="edge", color=BLUE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(numbers) * 8)
    marks: dict[float, list[str]] = {}
    for name in ("p50", "p95", "p99"):
        marks.setdefault(getattr(stats, f"wait_{name}"), []).append(name)
    heights = iter((0.98, 0.91, 0.84))
    for seconds, names in marks.items():
        mark = f"{', '.join(names)}: {brief(seconds)}"
        _mark(axes, max(seconds, 1e-9), mark, ORANGE, next(heights))
    first = max(stats.first_batch_seconds, 1e-9)
    _mark(axes, first, f"first batch: {brief(first)}", GREEN, 0.77)
    axes.set_xlabel("wait for a batch")
    axes.set_ylabel("number of batches")
    _count(axes.yaxis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _unit(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Marks on the right need room for their text.
    low, high = min(*ends, first) / 2, max(*ends, first)
    axes.set_xlim(low, high * (high / low) ** 0.3)
    return _tidy(axes)


def stages(stats: Stats | Loader, ax: Axes | None = None) -> Axes:
    """Draw the seconds that threads spent on each stage, and how long the trainer waited.

    Args:
        stats: What a loader did, or the loader.
        ax: Where to draw.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    stats = _of(stats)
    axes = _axes(ax)
    spent = {
        stage: stats.stage_seconds[stage]
        for stage in STAGES
        if stats.stage_seconds.get(stage)
    }
    names, seconds = [*spent, "trainer waits"], [*spent.values(), stats.wait_seconds]
    colours = [BLUE] * len(spent) + [ORANGE]
    axes.barh(range(len(names)), seconds, color=colours, height=0.7)
    for row, each in enumerate(seconds):
        axes.annotate(
            brief(each),
            (each, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds, of all threads together")
    return _tidy(axes)


def _of(stats: Stats | Loader) -> Stats:
    return stats.stats() if isinstance(stats, Loader) else stats


def _axes(ax: Axes | None) -> Axes:
    need("matplotlib", "lanceloader.plots", "plots")
    from matplotlib import pyplot as plt

    if ax is not None:
        return ax
    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    return axes


def _rates(
    series: tuple[tuple[float, int, float], ...],
) -> tuple[list[float], list[float]]:
    """Give the ends of parts of the time, about evenly long, and rows per second in each."""
    width = (series[-1][0] - series[0][0]) / BINS
    kept = [series[0]]
    for point in series[1:-1]:
        is_far = point[0] - kept[-1][0] >= width
        if is_far and series[-1][0] - point[0] >= width:
            kept.append(point)
    kept.append(series[-1])
    rates = [
        (after[1] - before[1]) / max(after[0] - before[0], 1e-9)
        for before, after in itertools.pairwise(kept)
    ]
    return [point[0] for point in kept], rates


def _width(seconds: float) -> float:
    """Give the width of the class of waits that ends there; there are four to each doubling."""
    return 2.0 ** (math.floor(math.log2(seconds * 1e9)) - 2) / 1e9


def _mark(axes: Axes, x: float, text: str, colour: str, height: float) -> None:
    axes.axvline(x, color=colour, linewidth=1.2, ymax=height)
    axes.annotate(
        text,
        (x, height),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color=colour,
        va="top",
        fontsize=9,
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def _tidy(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _count(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """Three figures: 8.15 M, 412 k, 0.012."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _unit(seconds: float) -> str:
    """A power of ten of seconds, in its unit."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size * 0.999:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
