"""Streaming datasets of both libraries, with any number of ranks and workers."""

from __future__ import annotations

from dataclasses import dataclass

import lancedb.streaming as theirs
import lanceloader.streaming as ours
import pyarrow as pa
import torch
from hypothesis import settings

LIBRARIES = {"ours": ours, "theirs": theirs}


# Fewer examples: each one creates and reads datasets of two libraries.
few_examples = settings(
    max_examples=max(settings().max_examples // 20, 10), deadline=None
)


@dataclass
class Worker:
    """A result of ``get_worker_info``, also accepted by ``worker_info_override``."""

    id: int
    num_workers: int


def ids_of(batch: pa.RecordBatch) -> list[int]:
    """Return the ids of a batch; used as a transform."""
    return batch["id"].to_pylist()


def readers(library, table, *, world_size=1, num_workers=None, state=None, **options):
    """Return the datasets of all ranks and their workers, in order."""
    made = []
    for rank in range(world_size):
        for worker in range(num_workers or 1):
            info = None if num_workers is None else Worker(worker, num_workers)
            dataset = library.StreamingDataset(
                table,
                rank=rank,
                world_size=world_size,
                worker_info_override=info,
                **options,
            )
            if state is not None:
                dataset.load_state_dict(state)
            made.append(dataset)
    return made


def steps(datasets, batch_size):
    """Return the rows of each global step, as one batch of each reader."""
    rows = [list(dataset) for dataset in datasets]
    count = max(map(len, rows), default=0)
    return [
        [of_reader[k : k + batch_size] for of_reader in rows]
        for k in range(0, count, batch_size)
    ]


def sets(made):
    """Return the rows of each step, sorted, without regard to the reader."""
    return [sorted(row for batch in step for row in batch) for step in made]


def next_rows(dataset, count):
    """Return the next rows of a dataset, and close the iterator."""
    iterator = iter(dataset)
    rows = [next(iterator) for _ in range(count)]
    iterator.close()
    return rows


def advance(dataset, started, may_end):
    """Take 20 rows, then wait; the target of a child process."""
    iterator = iter(dataset)
    for _ in range(20):
        next(iterator)
    started.set()
    assert may_end.wait(60)
    iterator.close()


def outcome(call):
    """Return the result of a call, or the type and text of its exception."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def tokens_table(database, documents, kind=None):
    """Create a table of ids and lists of tokens."""
    kind = kind or pa.list_(pa.int64())
    data = {"id": range(len(documents)), "tokens": pa.array(documents, kind)}
    return database.create_table("tokens", pa.table(data))


def as_lists(block):
    """Return a block as lists."""
    assert all(tensor.dtype == torch.int64 for tensor in block.values())
    return {name: tensor.tolist() for name, tensor in block.items()}
