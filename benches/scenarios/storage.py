"""Tables in object storage: two shuffled epochs from a server on loopback that is as slow as a real one.

The server counts requests and bytes. The limit is a plain downloader: the same bytes, by as many
connections as the loader may use, in order of the shuffle. What an epoch takes beyond that is compared
with the same epoch of the same table on a local disk, whose files are in the page cache. LitData and MosaicML
Streaming read copies in formats of their own from a server of the same kind, and shuffle inside windows.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import random
import resource
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bench import Bench, Figures, warm_memory
from harness.object_server import BUCKET, Store, serving
from harness.process import Child, child, result_of
from harness.tables import BenchTable
from harness.turn import MAKE_LIMIT_S
from peers import stored

STORAGE = "object storage"
OURS = "lanceloader, loader()"
LOCAL = "lanceloader, the same table on a local disk"
"""Epoch 0 fills the cache folder, and epoch 1 finds it there, as in object storage."""
LANCEDB = "lancedb Permutation in DataLoader"
LANCEDB_STREAMING = "lancedb StreamingDataset in DataLoader"
PYLANCE = "lance.take, batch by batch"
LITDATA = "LitData, chunks in its format"
MOSAICML = "MosaicML Streaming, shards in its format"
PEERS = {LITDATA: stored.LITDATA, MOSAICML: stored.MOSAICML}
DOWNLOADER = "plain downloader, 256 connections"
NAMES = ("narrow", "text", "embeddings", "image")
EPOCHS = 2
CONNECTIONS = 256
LONGEST_REQUEST = 4 << 20
SLOW_S = 20.0
"""Those that need minutes for an epoch are stopped after this time; their rows per second count."""
MOST_BYTES = 800 << 20
"""Larger tables are read in part, by their first rows."""


@dataclass(frozen=True)
class Remote:
    """A table behind the server."""

    uri: str
    options: dict[str, str]
    num_rows: int
    batch_size: int


def run(bench: Bench) -> None:
    for name in NAMES:
        table = bench.table(name)
        with serving(table.folder) as store:
            remote = remote_of(table, store)
            cases = {
                case_of(
                    name, arm
                ): lambda _, arm=arm, table=table, store=store, remote=remote: one(
                    bench, arm, table, store, remote
                )
                for arm in (
                    OURS, LOCAL, DOWNLOADER, LANCEDB, LANCEDB_STREAMING, PYLANCE, *PEERS
                )
            }  # fmt: skip
            bench.measure(STORAGE, cases, bench.rounds)


def case_of(name: str, arm: str) -> str:
    return f"{name}, {arm}"


def remote_of(table: BenchTable, store: Store) -> Remote:
    uri = f"s3://{BUCKET}/{table.path.name}"
    share = min(1.0, MOST_BYTES / table.num_bytes)
    num_rows = int(table.num_rows * share) // table.batch_size * table.batch_size
    return Remote(uri, store.options, num_rows, table.batch_size)


def one(
    bench: Bench, arm: str, table: BenchTable, store: Store, remote: Remote
) -> Figures:
    if arm in PEERS:
        return one_peer(bench, PEERS[arm], table, remote)
    job = {
        OURS: "ours",
        LOCAL: "ours",
        LANCEDB: "lancedb_permutation",
        LANCEDB_STREAMING: "lancedb_streaming",
        PYLANCE: "pylance_take",
        DOWNLOADER: "download",
    }[arm]
    arguments: dict[str, Any] = {"remote": remote}
    if arm == LOCAL:
        table.warm()
        arguments["remote"] = replace(remote, uri=str(table.path), options={})
    if arm == DOWNLOADER:
        arguments |= {"endpoint": store.options["aws_endpoint"], "table": table}
    num_epochs = EPOCHS if arm in (OURS, LOCAL) else 1
    store.counts()
    with (
        bench.empty_folder() as cache,
        child(f"scenarios.storage:{job}", cache=cache, **arguments) as running,
    ):
        return epochs_of(running, store, table, remote, num_epochs)


def one_peer(bench: Bench, peer: str, table: BenchTable, remote: Remote) -> Figures:
    """Measure who reads a copy of its own, which is written now if there is none."""
    venv, copy = stored.VENVS[peer], table.copy(stored.SUFFIXES[peer])
    if not copy.exists():
        arguments = {"table": table, "peer": peer, "limit_s": MAKE_LIMIT_S}
        result_of("peers.stored:make", venv=venv, **arguments)
    with (
        serving(copy.parent) as store,
        bench.empty_folder() as folder,
        child(
            "scenarios.storage:peer",
            venv=venv,
            name=peer,
            remote=replace(remote, uri=stored.uri_of(copy), options=store.options),
            folder=str(folder),
        ) as running,
    ):
        store.counts()
        return epochs_of(running, store, table, remote, EPOCHS)


def epochs_of(
    running: Child, store: Store, table: BenchTable, remote: Remote, num_epochs: int
) -> Figures:
    figures: Figures = {}
    warm_memory(table.folder)
    num_bytes = table.num_bytes * remote.num_rows / table.num_rows
    for epoch in range(num_epochs):
        found, counts = running.next(), store.counts()
        rows = found["rows"]
        figures |= {
            f"rows_per_s_{epoch}": rows / found["seconds"],
            f"requests_per_row_{epoch}": counts["requests"] / rows,
            f"seconds_per_row_{epoch}": found["seconds"] / rows,
            f"bytes_per_useful_byte_{epoch}": counts["bytes"] / found["bytes"],
            f"bytes_of_table_{epoch}": counts["bytes"] / num_bytes,
            f"cpu_us_per_row_{epoch}": found["cpu_s"] / rows * 1e6,
            f"most_in_flight_{epoch}": counts["most"],
            f"refused_{epoch}": counts["refused"],
        }
        if epoch == 0:
            figures["first_batch_s"] = found["first_batch_s"]
    running.finish()
    return figures


# In processes of their own


def ours(remote: Remote) -> Iterator[Any]:
    import lance  # noqa: F401  # with what the others have imported before the clock starts
    import lanceloader as ll

    yield

    def epochs() -> Iterator[Any]:
        perm = ll.open(remote.uri, storage_options=remote.options, version=1)
        perm = perm.with_take(remote.num_rows).shuffle(seed=1).with_format("arrow")
        loader = perm.loader(remote.batch_size)
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            yield iter(loader)

    yield from timed(epochs())


def lancedb_permutation(remote: Remote) -> Iterator[Any]:
    import lancedb
    import numpy as np
    from lancedb.permutation import Permutation
    from peers.torch_loop import as_it_is
    from torch.utils.data import DataLoader, Subset

    folder, _, name = remote.uri.rpartition("/")
    yield

    def epoch() -> Iterator[Any]:
        connection = lancedb.connect(folder, storage_options=remote.options)
        table = connection.open_table(name.removesuffix(".lance"))
        dataset = Permutation.identity(table).with_format("arrow")
        rows = np.random.default_rng(1).permutation(remote.num_rows).tolist()
        yield from DataLoader(
            Subset(dataset, rows), batch_size=remote.batch_size, collate_fn=as_it_is
        )

    yield from timed([epoch()])


def lancedb_streaming(remote: Remote) -> Iterator[Any]:
    import lancedb.streaming  # noqa: F401  # before the clock starts

    yield
    yield from timed(
        stored.lancedb_streaming(remote.uri, remote.options, remote.batch_size)
        for _ in range(1)
    )


def peer(name: str, remote: Remote, folder: str) -> Iterator[Any]:
    """Read what ``peers.stored`` calls ``name``; it has no more rows than the table is read by."""
    importlib.import_module("streaming" if name == stored.MOSAICML else name)
    epochs = getattr(stored, name)
    yield
    most = remote.num_rows // remote.batch_size
    yield from timed(
        itertools.islice(epoch, most)
        for epoch in epochs(remote.uri, remote.options, remote.batch_size, folder)
    )


def pylance_take(remote: Remote) -> Iterator[Any]:
    import lance
    import numpy as np

    yield

    def epoch() -> Iterator[Any]:
        dataset = lance.dataset(remote.uri, storage_options=remote.options)
        rows = np.random.default_rng(1).permutation(remote.num_rows)
        for start in range(0, remote.num_rows, remote.batch_size):
            yield dataset.take(rows[start : start + remote.batch_size].tolist())

    yield from timed([epoch()])


def download(remote: Remote, endpoint: str, table: BenchTable) -> Iterator[Any]:
    """Fetch what the rows take of the data files: a request for each row if rows are long."""
    yield
    files = [file for file in table.files() if file.parent.name == "data"]
    total = sum(file.stat().st_size for file in files)
    share = remote.num_rows / table.num_rows
    length = total / table.num_rows
    step = int(length) if length > 16 << 10 else LONGEST_REQUEST
    ranges = [
        (file, start, min(start + step, file.stat().st_size))
        for file in files
        for start in range(0, int(file.stat().st_size * share), step)
    ]
    random.Random(1).shuffle(ranges)
    start, cpu = time.perf_counter(), cpu_s()
    asyncio.run(fetch_all(endpoint, table.folder, ranges))
    seconds = time.perf_counter() - start
    yield {
        "rows": remote.num_rows,
        "bytes": sum(stop - start for _, start, stop in ranges),
        "seconds": seconds,
        "first_batch_s": 0.0,
        "cpu_s": cpu_s() - cpu,
    }


async def fetch_all(
    endpoint: str, folder: Path, ranges: list[tuple[Path, int, int]]
) -> None:
    url = urllib.parse.urlparse(endpoint)
    left = list(reversed(ranges))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(
            url.hostname, url.port, limit=1 << 20
        )
        while left:
            file, start, stop = left.pop()
            path = file.relative_to(folder).as_posix()
            writer.write(
                f"GET /{BUCKET}/{path} HTTP/1.1\r\nHost: x\r\n"
                f"Range: bytes={start}-{stop - 1}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 503"):
                left.append((file, start, stop))
                await asyncio.sleep(0.1)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(min(CONNECTIONS, len(ranges)))))


def timed(epochs: Any) -> Iterator[dict[str, float]]:
    """Read epochs; one that is slow is left after a while."""
    start, cpu, disk = time.perf_counter(), cpu_s(), disk_bytes()
    for batches in epochs:
        rows = num_bytes = 0
        first = 0.0
        for batch in batches:
            rows += batch.num_rows
            num_bytes += batch.nbytes
            now = time.perf_counter() - start
            first = first or now
            if now > SLOW_S:
                break
        seconds = time.perf_counter() - start
        yield {
            "rows": rows,
            "bytes": num_bytes,
            "seconds": seconds,
            "first_batch_s": first,
            "cpu_s": cpu_s() - cpu,
            "disk_bytes": disk_bytes() - disk,
        }
        start, cpu, disk = time.perf_counter(), cpu_s(), disk_bytes()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def disk_bytes() -> int:
    """Return the bytes that this process had disks read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
