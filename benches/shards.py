"""Peers that read copies of a table in files of their own, a record for each row.

WebDataset, MosaicML Streaming, LitData and grain's array_record. Copies are made from the table,
so the rows are the same; making them is not timed. Each library is imported where it is used:
a process has one of them.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from tables import BenchTable, make_once
from tqdm.auto import tqdm

SHARD_BYTES = 64_000_000
WDS_BUFFER = 1_000
MOSAIC_UNSHUFFLED = "naive"
"""The name of MosaicML's order of all rows; its others shuffle inside blocks."""

# Nobody may ask a hub about anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Batches = Iterator[Any]


def encoded_rows(table: BenchTable) -> Iterator[bytes]:
    """Give a record for each row of a table, with a bar."""
    import lance

    with tqdm(total=table.num_rows, desc="copying", unit=" rows", mininterval=1) as bar:
        for batch in lance.dataset(table.path).to_batches():
            yield from records.encoded(table.name, batch)
            bar.update(batch.num_rows)


def copy_of(table: BenchTable, suffix: str) -> Path:
    return table.folder.with_name(f"{table.folder.name}-{suffix}")


def made(
    table: BenchTable, suffix: str, write: Callable[[BenchTable, Path], None]
) -> None:
    make_once(copy_of(table, suffix), functools.partial(write, table))


def endless(
    table: BenchTable, epochs: Callable[[int], Iterable[Any]], first: int = 0
) -> Batches:
    """Give the batches of one epoch after the other, as tensors or rows."""
    for epoch in itertools.count(first):
        for batch in epochs(epoch):
            yield records.decoded(table.name, batch)


def steps_of(table: BenchTable) -> int:
    return table.num_rows // table.batch_size


# WebDataset


def make_webdataset(table: BenchTable) -> None:
    made(table, "webdataset", write_webdataset)


def write_webdataset(table: BenchTable, folder: Path) -> None:
    import webdataset as wds

    folder.mkdir()
    pattern = str(folder / "%06d.tar")
    with wds.ShardWriter(pattern, 10**9, maxsize=SHARD_BYTES, verbose=0) as writer:
        for at, record in enumerate(encoded_rows(table)):
            writer.write({"__key__": f"{at:09d}", "bin": record})


def webdataset(table: BenchTable, seed: int, *, num_workers: int = 0) -> Batches:
    """Shards in another order each epoch, and a buffer of rows."""
    import webdataset as wds

    urls = sorted(map(str, copy_of(table, "webdataset").glob("*.tar")))

    def epoch(number: int) -> Iterable[Any]:
        # A seed for each epoch: its own counter would begin at nought in every process.
        rows = wds.WebDataset(
            urls,
            shardshuffle=len(urls),
            detshuffle=True,
            seed=seed * 1_000_003 + number,
            empty_check=False,
        )
        rows = rows.shuffle(WDS_BUFFER, seed=seed * 1_000_003 + number)
        batches = rows.map(record_of).batched(
            table.batch_size,
            collation_fn=records.collate(table.name, num_workers),
            partial=False,
        )
        return wds.WebLoader(
            batches,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=records.as_they_are,
        )

    return endless(table, epoch)


def record_of(sample: dict[str, Any]) -> bytes:
    return sample["bin"]


# MosaicML Streaming


def make_mosaic(table: BenchTable) -> None:
    made(table, "mosaicml", write_mosaic)


