"""MosaicML Streaming in DataLoader, shards on the local disk."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.tables import BenchTable
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from peers import records


def make(table: BenchTable) -> None:
    table.make_copy("mosaicml", write)


def write(table: BenchTable, folder: Path) -> None:
    columns, size = {"record": "bytes"}, records.SHARD_BYTES
    with MDSWriter(out=str(folder), columns=columns, size_limit=size) as writer:
        for record in records.of_table(table):
            writer.write({"record": record})


def batches(
    table: BenchTable, seed: int, *, algorithm: str, num_workers: int = 0, step: int = 0
) -> Iterator[Any]:
    """Its algorithm "naive" shuffles all rows, the others inside blocks."""
    clean_stale_shared_memory()
    dataset = StreamingDataset(
        local=str(table.copy("mosaicml")),
        shuffle=True,
        shuffle_algo=algorithm,
        shuffle_seed=seed,
        batch_size=table.batch_size,
    )
    if step:
        epoch, at = divmod(step, table.num_batches)
        dataset.load_state_dict(
            {
                "epoch": epoch,
                "sample_in_epoch": at * table.batch_size,
                "num_canonical_nodes": 1,
                "shuffle_seed": seed,
                "initial_physical_nodes": 1,
            }
        )
    loader = DataLoader(
        dataset,
        table.batch_size,
        drop_last=True,
        collate_fn=functools.partial(collate_fields, table.name, num_workers),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return records.endless(table, lambda _: loader)


def collate_fields(name: str, num_workers: int, samples: list[Any]) -> Any:
    collate = records.collate(name, num_workers)
    return collate([sample["record"] for sample in samples])
