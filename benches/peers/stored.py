"""LitData, MosaicML Streaming and lancedb's StreamingDataset from object storage.

The first two read copies in formats of their own, the same that they read from the local disk elsewhere, and
keep what they fetched in a folder.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.object_server import BUCKET
from harness.tables import BenchTable

LITDATA = "litdata"
MOSAICML = "mosaicml"
SUFFIXES = {LITDATA: "litdata-records", MOSAICML: "mosaicml"}
VENVS = {LITDATA: "", MOSAICML: "mosaicml"}


@dataclass(frozen=True)
class Records:
    """A batch of rows, each one record."""

    num_rows: int
    nbytes: int


def make(table: BenchTable, peer: str) -> Iterator[Any]:
    """Write the copy that a peer reads; a job for the peer's environment."""
    yield
    importlib.import_module(f"peers.{peer}").make(table)
    yield


def uri_of(copy: Path) -> str:
    """Return the address of a copy behind a server of the folder around it."""
    return f"s3://{BUCKET}/{copy.name}"


def set_environment(options: dict[str, str]) -> None:
    """Have boto3 find the server, where no argument says where it is."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": options["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": options["aws_region"],
        "AWS_ENDPOINT_URL": options["aws_endpoint"],
        "S3_ENDPOINT_URL": options["aws_endpoint"],
    }


def litdata(
    uri: str, options: dict[str, str], batch_size: int, folder: str
) -> Iterator[Iterator[Records]]:
    """Epochs of its own loader; chunks come in another order, then rows inside each."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # Its faster client takes no plain HTTP, and no argument or variable changes that.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
    dataset = StreamingDataset(
        uri,
        cache_dir=folder,
        shuffle=True,
        drop_last=True,
        seed=1,
        storage_options={
            "endpoint_url": options["aws_endpoint"],
            "aws_access_key_id": options["aws_access_key_id"],
            "aws_secret_access_key": options["aws_secret_access_key"],
            "region_name": options["aws_region"],
        },
    )
    loader = StreamingDataLoader(
        dataset, batch_size=batch_size, drop_last=True, collate_fn=counted
    )
    while True:
        yield iter(loader)


def mosaicml(
    uri: str, options: dict[str, str], batch_size: int, folder: str
) -> Iterator[Iterator[Records]]:
    """Epochs of its dataset in DataLoader, shuffled by its default algorithm."""
    set_environment(options)
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    dataset = StreamingDataset(
        remote=uri,
        local=folder,
        shuffle=True,
        shuffle_seed=1,
        batch_size=batch_size,
    )
    loader = DataLoader(dataset, batch_size, drop_last=True, collate_fn=counted_fields)
    while True:
        yield iter(loader)


def lancedb_streaming(
    uri: str, options: dict[str, str], batch_size: int
) -> Iterator[Records]:
    """Return an epoch of lancedb's StreamingDataset in DataLoader; rows are left as they come."""
    # What it may use to sort an epoch: its 100 MB by default do not do for five million rows.
    os.environ.setdefault("LANCEDB_PERM_BUILDER_MEMORY_LIMIT", str(4 << 30))
    import lancedb
    from lancedb.streaming import StreamingDataset
    from torch.utils.data import DataLoader

    folder, _, name = uri.rpartition("/")
    connection = lancedb.connect(folder, storage_options=options)
    dataset = StreamingDataset(
        connection.open_table(name.removesuffix(".lance")),
        shuffle_seed=1,
        num_splits=1,
        # What is read at a time: 64 rows, its default, make it many times slower.
        read_batch_size=batch_size,
        transform=sizes,
    )
    return iter(DataLoader(dataset, batch_size=batch_size, collate_fn=summed))


def sizes(batch: Any) -> list[float]:
    """Return the bytes of each row of an Arrow batch, about."""
    return [batch.nbytes / max(batch.num_rows, 1)] * batch.num_rows


def summed(rows: list[float]) -> Records:
    return Records(len(rows), int(sum(rows)))


def counted(records: list[bytes]) -> Records:
    return Records(len(records), sum(map(len, records)))


def counted_fields(samples: list[dict[str, bytes]]) -> Records:
    return counted([sample["record"] for sample in samples])