def write_mosaic(table: BenchTable, folder: Path) -> None:
    from streaming import MDSWriter

    columns = {"record": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
        for record in encoded_rows(table):
            writer.write({"record": record})


def mosaic(
    table: BenchTable,
    seed: int,
    *,
    algorithm: str = "py1e",
    num_workers: int = 0,
    step: int = 0,
) -> Batches:
    """Its dataset in DataLoader, shards on the local disk."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    dataset = StreamingDataset(
        local=str(copy_of(table, "mosaicml")),
        shuffle=True,
        shuffle_algo=algorithm,
        shuffle_seed=seed,
        batch_size=table.batch_size,
    )
    if step:
        epoch, at = divmod(step, steps_of(table))
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
    return endless(table, lambda _: loader)


def collate_fields(name: str, num_workers: int, samples: list[Any]) -> Any:
    collate = records.collate(name, num_workers)
    return collate([sample["record"] for sample in samples])


# LitData


def make_litdata(table: BenchTable) -> None:
    made(table, "litdata-records", write_litdata)


def write_litdata(table: BenchTable, folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=SHARD_BYTES)
    for at, record in enumerate(encoded_rows(table)):
        writer[at] = record
    writer.done()
    writer.merge()


def litdata(
    table: BenchTable, seed: int, *, num_workers: int = 0, step: int = 0
) -> Batches:
    """Its own loader on a local copy: chunks in another order, then rows inside each."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(
        str(copy_of(table, "litdata-records")), shuffle=True, drop_last=True, seed=seed
    )
    loader = StreamingDataLoader(
        dataset,
        batch_size=table.batch_size,
        drop_last=True,
        num_workers=num_workers,
        collate_fn=records.collate(table.name, num_workers),
    )
    if step:
        loader.load_state_dict(litdata_state(loader, table, step))
    return endless(table, lambda _: loader)


def litdata_state(loader: Any, table: BenchTable, step: int) -> dict[str, Any]:
    """Give the state that the loader would have had at a step."""
    epoch, at = divmod(step, steps_of(table))
    num_rows = at * table.batch_size
    state = loader.state_dict()
    state["dataset"] = loader.dataset.state_dict(
        num_rows, loader.num_workers, table.batch_size
    )
    state["dataset"]["current_epoch"] = state["current_epoch"] = epoch + 1
    state["num_samples_yielded"] = num_rows
    state["latest_worker_idx"] = (at - 1) % max(loader.num_workers, 1)
    return state


# grain


def make_array_record(table: BenchTable) -> None:
    made(table, "array_record", write_array_record)


def write_array_record(table: BenchTable, folder: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir()
    # Groups of one row: whoever reads at random is to find each by itself.
    writer = ArrayRecordWriter(str(folder / "rows"), "group_size:1")
    for record in encoded_rows(table):
        writer.write(record)
    writer.close()


def grain_records(
    table: BenchTable, seed: int, *, num_workers: int = 0, step: int = 0
) -> Batches:
    """Its shuffled positions, cut into batches, each read from array_record at once."""
    import grain

    source = grain.sources.ArrayRecordDataSource(
        str(copy_of(table, "array_record") / "rows")
    )
    gather = functools.partial(read_records, source, table.name, num_workers)
    return grain_batches(table, seed, gather, num_workers, step)


def read_records(source: Any, name: str, num_workers: int, positions: Any) -> Any:
    found = source.__getitems__(positions.tolist())
    collated = records.collate(name, num_workers)(found)
    # grain puts arrays into shared memory, and knows no tensors.
    if isinstance(collated, torch.Tensor):
        return collated.numpy()
    if isinstance(collated, tuple):
        return collated[0].numpy(), np.array(collated[1])
    return collated


def grain_batches(
    table: BenchTable,
    seed: int,
    gather: Callable[[Any], Any],
    num_workers: int,
    step: int,
) -> Batches:
    import grain

    # Positions are shuffled and cut, not rows: grain handles twenty times as many of them.
    steps = steps_of(table)
    kept = steps * table.batch_size
    positions = grain.MapDataset.range(table.num_rows).shuffle(seed=seed)[:kept]
    batches = positions.repeat().batch(table.batch_size, drop_remainder=True)
    # Threads only cost here: a batch is a few calls.
    unthreaded = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    rows = batches.map(gather).to_iter_dataset(unthreaded)
    if num_workers:
        rows = rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(rows)
    if step:
        iterator.set_state(grain_state(iterator.get_state(), step))
    for batch in iterator:
        yield records.decoded(table.name, as_tensors(batch))


def grain_state(fresh: dict[str, Any], step: int) -> dict[str, Any]:
    """Give the state at a step; workers take turns, a batch each."""
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


def grain_in_memory(table: BenchTable, seed: int, *, step: int = 0) -> Batches:
    """Its shuffled positions, cut into batches, each gathered from packed rows in memory."""
    import lance

    batches = lance.dataset(table.path).to_batches()
    rows = np.concatenate([records.packed(table.name, batch) for batch in batches])

    def gather(positions: Any) -> Any:
        return rows[positions].view(np.uint8)

    return grain_batches(table, seed, gather, 0, step)
