"""What ``on_gpu.py`` found, as text."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from report.layout import Row, table

LIMIT = "on the GPU"
"""The way whose batches are on the GPU already."""


def gpu_sections(folder: Path) -> Iterator[str]:
    """Return the figures of steps on a GPU; nothing if none were measured."""
    path = folder / "gpu.json"
    if not path.exists():
        return
    run = json.loads(path.read_text())
    machine, versions = run["machine"], run["versions"]
    yield "### Training steps on a GPU"
    yield (
        f"{run['gpu']} and {machine['cores']} cores of {machine['cpu']}, python {versions['python']}, torch "
        f"{versions['torch']}, lancedb {versions['lancedb']}. {run['day']}, {run['rounds']} rounds, batches of "
        f"{run['batch_size']:,} rows."
    )
    yield table(gpu_rows(run["rows_per_s"]))


def gpu_rows(rates: dict[str, dict[str, list[float]]]) -> Iterator[Row]:
    yield (
        "",
        *(
            heading
            for name in rates
            for heading in (f"{name}, rows/s", "of the step alone")
        ),
    )
    for way in next(iter(rates.values())):
        cells = []
        for of_table in rates.values():
            found, limit = (statistics.median(of_table[name]) for name in (way, LIMIT))
            cells += [f"{found:,.0f}", f"{found / limit:.0%}"]
        yield way, *cells
