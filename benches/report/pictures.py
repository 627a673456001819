"""The pictures: everyone on each table, curves over sizes, and memory over time."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import matplotlib as mpl
from harness.process import MIB
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter
from peers import ARROW, NONE
from scenarios.epochs import BOUNDED, EXTERNAL
from scenarios.tables import BATCH_SIZE, ROWS, TABLE, WIDTH

from report.results import Record, Results

mpl.use("Agg")

FAMILIES = {
    "lanceloader": "#0072b2",
    "lancedb": "#d55e00",
    "lance": "#e69f00",
    "torch": "#009e73",
    "numpy": "#009e73",
    "pyarrow": "#009e73",
    "HF": "#cc79a7",
    "LitData": "#8c564b",
}
"""A colour for each library; what is copied into memory first has one together."""
NO_SHUFFLE = "#999999"
HEADROOM = 256
"""MiB above its budget that a shuffle may take."""


def draw(results: Results, folder: Path) -> None:
    """Draw what there is to draw."""
    if races := [race for race in results.races(TABLE) if is_crowded(results, race)]:
        draw_tables(results, races, folder / "loader.png")
    if results.races(BATCH_SIZE) and results.races(WIDTH):
        batches = (
            BATCH_SIZE,
            "batch_size",
            "rows_per_s",
            "rows of a batch, 18 columns",
        )
        what = "columns of float32, batches of 1,024"
        columns = (WIDTH, "num_columns", "rows_per_s", what)
        draw_curves(results, [batches, columns], folder / "curves.png")
    if results.races(ROWS):
        panels = [
            (ROWS, "num_rows", field, "rows of the table")
            for field in ("rows_per_s", "first_batch_s")
        ]
        draw_curves(results, panels, folder / "growth.png")
    if results.run["timeline"]:
        draw_memory(results, folder / "external.png")


def is_crowded(results: Results, race: str) -> bool:
    """Whether a race is worth a picture: that of two is a line in the tables."""
    return len(results.entries(race)) > 2


def colour(contender: str, shuffle: str) -> str:
    family = next((name for name in FAMILIES if contender.startswith(name)), "")
    if shuffle == NONE and family != "lanceloader":
        return NO_SHUFFLE
    return FAMILIES.get(family, NO_SHUFFLE)


def draw_tables(results: Results, races: list[str], path: Path) -> None:
    columns = 2 if len(races) > 1 else 1
    rows = math.ceil(len(races) / columns)
    counts = [len(results.entries(race)) for race in races]
    tallest = [max(counts[at : at + columns]) for at in range(0, len(counts), columns)]
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(8.5 * columns, sum(0.36 * count + 1.0 for count in tallest)),
        height_ratios=[count + 2 for count in tallest],
        squeeze=False,
    )
    for axis in axes.flat[len(races) :]:
        axis.axis("off")
    for axis, race in zip(axes.flat, races, strict=False):
        draw_race(axis, results, race)
    figure.suptitle(
        "Rows per second (logarithmic): median, with the lowest and highest round.\n"
        "Grey: no shuffle. Exact shuffles but where a name says otherwise."
    )
    save(figure, path)


def draw_race(axis: plt.Axes, results: Results, race: str) -> None:
    entries = [
        (results.of(race, contender, output), contender, output)
        for contender, output in results.entries(race)
    ]
    bars = sorted(entries, key=lambda entry: middle(entry[0], "rows_per_s"))
    highest = 0.0
    for at, (samples, contender, _) in enumerate(bars):
        rates = [sample["rows_per_s"] for sample in samples]
        rate = middle(samples, "rows_per_s")
        ends = [[rate - min(rates)], [max(rates) - rate]]
        tint = colour(contender, samples[0]["shuffle"])
        axis.barh(at, rate, color=tint, xerr=ends, height=0.75, ecolor="#333333")
        axis.text(max(rates) * 1.1, at, short(rate), va="center", fontsize=9)
        highest = max(highest, *rates)
    labels = [label(contender, output) for _, contender, output in bars]
    axis.set_yticks(range(len(bars)), labels, fontsize=9)
    axis.set_xscale("log")
    lowest = min(sample["rows_per_s"] for samples, *_ in bars for sample in samples)
    axis.set_xlim(10 ** math.floor(math.log10(lowest / 2)), highest * 3)
    readable(axis.xaxis)
    batch_size = bars[0][0][0]["batch_size"]
    axis.set_title(f"{race}, batches of {batch_size:,}", loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def label(contender: str, output: str) -> str:
    named = f"{contender} → {output}" if output != ARROW else contender
    return f"{named} (windows)" if contender == "LitData" else named


def draw_curves(
    results: Results, panels: list[tuple[str, str, str, str]], path: Path
) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(7.5 * len(panels), 5))
    for axis, (kind, along, field, what) in zip(axes, panels, strict=True):
        samples = [one for one in results.samples if one["kind"] == kind]
        for contender in dict.fromkeys(one["contender"] for one in samples):
            of = [one for one in samples if one["contender"] == contender]
            sizes = sorted({one[along] for one in of})
            points = [
                middle([one for one in of if one[along] == size], field)
                for size in sizes
            ]
            is_whole = "DataLoader" not in contender
            axis.plot(
                sizes,
                points,
                "o-" if is_whole else "s--",
                color=colour(contender, of[0]["shuffle"]),
                label=contender,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(what)
        axis.set_ylabel(
            "rows per second" if field == "rows_per_s" else "seconds to first batch"
        )
        axis.set_xticks(sorted({one[along] for one in samples}))
        axis.minorticks_off()
        readable(axis.xaxis)
        readable(axis.yaxis)
        axis.grid(color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def draw_memory(results: Results, path: Path) -> None:
    timeline = results.run["timeline"]
    limit = (results.figure(EXTERNAL, BOUNDED, "memory_limit") or 0) / MIB
    figure, axis = plt.subplots(figsize=(9, 4.5))
    stacked = [
        [bytes_ / MIB for bytes_ in timeline[name]] for name in ("anonymous", "file")
    ]
    axis.stackplot(
        timeline["seconds"],
        stacked,
        labels=["anonymous", "of files (the system may take it back)"],
        colors=["#0072b2", "#a6cee3"],
    )
    axis.axhline(limit, color="#d55e00", label="budget: a quarter of the rows")
    axis.axhline(
        limit + HEADROOM, color="#d55e00", linestyle="--", label="the target's bound"
    )
    for end in timeline["epoch_ends"]:
        axis.axvline(end, color="#333333", linewidth=1, linestyle=":")
    axis.set_xlabel("seconds since opening the table; dotted: an epoch ends")
    axis.set_ylabel("resident MiB, less the imports")
    axis.set_xlim(0, timeline["seconds"][-1])
    axis.set_ylim(0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def readable(axis: mpl.axis.Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def middle(samples: list[Record], field: str) -> float:
    return statistics.median(sample[field] for sample in samples)


def short(value: float) -> str:
    """Three figures: 8.15 M, 412 k, 0.012."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
