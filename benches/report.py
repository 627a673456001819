"""What was measured, as text: tables, verdicts and targets. Nothing is left out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contenders import (
    ARROW,
    FLOOR,
    LANCEDB,
    NONE,
    OURS,
    OURS_ITER,
    OURS_SCAN,
    OWN,
    SCAN,
    TAKE,
    TENSORS,
    TORCH,
)
from measure import CollateSample, Sample

CLASSES = {OURS_ITER: OWN, SCAN: NONE, OURS_SCAN: NONE}
"""Contenders of another shuffle class than torch's."""

Row = Sequence[str]


@dataclass(frozen=True)
class Results:
    samples: list[Sample]
    collate: list[CollateSample]

    def tables(self) -> list[str]:
        return list(dict.fromkeys(sample.table for sample in self.samples))

    def names(self, table: str, output: str, num_workers: int = 0) -> list[str]:
        picked = self.of(table, output, None, num_workers)
        return list(dict.fromkeys(sample.contender for sample in by_round(picked)))

    def of(
        self, table: str, output: str, contender: str | None, num_workers: int = 0
    ) -> list[Sample]:
        return [
            sample
            for sample in self.samples
            if (sample.table, sample.output) == (table, output)
            and contender in (None, sample.contender)
            and sample.num_workers == num_workers
        ]

    def values(
        self, field: str, table: str, output: str, contender: str, num_workers: int = 0
    ) -> list[float]:
        picked = self.of(table, output, contender, num_workers)
        values = [getattr(sample, field) for sample in picked]
        return [value for value in values if value is not None]

    def median(
        self, field: str, table: str, output: str, contender: str, num_workers: int = 0
    ) -> float:
        return statistics.median(
            self.values(field, table, output, contender, num_workers)
        )

    def rate(self, table: str, output: str, contender: str) -> float:
        return self.median("rows_per_s", table, output, contender)


