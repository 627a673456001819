"""Targets of the paths that users take: worker processes, StreamingDataset, images and windows."""

from __future__ import annotations

from collections.abc import Iterator

from peers import ARROW, ITEMS, LANCEDB, OURS, TABLES
from scenarios import images, windows
from scenarios.processes import OWN, PROCESSES, RATIO, TORCH
from scenarios.streaming import STREAMING, WORKERS

from report.results import Results, ratio
from report.verdict import AT_LEAST, AT_MOST, Verdict

OF_WORKERS = {"narrow": 0.5, "embeddings": 0.5, "image": 0.8, "text": 0.8}
"""Of the rows/s of the same DataLoader without workers."""
OF_TORCHS_WORKERS = 0.35
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
    slow = [case for case in results.cases(PROCESSES) if "2 workers, 5 ms" in case]
    for case in slow or ["narrow, own DataLoader, 2 workers, 5 ms of Python a batch"]:
        found = results.figure(PROCESSES, case, RATIO)
        yield Verdict("worker processes", f"{case}, x 1", found, AT_LEAST, SCALED)


def streaming(results: Results) -> Iterator[Verdict]:
    for output in (ITEMS, ARROW):
        for count in WORKERS:
            for table in TABLES:
                case = f"{table}, {output}, {count} workers"
                wanted = OF_COLUMNS if output == ARROW else OF_ROWS.get(table, 3)
                for name, relation, least in (
                    ("rows_per_s", AT_LEAST, wanted),
                    ("first_batch_s", AT_MOST, 1),
                    ("peak_anonymous_bytes", AT_MOST, 1),
                ):
                    ours, theirs = (
                        results.figure(STREAMING, f"{case}: {library}", name)
                        for library in (OURS, LANCEDB)
                    )
                    what = f"{case}: {TITLES[name]}, x lancedb"
                    yield Verdict(
                        "streaming", what, ratio(ours, theirs), relation, least
                    )


TITLES = {
    "rows_per_s": "rows/s",
    "first_batch_s": "time to first batch",
    "peak_anonymous_bytes": "memory that is no file's",
}


def of_cases(
    results: Results, part: str, ours: str, others: dict[str, float], name: str
) -> Iterator[Verdict]:
    own = results.figure(part, ours, name)
    for case, wanted in others.items():
        found = ratio(own, results.figure(part, case, name))
        yield Verdict(part, f"{ours}, x {case}", found, AT_LEAST, wanted)
