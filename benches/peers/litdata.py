"""LitData's own loader on a local copy: chunks in another order, then rows inside each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.tables import BenchTable
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter

from peers import records


def make(table: BenchTable) -> None:
    table.make_copy("litdata-records", write)


def write(table: BenchTable, folder: Path) -> None:
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=records.SHARD_BYTES)
    for at, record in enumerate(records.of_table(table)):
        writer[at] = record
    writer.done()
    writer.merge()


def batches(
    table: BenchTable, seed: int, *, num_workers: int = 0, step: int = 0
) -> Iterator[Any]:
    copy = str(table.copy("litdata-records"))
    loader = StreamingDataLoader(
        StreamingDataset(copy, shuffle=True, drop_last=True, seed=seed),
        batch_size=table.batch_size,
        drop_last=True,
        num_workers=num_workers,
        collate_fn=records.collate(table.name, num_workers),
    )
    if step:
        loader.load_state_dict(state_of(loader, table, step))
    return records.endless(table, lambda _: loader)


def state_of(loader: Any, table: BenchTable, step: int) -> dict[str, Any]:
    """Return the state that the loader would have had at a step."""
    epoch, at = divmod(step, table.num_batches)
    num_rows = at * table.batch_size
    state = loader.state_dict()
    state["dataset"] = loader.dataset.state_dict(
        num_rows, loader.num_workers, table.batch_size
    )
    state["dataset"]["current_epoch"] = state["current_epoch"] = epoch + 1
    state["num_samples_yielded"] = num_rows
    state["latest_worker_idx"] = (at - 1) % max(loader.num_workers, 1)
    return state
