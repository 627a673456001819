"""StreamingDataset and StreamingDataLoader: lancedb's, and ours with the same arguments."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import lancedb
import pyarrow as pa
from harness.tables import BenchTable
from torch.utils.data import DataLoader

from peers import OURS, records
from peers.torch_loop import as_it_is

# What lancedb may use to sort an epoch: its 100 MB by default do not do for five million rows.
os.environ.setdefault("LANCEDB_PERM_BUILDER_MEMORY_LIMIT", str(4 << 30))


def batches(
    table: BenchTable,
    seed: int,
    *,
    library: str,
    num_workers: int | None = None,
    step: int = 0,
) -> Iterator[Any]:
    """Epoch after epoch of a StreamingDataset.

    Without ``num_workers`` it is read through torch's own DataLoader, in the process itself.
    Rows of numbers are handed on as packed bytes, which is several times faster than as dicts.
    """
    module = importlib.import_module(f"{library}.streaming")
    loader = DataLoader if num_workers is None else module.StreamingDataLoader
    first, start = divmod(step, table.num_batches)
    for epoch in itertools.count(first):
        dataset = dataset_of(
            module,
            table,
            seed,
            epoch,
            num_splits=num_workers or 1,
            # What is read at a time: 64 rows, its default, make it many times slower.
            read_batch_size=table.batch_size,
            transform=functools.partial(records.items, table.name),
        )
        if epoch == first and start:
            dataset.load_state_dict(state_of(dataset, seed, start * table.batch_size))
        # The last of each worker is short; neither library can leave those out.
        for batch in loader(
            dataset,
            batch_size=table.batch_size,
            collate_fn=records.joined if table.name in records.NUMBERS else as_it_is,
            num_workers=num_workers or 0,
            # Lance does not survive a fork.
            multiprocessing_context="spawn" if num_workers else None,
        ):
            yield records.from_items(table.name, batch)


def two_splits(
    table: BenchTable, seed: int, *, library: str, num_workers: int, is_columnar: bool
) -> Iterator[Any]:
    """Epoch after epoch of two splits: rows as Python objects, or as Arrow data."""
    module = importlib.import_module(f"{library}.streaming")
    options: dict[str, Any] = {}
    collate: Any = as_it_is
    if is_columnar:
        # lancedb's transforms return rows; batches of one row are the closest to columns.
        is_ours = library == OURS
        options["transform"] = as_it_is if is_ours else one_row_batches
        collate = None if is_ours else pa.Table.from_batches
    for epoch in itertools.count():
        dataset = dataset_of(
            module, table, seed, epoch, num_splits=2,
            read_batch_size=table.batch_size, **options,
        )  # fmt: skip
        yield from module.StreamingDataLoader(
            dataset,
            batch_size=table.batch_size,
            collate_fn=collate,
            num_workers=num_workers,
            multiprocessing_context="spawn" if num_workers else None,
        )


def one_row_batches(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [batch.slice(at, 1) for at in range(batch.num_rows)]


def dataset_of(
    module: Any, table: BenchTable, seed: int, epoch: int, **options: Any
) -> Any:
    handle = lancedb.connect(table.folder).open_table(table.name)
    return module.StreamingDataset(handle, shuffle_seed=seed, epoch=epoch, **options)


def state_of(dataset: Any, seed: int, num_rows: int) -> dict[str, Any]:
    """Return the state after as many rows of an epoch, the same number of each split."""
    fresh = dataset.state_dict()
    each = [num_rows // fresh["num_splits"]] * fresh["num_splits"]
    return fresh | {
        "shuffle_seed": seed,
        "samples_consumed_per_split": each,
        "positions_consumed_per_split": each,
    }


@functools.cache
def num_blocks(table: BenchTable, length: int, eos_id: int) -> int:
    """Return the number of its blocks, so that lancedb need not sample lengths."""
    from peers.loader import at_path

    return at_path(table).pack(length, column="tokens", eos_id=eos_id).num_blocks()


def packed(
    table: BenchTable, seed: int, *, length: int, eos_id: int, pad_id: int,
    batch_size: int,
) -> Iterator[Iterator[tuple[int, int]]]:  # fmt: skip
    """Blocks and tokens of the batches of lancedb's packed documents, in epochs."""
    module = importlib.import_module("lancedb.streaming")
    for epoch in itertools.count():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dataset_of(
                module, table, seed, epoch, num_splits=1, columns=["tokens"],
                pack_sequences=length, eos_id=eos_id, pad_id=pad_id,
                blocks_per_epoch=num_blocks(table, length, eos_id),
            )  # fmt: skip
            yield (
                (len(batch["input_ids"]), batch["input_ids"].numel())
                for batch in DataLoader(dataset, batch_size=batch_size)
            )
