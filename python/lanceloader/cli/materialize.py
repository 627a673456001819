"""``lanceloader materialize``."""

from typing import Annotated

import typer

from lanceloader.cli.addresses import Address
from lanceloader.cli.options import (
    Branch,
    Columns,
    Filter,
    Json,
    MemoryLimit,
    Seed,
    ShowBars,
    Shuffle,
    StorageOption,
    TableName,
    Tag,
    Version,
)
from lanceloader.cli.output import bar, print_json, print_line
from lanceloader.cli.selecting import selected
from lanceloader.monitor.redaction import without_secrets

__all__ = ["materialize"]


def materialize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Path or URI of a table.", show_default=False
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="DST",
            help="Path or URI of the new table, as in db/name.lance.",
            show_default=False,
        ),
    ],
    columns: Columns = None,
    filter: Filter = None,  # noqa: A002
    *,
    shuffle: Shuffle = False,
    seed: Seed = None,
    memory_limit: MemoryLimit = None,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    progress: ShowBars = None,
    json: Json = False,
) -> None:
    """Write rows of a table, in an order, as a new table: all of it or nothing.

    Storage options are those of both tables.

    \b
    Examples:
      lanceloader materialize db/flights.lance db/shuffled.lance --shuffle --seed 7
      lanceloader materialize db/flights.lance db/late.lance --filter "delay > 60" --columns hour,delay
    """
    address = Address.of(source, table, version, branch, tag, storage_option)
    perm = selected(address.open(), columns, filter, shuffle=shuffle, seed=seed)
    perm = perm.with_read(memory_limit=memory_limit)
    with bar("writing", show=progress) as report:
        copy = perm.materialize(
            target,
            storage_options=address.storage_options or None,
            progress=report,
        )
    written = without_secrets(target)
    if json:
        print_json({"target": written, "rows": len(copy), "columns": copy.column_names})
    else:
        print_line(f"{len(copy):,} rows written to {written}")
