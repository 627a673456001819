"""StreamingDataset and StreamingDataLoader: lancedb's, and ours with the same arguments."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import records
from tables import BenchTable

Batches = Iterator[Any]

SORT_LIMIT = "LANCEDB_PERM_BUILDER_MEMORY_LIMIT"
SORT_BYTES = 4 << 30
"""What lancedb may use to sort an epoch: its 100 MB by default do not do for five million rows."""


def streaming(
    table: BenchTable,
    seed: int,
    *,
    library: str,
    num_workers: int | None = None,
    step: int = 0,
) -> Batches:
    """Epoch after epoch of a StreamingDataset.

    Without ``num_workers`` it is read through torch's own DataLoader, in the process itself.
    Rows of numbers are handed on as packed bytes, which is several times faster than as dicts.
    """
    os.environ.setdefault(SORT_LIMIT, str(SORT_BYTES))
    module = importlib.import_module(f"{library}.streaming")
    first, start = divmod(step, table.num_rows // table.batch_size)
    for epoch in itertools.count(first):
        dataset = dataset_of(module, table, seed, epoch, num_workers or 0)
        if epoch == first and start:
            dataset.load_state_dict(state(dataset, seed, start * table.batch_size))
        loader = loader_of(module, table, dataset, num_workers)
        # The last of each worker is short; neither library can leave those out.
        for batch in loader:
            yield records.from_items(table.name, batch)


def dataset_of(
    module: Any, table: BenchTable, seed: int, epoch: int, num_workers: int
) -> Any:
    import lancedb

    return module.StreamingDataset(
        lancedb.connect(table.folder).open_table(table.name),
        num_splits=max(num_workers, 1),
        shuffle_seed=seed,
        epoch=epoch,
        # What is read at a time: 64 rows, its default, make it many times slower.
        read_batch_size=table.batch_size,
        transform=functools.partial(records.items, table.name),
    )


def loader_of(
    module: Any, table: BenchTable, dataset: Any, num_workers: int | None
) -> Any:
    from torch.utils.data import DataLoader

    loader = DataLoader if num_workers is None else module.StreamingDataLoader
    return loader(
        dataset,
        batch_size=table.batch_size,
        collate_fn=functools.partial(collated, table.name),
        num_workers=num_workers or 0,
        # Lance does not survive a fork.
        multiprocessing_context="spawn" if num_workers else None,
    )


def collated(name: str, rows: list[Any]) -> Any:
    return records.joined(rows) if name in records.NUMBERS else rows


def state(dataset: Any, seed: int, num_rows: int) -> dict[str, Any]:
    """Give the state after as many rows of an epoch, the same number of each split."""
    fresh = dataset.state_dict()
    num_splits = fresh["num_splits"]
    each = [num_rows // num_splits] * num_splits
    return fresh | {
        "shuffle_seed": seed,
        "samples_consumed_per_split": each,
        "positions_consumed_per_split": each,
    }
