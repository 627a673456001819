"""Map-style datasets in torch's DataLoader: the loop of a training script, which can also resume.

Worker processes import this file, so it imports little.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import records
import torch
from tables import BenchTable
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

Batches = Iterator[Any]


class Shuffled:
    """The batches of positions of an epoch, as torch's sampler picks them, from a step on.

    A sampler has no state: whoever resumes draws the epoch's order again, and skips.
    """

    def __init__(self, table: BenchTable, seed: int, step: int) -> None:
        self.table, self.seed = table, seed
        self.epoch, self.start = divmod(step, table.num_rows // table.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator: DataLoader with workers makes two of them for its first epoch, and uses one.
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        rows = RandomSampler(range(self.table.num_rows), generator=generator)
        batches = BatchSampler(rows, self.table.batch_size, drop_last=True)
        yield from itertools.islice(batches, start, None)


def batches_of(
    dataset: Any,
    table: BenchTable,
    seed: int,
    *,
    num_workers: int,
    step: int,
    context: str = "spawn",
    is_whole: bool = False,
) -> Batches:
    """Give batches epoch after epoch; ``is_whole`` datasets are asked with a list of positions."""
    sampler: Any = Shuffled(table, seed, step)
    chosen = (
        {"sampler": sampler, "batch_size": None}
        if is_whole
        else {"batch_sampler": sampler, "collate_fn": records.as_they_are}
    )
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=context if num_workers else None,
        persistent_workers=num_workers > 0,
        **chosen,
    )
    while True:
        yield from loader


def permutation(
    table: BenchTable,
    seed: int,
    *,
    library: str,
    output: str,
    num_workers: int = 0,
    step: int = 0,
) -> Batches:
    """A Permutation, lancedb's or ours, as an Arrow batch or with a tensor for each column."""
    dataset = permutation_of(table, library)
    if output == "arrow":
        dataset = dataset.with_format("arrow")
    elif library == "lanceloader":
        dataset = dataset.with_format("torch_dict")
    else:
        dataset = dataset.with_transform(records.to_tensors)
    return batches_of(dataset, table, seed, num_workers=num_workers, step=step)


def permutation_of(table: BenchTable, library: str) -> Any:
    import lancedb

    opened = lancedb.connect(table.folder).open_table(table.name)
    if library == "lanceloader":
        import lanceloader

        return lanceloader.Permutation.identity(opened)
    import lancedb.permutation

    return lancedb.permutation.Permutation.identity(opened)


def fill_rows(table: BenchTable) -> None:
    """Read one epoch of ours, so that what it keeps between epochs is there."""
    for _ in loader_of(table, 0, "arrow"):
        pass


def fill_resident(table: BenchTable) -> None:
    """Read one epoch of ours into packed rows, whatever it would choose."""
    for _ in loader_of(table, 0, "arrow", read="resident"):
        pass


def loader(
    table: BenchTable,
    seed: int,
    *,
    output: str,
    state: dict[str, Any] | None = None,
    read: str | None = None,
) -> Batches:
    """Our own loader, epoch after epoch, or from a state on."""
    found = loader_of(table, seed, output, read)
    first = 0
    if state is not None:
        found.load_state_dict(state)
        first = state["epoch"]
        yield from found
        first += 1
    for epoch in itertools.count(first):
        yield from found.set_epoch(epoch)


def loader_of(
    table: BenchTable, seed: int, output: str, read: str | None = None
) -> Any:
    return permutation_of(table, "lanceloader").loader(
        table.batch_size,
        drop_last=True,
        shuffle=True,
        seed=seed,
        format=output,
        read=read,
    )


def loader_state(
    table: BenchTable, seed: int, *, output: str, step: int
) -> dict[str, Any]:
    """Give the state that our loader has at a step."""
    epoch, start = divmod(step, table.num_rows // table.batch_size)
    found = loader_of(table, seed, output)
    found.set_epoch(epoch)
    found.skip_batches(start)
    return found.state_dict()


def in_memory(table: BenchTable, seed: int, *, output: str, step: int = 0) -> Batches:
    """Columns in memory, as tensors or as Arrow, gathered with a tensor of positions."""
    import lance
    import pyarrow as pa

    rows = lance.dataset(table.path).to_table().combine_chunks()
    (batch,) = rows.to_batches()
    steps = table.num_rows // table.batch_size
    columns = records.to_tensors(batch) if output == "tensors" else {}
    epoch, start = divmod(step, steps)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(table.num_rows, generator=generator)
        for at in range(start, steps):
            part = order[at * table.batch_size : (at + 1) * table.batch_size]
            if columns:
                yield {name: one.index_select(0, part) for name, one in columns.items()}
            else:
                yield batch.take(pa.array(part.numpy()))
        epoch, start = epoch + 1, 0


# Hugging Face datasets: its own Arrow files, mapped.

HF_BUFFER = 10_000
HF_SHARDS = 16


def make_hf(table: BenchTable) -> None:
    from shards import made

    made(table, "hf", write_hf)


def write_hf(table: BenchTable, folder: Any) -> None:
    import datasets
    import lance

    rows = lance.dataset(table.path).to_table()
    datasets.disable_progress_bars()
    # Otherwise it hashes all rows to find a name for them.
    dataset = datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint="bench")
    dataset.save_to_disk(folder, num_shards=1)


def hf_dataset(table: BenchTable, kind: str) -> Any:
    import datasets
    from shards import copy_of

    return datasets.load_from_disk(str(copy_of(table, "hf"))).with_format(kind)


def hf_map(
    table: BenchTable, seed: int, *, kind: str, num_workers: int = 0, step: int = 0
) -> Batches:
    """Its documented fast way: a sampler of batches, so that it is asked for many rows."""
    return batches_of(
        hf_dataset(table, kind),
        table,
        seed,
        num_workers=num_workers,
        step=step,
        context="fork",
        is_whole=True,
    )


def hf_stream(table: BenchTable, seed: int, *, kind: str) -> Batches:
    """Shards in another order, and a buffer of rows."""
    rows = hf_dataset(table, kind).to_iterable_dataset(num_shards=HF_SHARDS)
    rows = rows.shuffle(seed=seed, buffer_size=HF_BUFFER)
    for epoch in itertools.count():
        rows.set_epoch(epoch)
        yield from rows.iter(table.batch_size, drop_last_batch=True)
