"""``lanceloader warm``."""

import dataclasses
from typing import Annotated

import typer

import lanceloader as ll
from lanceloader.cli.addresses import Address
from lanceloader.cli.options import (
    Branch,
    CacheDir,
    Columns,
    Json,
    MemoryLimit,
    ShowBars,
    StorageOption,
    TableName,
    Tag,
    Uri,
    Version,
)
from lanceloader.cli.output import bar, print_json, print_line, size
from lanceloader.cli.selecting import selected

__all__ = ["warm"]


def warm(
    uri: Uri,
    columns: Columns = None,
    *,
    memory_limit: MemoryLimit = None,
    cache_dir: CacheDir = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="Threads that pack.  [default: one per core]"
        ),
    ] = None,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    progress: ShowBars = None,
    json: Json = False,
) -> None:
    """Pack a table into the cache, so that the first epoch is as fast as the others.

    Name the columns that the training reads, if it does not read all of them.

    \b
    Examples:
      lanceloader warm db/flights.lance
      lanceloader warm db/flights.lance --columns hour,delay --cache-dir /scratch/rows
    """
    address = Address.of(uri, table, version, branch, tag, storage_option)
    perm = selected(address.open(), columns)
    with bar("packing", show=progress, in_bytes=True) as report:
        done = perm.warm(
            memory_limit=memory_limit,
            cache_dir=cache_dir,
            threads=threads,
            progress=report,
        )
    if json:
        print_json(dataclasses.asdict(done))
    else:
        print_line(sentence(done))


def sentence(done: ll.WarmReport) -> str:
    """Return a sentence that says what was packed."""
    columns = "1 column" if len(done.columns) == 1 else f"{len(done.columns):,} columns"
    what = f"{done.rows:,} rows of {columns}, {size(done.bytes)},"
    if not done.is_shared:
        return (
            f"{what} packed in {done.seconds:.1f} s, in memory only: under 8 MiB, or without a cache "
            "folder, each run packs again"
        )
    if not done.blocks_packed:
        return f"{what} were packed already, in {done.cache_dir}"
    return f"{what} packed in {done.seconds:.1f} s, in {done.cache_dir}"
