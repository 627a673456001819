"""grain: its shuffled positions, cut into batches, each read from array_record or memory at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
import torch
from harness.tables import BenchTable

from peers import records

Batches = Iterator[Any]


def make(table: BenchTable) -> None:
    table.make_copy("array_record", write)


def write(table: BenchTable, folder: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir()
    # Groups of one row: whoever reads at random is to find each by itself.
    writer = ArrayRecordWriter(str(folder / "rows"), "group_size:1")
    for record in records.of_table(table):
        writer.write(record)
    writer.close()


def batches(
    table: BenchTable, seed: int, *, num_workers: int = 0, step: int = 0
) -> Batches:
    path = str(table.copy("array_record") / "rows")
    source = grain.sources.ArrayRecordDataSource(path)
    gather = functools.partial(read, source, table.name, num_workers)
    return batches_of(table, seed, gather, num_workers, step)


def in_memory(table: BenchTable, seed: int, *, step: int = 0) -> Batches:
    import lance

    found = lance.dataset(table.path).to_batches()
    rows = np.concatenate([records.packed(table.name, batch) for batch in found])

    def gather(positions: Any) -> Any:
        return rows[positions].view(np.uint8)

    return batches_of(table, seed, gather, 0, step)


def read(source: Any, name: str, num_workers: int, positions: Any) -> Any:
    found = source.__getitems__(positions.tolist())
    collated = records.collate(name, num_workers)(found)
    # grain puts arrays into shared memory, and knows no tensors.
    if isinstance(collated, torch.Tensor):
        return collated.numpy()
    if isinstance(collated, tuple):
        return collated[0].numpy(), np.array(collated[1])
    return collated


def batches_of(
    table: BenchTable,
    seed: int,
    gather: Callable[[Any], Any],
    num_workers: int,
    step: int,
) -> Batches:
    # Positions are shuffled and cut, not rows: grain handles twenty times as many of them.
    kept = table.num_batches * table.batch_size
    positions = grain.MapDataset.range(table.num_rows).shuffle(seed=seed)[:kept]
    cut = positions.repeat().batch(table.batch_size, drop_remainder=True)
    # Threads only cost here: a batch is a few calls.
    unthreaded = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    rows = cut.map(gather).to_iter_dataset(unthreaded)
    if num_workers:
        rows = rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(rows)
    if step:
        iterator.set_state(state_of(iterator.get_state(), step))
    for batch in iterator:
        yield records.decoded(table.name, as_tensors(batch))


def state_of(fresh: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the state at a step; workers take turns, a batch each."""
    if "next_index" in fresh:
        return {"next_index": step}
    count = len(fresh["iterators_in_use_states"])
    each = [
        {"next_index": step // count + (worker < step % count)}
        for worker in range(count)
    ]
    return fresh | {
        "next_index_in_cycle": step % count,
        "iterators_in_use_states": each,
    }


def as_tensors(batch: Any) -> Any:
    if isinstance(batch, np.ndarray):
        return torch.from_numpy(batch)
    return (as_tensors(batch[0]), batch[1]) if isinstance(batch, tuple) else batch
