"""A Permutation, lancedb's or ours, in torch's DataLoader."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import lancedb
from harness.tables import BenchTable

from peers import ARROW, OURS
from peers.records import to_tensors
from peers.torch_loop import as_it_is, batches_of


def batches(
    table: BenchTable,
    seed: int,
    *,
    library: str,
    output: str,
    read: str | None = None,
    **options: Any,
) -> Iterator[Any]:
    dataset = opened(table, library)
    collate: Any = as_it_is
    if output == ARROW:
        dataset = dataset.with_format("arrow")
    elif library == OURS:
        # Through torch's default collate, as a user would have it.
        dataset, collate = dataset.with_format("torch_dict"), None
    else:
        dataset = dataset.with_transform(to_tensors)
    if read is not None:
        dataset = dataset.with_read(read)
    return batches_of(dataset, table, seed, collate=collate, **options)


def opened(table: BenchTable, library: str) -> Any:
    handle = lancedb.connect(table.folder).open_table(table.name)
    module = importlib.import_module("lancedb.permutation" if library != OURS else OURS)
    perm = module.Permutation.identity(handle)
    return perm.select_columns(table.names) if table.columns else perm
