"""Plots of orders and of loader statistics, with matplotlib.

Each function draws into ``ax`` or a new figure, and returns the axes. The colours are suitable
for colour-blind readers and for greyscale. Install with ``pip install "lanceloader[plots]"``.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader._extras import need
from lanceloader.monitor.formatting import brief
from lanceloader.monitor.stats import STAGES, Stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lanceloader._native import Order

__all__ = ["order", "stages", "throughput", "waits"]


class Ordered(Protocol):
    """A permutation."""

    @property
    def order(self) -> Order:
        """The rows, in their order."""

    def __len__(self) -> int:
        """Return the number of rows."""


class OrderedLoader(Protocol):
    """A loader of a permutation."""

    @property
    def permutation(self) -> Any:
        """The rows of all ranks, in the order of the epoch."""


class Measured(Protocol):
    """A loader, or another object with statistics."""

    def stats(self) -> Stats:
        """Return the statistics."""


BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"

BINS = 64
"""The number of intervals over which curves are averaged, since single batches are noisy."""


def order(
    perm: Ordered | OrderedLoader,
    ax: Axes | None = None,
    *,
    num_points: int = 5000,
) -> Axes:
    """Plot the row offset in the table against the position in the order.

    An exact shuffle is an even cloud, a windowed shuffle a band of blocks, and storage order a
    line. Clumps are short rising lines; plot ``perm.with_take(2000)`` to see small ones.

    Args:
        perm: A permutation, or a loader, of which the rows of all ranks are plotted.
        ax: The axes. By default, those of a new figure.
        num_points: The maximal number of positions, at equal distances. Each costs a few
            microseconds.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``num_points`` is less than 1.

    Example:
        >>> axes = ll.plots.order(perm.shuffle(seed=7))
        >>> axes.get_xlabel()
        'position in the order'
    """
    if num_points < 1:
        message = f"`num_points` must be at least 1, got {num_points}"
        raise ValueError(message)
    view: Any = getattr(perm, "permutation", perm)
    num_rows = len(view)
    stride = max(1, -(-num_rows // num_points))
    positions = range(0, num_rows, stride)
    offsets = [view.order.at(position) for position in positions]
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
    stats: Stats | Measured, ax: Axes | None = None, *, label: str | None = None
) -> Axes:
    """Plot the rows per second after the first batch over time, and their mean.

    Args:
        stats: The statistics of a loader, or the loader.
        ax: The axes, which may hold other curves. By default, those of a new figure.
        label: The label of the curve in the legend.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the loader has returned fewer than two batches.
    """
    stats = _of(stats)
    series = stats.series
    if len(series) < 2:
        message = f"a curve needs at least 2 batches, got {stats.batches}"
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
    axes.set_xlabel("seconds since the first batch was requested")
    axes.set_ylabel("rows per second")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _count(axes.yaxis)
    if label is not None:
        axes.legend(frameon=False, loc="lower right")
    return _tidy(axes)


def waits(stats: Stats | Measured, ax: Axes | None = None) -> Axes:
    """Plot a histogram of the trainer's waits for batches. Both axes are logarithmic.

    Args:
        stats: The statistics of a loader, or the loader.
        ax: The axes. By default, those of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the loader has returned fewer than two batches.
    """
    stats = _of(stats)
    if not stats.waits:
        message = f"a histogram of waits needs at least 2 batches, got {stats.batches}"
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
    # The labels of marks on the right need space.
    low, high = min(*ends, first) / 2, max(*ends, first)
    axes.set_xlim(low, high * (high / low) ** 0.3)
    return _tidy(axes)


def stages(stats: Stats | Measured, ax: Axes | None = None) -> Axes:
    """Plot the seconds of all threads in each stage, and the seconds that the trainer waited.

    Args:
        stats: The statistics of a loader, or the loader.
        ax: The axes. By default, those of a new figure.

    Returns:
        The axes.

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
    axes.set_xlabel("seconds, summed over all threads")
    return _tidy(axes)


def _of(stats: Stats | Measured) -> Stats:
    return stats if isinstance(stats, Stats) else stats.stats()


def _axes(ax: Axes | None) -> Axes:
    need("matplotlib", "lanceloader.plots", "plots")
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    return axes


def _rates(
    series: tuple[tuple[float, int, float], ...],
) -> tuple[list[float], list[float]]:
    """Return the edges of intervals of about equal length, and the rows per second in each."""
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
    """Return the width of the class of waits that ends at ``seconds``: a quarter of an octave."""
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
    """Return a number with three significant digits and a unit prefix, as in ``"8.15 M"``."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _unit(seconds: float) -> str:
    """Return a tick label for a power of ten of seconds, as in ``"10 ms"``."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size * 0.999:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
