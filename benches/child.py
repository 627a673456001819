"""The jobs that run in a process of their own; started by ``outside.py``.

Worker processes import this file: what it needs beyond the standard library it imports where
it is needed, so that a worker holds only what its dataset does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

WORKER_BATCHES = 50
"""Batches read before workers are weighed."""
IDLE = "torch alone"


class Idle:
    """A dataset whose workers import torch and nothing else."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def as_it_is(batch: Any) -> Any:
    return batch


def say(event: str, **figures: Any) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **figures}), flush=True)


def scan(table: Any, epochs: int) -> None:
    """Lance's own scan, with its own batch size."""
    # So that a scan starts from the same imports as the others.
    import contenders  # noqa: F401
    import lance

    say("imported")
    sys.stdin.readline()
    for number in range(epochs):
        start = time.perf_counter()
        batches = lance.dataset(table.path).to_batches()
        num_rows = next(batches).num_rows
        if number == 0:
            say("first", seconds=time.perf_counter() - start)
        num_rows += sum(batch.num_rows for batch in batches)
        say("epoch", rows=num_rows, seconds=time.perf_counter() - start)


def load(table: Any, epochs: int, read: str | None, memory_limit: int | None) -> None:
    """Our loader, shuffled: whole epochs, from opening the table."""
    import contenders

    say("imported")
    sys.stdin.readline()
    start = time.perf_counter()
    loader = contenders.ours(table).loader(
        table.batch_size,
        shuffle=True,
        seed=1,
        format="arrow",
        read=read,
        memory_limit=memory_limit,
    )
    for epoch in range(epochs):
        batches = iter(loader.set_epoch(epoch))
        num_rows = next(batches).num_rows
        if epoch == 0:
            say("first", seconds=time.perf_counter() - start)
        for batch in batches:
            num_rows += batch.num_rows
        say("epoch", rows=num_rows, seconds=time.perf_counter() - start)
        start = time.perf_counter()


def work(table: Any, who: str, num_workers: int, context: str) -> None:
    """Run DataLoader workers on what ``who`` names; wait to be weighed."""
    import torch
    from torch.utils.data import DataLoader

    dataset = dataset_of(who, table)
    say("imported")
    sys.stdin.readline()
    start = time.perf_counter()
    loader = DataLoader(
        dataset,
        table.batch_size,
        shuffle=True,
        collate_fn=as_it_is,
        generator=torch.Generator().manual_seed(1),
        num_workers=num_workers,
        multiprocessing_context=context,
    )
    batches = iter(loader)
    next(batches)
    say("first", seconds=time.perf_counter() - start)
    start, num_rows = time.perf_counter(), 0
    for _, batch in zip(range(WORKER_BATCHES), batches, strict=False):
        num_rows += len(batch) if who == IDLE else batch.num_rows
    say("steady", rows_per_s=num_rows / (time.perf_counter() - start))
    sys.stdin.readline()


def dataset_of(who: str, table: Any) -> Any:
    if who == IDLE:
        return Idle(table.num_rows)
    import contenders

    if who == "lancedb":
        return contenders.theirs(table).with_format("arrow")
    perm = contenders.ours(table)
    # An epoch, so that all rows are there.
    for _ in perm.loader(table.batch_size, shuffle=True, seed=0, read="resident"):
        pass
    return perm.with_read("resident").with_format("arrow")


def first(table: Any, **arguments: Any) -> None:
    """Open a table and read a batch, then more: ``wide.py`` says how."""
    import wide

    wide.first(table, say, sys.stdin.readline, **arguments)


def peer(table: Any, what: str, arm: dict[str, Any], **arguments: Any) -> None:
    """Run an arm of ``arms.py``: ``peering.py`` says how."""
    import peering

    peering.JOBS[what](table, arm, say, sys.stdin.readline, **arguments)


def main() -> None:
    job, arguments = sys.argv[1], json.loads(sys.argv[2])
    from tables import BenchTable

    described = arguments.pop("table")
    described["folder"] = Path(described["folder"])
    if described["columns"] is not None:
        described["columns"] = tuple(described["columns"])
    table = BenchTable(**described)
    jobs = {"scan": scan, "load": load, "work": work, "first": first, "peer": peer}
    jobs[job](table, **arguments)


if __name__ == "__main__":
    main()
