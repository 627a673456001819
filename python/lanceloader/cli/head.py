"""``lanceloader head``."""

from typing import Annotated

import typer

from lanceloader.cli.addresses import Address
from lanceloader.cli.options import (
    Branch,
    Columns,
    Filter,
    Json,
    Seed,
    Shuffle,
    StorageOption,
    TableName,
    Tag,
    Uri,
    Version,
)
from lanceloader.cli.output import cell, print_json, print_table
from lanceloader.cli.selecting import selected

__all__ = ["head"]


def head(
    uri: Uri,
    rows: Annotated[
        int, typer.Option("--rows", "-n", min=0, help="How many rows to show.")
    ] = 10,
    columns: Columns = None,
    filter: Filter = None,  # noqa: A002
    *,
    shuffle: Shuffle = False,
    seed: Seed = None,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    json: Json = False,
) -> None:
    """Show the first rows of a table, or some rows at random.

    In JSON, binary is base64, and dates, decimals, NaN and infinities are strings.

    \b
    Examples:
      lanceloader head db/flights.lance
      lanceloader head db/flights.lance -n 3 --columns hour,delay --filter "delay > 60"
      lanceloader head db/flights.lance --shuffle --seed 7 --json
    """
    address = Address.of(uri, table, version, branch, tag, storage_option)
    perm = selected(address.open(), columns, filter, shuffle=shuffle, seed=seed)
    found = perm.with_format("python").head(min(rows, len(perm)))
    if json:
        print_json({"rows": found, "num_rows": len(perm), "version": perm.version})
        return
    numbers = [
        field.name for field in perm.schema if str(field.type).startswith(_NUMBERS)
    ]
    print_table(
        perm.column_names,
        [[cell(row[name]) for name in perm.column_names] for row in found],
        right=numbers,
    )


_NUMBERS = ("int", "uint", "float", "double", "halffloat", "decimal")
