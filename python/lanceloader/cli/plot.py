"""The picture that ``bench --plot`` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lanceloader.cli.output import quantity

if TYPE_CHECKING:
    from pathlib import Path

    from lanceloader.cli.racing import Result

__all__ = ["draw"]


def draw(results: list[Result], file: Path, title: str) -> None:
    """Draw a bar of rows per second for each result, and write it to a file."""
    figure = Figure(figsize=(8, 1 + 0.55 * len(results)), layout="constrained")
    axes = figure.subplots()
    rates = [result.rows_per_second for result in results]
    lowest = [rate - min(each.turns) for rate, each in zip(rates, results, strict=True)]
    highest = [
        max(each.turns) - rate for rate, each in zip(rates, results, strict=True)
    ]
    bars = axes.barh(
        [result.name for result in results],
        rates,
        xerr=[lowest, highest],
        color=["tab:blue", *["tab:gray"] * (len(results) - 1)],
        ecolor="black",
        capsize=3,
    )
    axes.bar_label(bars, [f"{quantity(rate)} rows/s" for rate in rates], padding=6)
    axes.set_xlim(0, 1.25 * max(max(each.turns) for each in results))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: quantity(value) if value else "0")
    axes.set_xlabel("rows per second: median, lowest and highest turn")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
