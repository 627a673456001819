"""Targets of the paths that users take: worker processes, StreamingDataset, images and windows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from peers import ARROW, ITEMS, LANCEDB, OURS, TABLES
from scenarios import images, windows
from scenarios.processes import (
    OWN,
    PROCESSES,
    RATIO,
    TENSOR_TABLES,
    TORCH,
    TORCH_TENSORS,
)
from scenarios.streaming import STREAMING, WORKERS

from report.results import Results, ratio
from report.verdict import AT_LEAST, AT_MOST, Verdict

OF_WORKERS = {"narrow": 0.5, "embeddings": 0.5, "image": 0.8, "text": 0.8}
"""Of the rows/s of the same DataLoader without workers."""
OF_TORCHS_WORKERS = 0.35
OF_TENSORS = {OWN: 3, TORCH: 1}
"""Of the rows/s of tensors in memory, with as many workers."""
OF_TWO_WORKERS = 0.8
"""Of the rows/s of 2 workers, with more of them than there are cores."""
SCALED = 2 * 0.85
OF_ROWS = {"image": 1.5}
"""Times lancedb's rows/s where rows are Python objects; of other tables three times."""
OF_COLUMNS = 20
OF_IMAGES = {images.LANCEDB: 3, images.FILES.format("simplejpeg"): 2, images.LIMIT: 0.9}
OF_WINDOWS = {windows.LIMIT: 0.5, windows.ONE_BY_ONE: 50}


def verdicts(results: Results) -> Iterator[Verdict]:
    yield from processes(results)
    yield from streaming(results)
    yield from of_cases(results, images.IMAGES, images.OURS, OF_IMAGES, "images_per_s")
    yield from of_cases(
        results, windows.WINDOWS, windows.OURS, OF_WINDOWS, "windows_per_s"
    )


def processes(results: Results) -> Iterator[Verdict]:
    for library in (OWN, TORCH):
        for table, wanted in OF_WORKERS.items():
            found = results.figure(PROCESSES, f"{table}, {library}, 2 workers", RATIO)
            wanted = wanted if library == OWN else OF_TORCHS_WORKERS
            what = f"{table}, {library}: 2 workers, x 0 workers"
            yield Verdict("worker processes", what, found, AT_LEAST, wanted)
        for table in TENSOR_TABLES:
            ours, theirs = (
                results.figure(PROCESSES, f"{table}, {how}, 2 workers", "rows_per_s")
                for how in (library, TORCH_TENSORS)
            )
            what = f"{table}, {library}: 2 workers, x {TORCH_TENSORS}"
            wanted = OF_TENSORS[library]
            yield Verdict(
                "worker processes", what, ratio(ours, theirs), AT_LEAST, wanted
            )
    for table in OF_WORKERS:
        of_two = results.figure(PROCESSES, f"{table}, {OWN}, 2 workers", "rows_per_s")
        for count in (4, 8):
            case = f"{table}, {OWN}, {count} workers"
            found = results.figure(PROCESSES, case, "rows_per_s")
            what = f"{table}, {OWN}: {count} workers, x 2 workers"
            yield Verdict(
                "worker processes", what, ratio(found, of_two), AT_LEAST, OF_TWO_WORKERS
            )
    slow = [case for case in results.cases(PROCESSES) if "2 workers, 5 ms" in case]
    for case in slow or ["narrow, own DataLoader, 2 workers, 5 ms of Python a batch"]:
        found = results.figure(PROCESSES, case, RATIO)
        yield Verdict("worker processes", f"{case}, x 1", found, AT_LEAST, SCALED)


def streaming(results: Results) -> Iterator[Verdict]:
    """Judge the worst table of each kind."""
    for output in (ITEMS, ARROW):
        for count in WORKERS:
            for name, title in TITLES.items():
                found = [
                    judged(results, f"{table}, {output}, {count} workers", name, title)
                    for table in TABLES
                ]
                yield min(found, key=margin)


TITLES = {
    "rows_per_s": "rows/s",
    "first_batch_s": "time to first batch",
    "peak_anonymous_bytes": "memory that is no file's",
}


def judged(results: Results, case: str, name: str, title: str) -> Verdict:
    ours, theirs = (
        results.figure(STREAMING, f"{case}: {library}", name)
        for library in (OURS, LANCEDB)
    )
    table, output, _ = case.split(", ")
    least = OF_COLUMNS if output == ARROW else OF_ROWS.get(table, 3)
    relation, wanted = (AT_LEAST, least) if name == "rows_per_s" else (AT_MOST, 1)
    what = f"{title}, x lancedb, the worst table: {case}"
    return Verdict("streaming", what, ratio(ours, theirs), relation, wanted)


def margin(verdict: Verdict) -> float:
    """Return how many times better than wanted a figure is; infinite if there is none."""
    found, wanted = verdict.found, verdict.wanted
    if found is None:
        return math.inf
    return found / wanted if verdict.relation == AT_LEAST else wanted / found


def of_cases(
    results: Results, part: str, ours: str, others: dict[str, float], name: str
) -> Iterator[Verdict]:
    own = results.figure(part, ours, name)
    for case, wanted in others.items():
        found = ratio(own, results.figure(part, case, name))
        yield Verdict(part, f"{ours}, x {case}", found, AT_LEAST, wanted)
