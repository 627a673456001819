"""WebDataset on local shards: in another order each epoch, and a buffer of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from harness.tables import BenchTable

from peers import records
from peers.torch_loop import as_it_is

BUFFER = 1_000


def make(table: BenchTable) -> None:
    table.make_copy("webdataset", write)


def write(table: BenchTable, folder: Path) -> None:
    folder.mkdir()
    pattern, size = str(folder / "%06d.tar"), records.SHARD_BYTES
    with wds.ShardWriter(pattern, 10**9, maxsize=size, verbose=0) as writer:
        for at, record in enumerate(records.of_table(table)):
            writer.write({"__key__": f"{at:09d}", "bin": record})


def batches(table: BenchTable, seed: int, *, num_workers: int = 0) -> Iterator[Any]:
    urls = sorted(map(str, table.copy("webdataset").glob("*.tar")))

    def epoch(number: int) -> Iterable[Any]:
        # A seed for each epoch: its own counter would begin at nought in every process.
        rows = wds.WebDataset(
            urls,
            shardshuffle=len(urls),
            detshuffle=True,
            seed=seed * 1_000_003 + number,
            empty_check=False,
        )
        rows = rows.shuffle(BUFFER, seed=seed * 1_000_003 + number)
        whole = rows.map(record_of).batched(
            table.batch_size,
            collation_fn=records.collate(table.name, num_workers),
            partial=False,
        )
        return wds.WebLoader(
            whole, batch_size=None, num_workers=num_workers, collate_fn=as_it_is
        )

    return records.endless(table, epoch)


def record_of(sample: dict[str, Any]) -> bytes:
    return sample["bin"]
