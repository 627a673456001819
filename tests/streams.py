"""Streaming datasets of both libraries, side by side, with any number of ranks and workers."""

from __future__ import annotations

from dataclasses import dataclass

import lancedb.streaming as theirs
import lanceloader.streaming as ours
import pyarrow as pa
import torch
from hypothesis import settings

LIBRARIES = {"ours": ours, "theirs": theirs}


# Each example makes and reads datasets of two libraries.
dear = settings(max_examples=max(settings().max_examples // 20, 10), deadline=None)


@dataclass
class Worker:
    """What ``get_worker_info`` gives, and ``worker_info_override`` takes."""

    id: int
    num_workers: int


def ids_of(batch: pa.RecordBatch) -> list[int]:
    """A transform: the ids alone."""
    return batch["id"].to_pylist()


def readers(library, table, *, world_size=1, num_workers=None, state=None, **options):
    """The datasets of all ranks, and workers of ranks, in order."""
    made = []
    for rank in range(world_size):
        for worker in range(num_workers or 1):
            told = None if num_workers is None else Worker(worker, num_workers)
            dataset = library.StreamingDataset(
                table,
                rank=rank,
                world_size=world_size,
                worker_info_override=told,
                **options,
            )
            if state is not None:
                dataset.load_state_dict(state)
            made.append(dataset)
    return made


def steps(datasets, batch_size):
    """The rows of each global step: the next batch of each reader, together."""
    rows = [list(dataset) for dataset in datasets]
    count = max(map(len, rows), default=0)
    return [
        [of_reader[k : k + batch_size] for of_reader in rows]
        for k in range(0, count, batch_size)
    ]


def sets(made):
    """The rows of each step, whatever reader has them."""
    return [sorted(row for batch in step for row in batch) for step in made]


def some(dataset, count):
    """The next rows of a dataset, which is given back."""
    iterator = iter(dataset)
    rows = [next(iterator) for _ in range(count)]
    iterator.close()
    return rows


def advance(dataset, begun, may_end):
    """Take some rows in a process of its own, and wait there."""
    iterator = iter(dataset)
    for _ in range(20):
        next(iterator)
    begun.set()
    assert may_end.wait(60)
    iterator.close()


def outcome(call):
    """What a call gives, or the type and text of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def tokens_table(database, documents, kind=None):
    """A table of lists of tokens, with ids."""
    kind = kind or pa.list_(pa.int64())
    data = {"id": range(len(documents)), "tokens": pa.array(documents, kind)}
    return database.create_table("tokens", pa.table(data))


def plain(block):
    """A block as lists."""
    assert all(tensor.dtype == torch.int64 for tensor in block.values())
    return {name: tensor.tolist() for name, tensor in block.items()}