def by_round(samples: Iterable[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.round)


def aligned(title: str, rows: list[Row]) -> str:
    """Lay out rows of text; the first is the heading, the first column is flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
    return "\n".join([title, "-" * len(lines[0]), *lines, ""])


def text(results: Results) -> Iterator[str]:
    """Give the report, a table at a time."""
    for output in (ARROW, TENSORS):
        for table in results.tables():
            if results.names(table, output):
                yield rates(results, table, output)
    if any(sample.num_workers for sample in results.samples):
        yield worker_rates(results)
    for title, field, scale in [
        ("ms from opening the table to the first batch", "first_batch_s", 1e3),
        ("CPU ms of the consumer's thread per batch", "thread_s_per_batch", 1e3),
        ("CPU ms of the process, all threads, per batch", "process_s_per_batch", 1e3),
    ]:
        yield across_tables(results, title, field, scale)
    if results.collate:
        yield collate_costs(results.collate)
    yield verdicts(results)
    if missed := targets(results):
        yield missed


def rates(results: Results, table: str, output: str) -> str:
    rows: list[Row] = [("", "rows/s", "lowest", "highest", "x lancedb", "shuffle")]
    base = results.rate(table, output, LANCEDB)
    for name in results.names(table, output):
        if name == FLOOR:
            continue
        found = results.values("rows_per_s", table, output, name)
        median = statistics.median(found)
        numbers = [f"{value:,.0f}" for value in (median, min(found), max(found))]
        shuffle = CLASSES.get(name, TORCH)
        rows.append((name, *numbers, f"{median / base:,.2f}", shuffle))
    return aligned(f"{table}: {output}, 0 workers", rows)


def worker_rates(results: Results) -> str:
    heading = ("", "rows/s", "lowest", "highest", "x lancedb", "s to first batch")
    rows: list[Row] = [heading]
    num_workers = max(sample.num_workers for sample in results.samples)
    for table in results.tables():
        for name in results.names(table, ARROW, num_workers):
            base = results.median("rows_per_s", table, ARROW, LANCEDB, num_workers)
            key = (table, ARROW, name, num_workers)
            found = results.values("rows_per_s", *key)
            median = statistics.median(found)
            numbers = [f"{value:,.0f}" for value in (median, min(found), max(found))]
            first = results.median("first_batch_s", *key)
            ratio = f"{median / base:,.2f}"
            rows.append((f"{table}: {name}", *numbers, ratio, f"{first:.1f}"))
    return aligned(f"{ARROW}, {num_workers} spawned workers", rows)


def across_tables(results: Results, title: str, field: str, scale: float) -> str:
    """One figure of everyone, a column per table."""
    rows: list[Row] = [("", *results.tables())]
    for output in (ARROW, TENSORS):
        names = [n for table in results.tables() for n in results.names(table, output)]
        for name in dict.fromkeys(names):
            cells = []
            for table in results.tables():
                found = results.values(field, table, output, name)
                cell = f"{scale * statistics.median(found):,.2f}" if found else "-"
                cells.append(cell)
            label = name if output == ARROW else f"{name}, tensors"
            rows.append((label, *cells))
    return aligned(f"{title} (0 workers)", rows)


def collate_costs(samples: list[CollateSample]) -> str:
    rows: list[Row] = [("", "fetch ms", "collate ms", "collate CPU ms", "both ms")]
    for name in dict.fromkeys(sample.contender for sample in samples):
        mine = [sample for sample in samples if sample.contender == name]

        def median(
            value: Callable[[CollateSample], float], mine: list[CollateSample] = mine
        ) -> str:
            return f"{1e3 * statistics.median(map(value, mine)):.2f}"

        rows.append(
            (
                name,
                median(lambda sample: sample.fetch_s),
                median(lambda sample: sample.collate_s),
                median(lambda sample: sample.collate_thread_s),
                median(lambda sample: sample.fetch_s + sample.collate_s),
            )
        )
    table = samples[0].table
    return aligned(f"{table}: format python, then torch's default collate", rows)


def ratios(results: Results) -> Iterator[tuple[str, str, float, str]]:
    """Give table, output, ours / best of lancedb and lance.take, and which that is."""
    for output in (ARROW, TENSORS):
        for table in results.tables():
            if results.names(table, output):
                best = max(
                    (LANCEDB, TAKE), key=lambda n: results.rate(table, output, n)
                )
                ratio = results.rate(table, output, OURS)
                yield table, output, ratio / results.rate(table, output, best), best


def verdicts(results: Results) -> str:
    rows: list[Row] = [("", "ratio", "against", "verdict")]
    for table, output, ratio, best in ratios(results):
        verdict = "faster" if ratio >= 1 else "missed"
        rows.append((f"{table}: {output}", f"{ratio:.2f}", best, verdict))
    return aligned("verdict: lanceloader / best of lancedb and lance.take", rows)


def found_targets(results: Results) -> Iterator[tuple[str, float, str, bool]]:
    """Give the design's targets that this bench can judge: what, figure, wanted, met."""

    def rate(table: str, name: str = OURS) -> float:
        return results.rate(table, ARROW, name)

    def at_least(what: str, figure: float, wanted: float) -> Any:
        return what, figure, f">= {wanted:g}", figure >= wanted

    tables = results.tables()
    if "narrow" in tables:
        data_loader = rate("narrow") / rate("narrow", LANCEDB)
        yield at_least("narrow, DataLoader: x lancedb", data_loader, 100)
        own = rate("narrow", OURS_ITER)
        yield at_least("narrow, iter: x lancedb", own / rate("narrow", LANCEDB), 500)
        yield at_least("narrow, iter: x Lance scan", own / rate("narrow", SCAN), 0.4)
        first = results.median("first_batch_s", "narrow", ARROW, OURS_ITER)
        yield "narrow, iter: s to first batch", first, "<= 0.3", first <= 0.3
        key = ("narrow", TENSORS, OURS_ITER)
        thread = 1e6 * results.median("thread_s_per_batch", *key)
        what = "narrow, iter, tensors: CPU us of the thread per batch"
        yield what, thread, "<= 60", thread <= 60
    if "embeddings" in tables:
        ratio = rate("embeddings") / rate("embeddings", SCAN)
        yield at_least("embeddings, DataLoader: x Lance scan", ratio, 2)
    if "text" in tables:
        ratio = rate("text") / rate("text", LANCEDB)
        yield at_least("text, DataLoader: x lancedb", ratio, 30)
    if "image" in tables:
        best = max(rate("image", LANCEDB), rate("image", TAKE))
        what = "image, DataLoader: x best of lancedb and lance.take"
        yield at_least(what, rate("image") / best, 1.5)
        ratio = rate("image") / rate("image", SCAN)
        yield at_least("image, DataLoader: x Lance scan", ratio, 1)
    for table in tables:
        ratio = rate(table, OURS_SCAN) / rate(table, SCAN)
        yield at_least(f"{table}, in order: x Lance scan", ratio, 1.5)


def targets(results: Results) -> str:
    rows: list[Row] = [("", "found", "wanted", "")]
    for what, figure, wanted, is_met in found_targets(results):
        rows.append((what, f"{figure:,.2f}", wanted, "met" if is_met else "missed"))
    return aligned("targets of the design", rows)
