"""Arguments and options that several commands take."""

from typing import Annotated

import typer

from lanceloader._typing import Format, Read
from lanceloader.options import bytes_of

__all__ = [
    "Branch",
    "CacheDir",
    "Columns",
    "Filter",
    "FormatName",
    "Json",
    "MemoryLimit",
    "ReadName",
    "Seed",
    "ShowBars",
    "Shuffle",
    "StorageOption",
    "TableName",
    "Tag",
    "Uri",
    "Version",
    "names_of",
]


def checked_size(text: str | None) -> str | None:
    """Return a size as it was typed.

    Raises:
        typer.BadParameter: If it is not a size.
    """
    if text is not None:
        try:
            bytes_of(text, "--memory-limit")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return text


Uri = Annotated[
    str,
    typer.Argument(
        metavar="URI",
        help="Path or URI of a Lance table (db/name.lance), or of a LanceDB database with --table.",
        show_default=False,
    ),
]
TableName = Annotated[
    str | None,
    typer.Option("--table", "-t", help="The table of the LanceDB database at URI."),
]
Version = Annotated[
    int | None,
    typer.Option("--version", help="The version of the table.  [default: latest]"),
]
Branch = Annotated[
    str | None, typer.Option("--branch", help="The branch of the table.")
]
Tag = Annotated[
    str | None, typer.Option("--tag", help="A tag of the table, instead of a version.")
]
StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        "-o",
        metavar="NAME=VALUE",
        help="An option of the object store; may be repeated. Values are never printed.",
        envvar="LANCELOADER_STORAGE_OPTIONS",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", "-c", metavar="A,B", help="The columns.  [default: all]"),
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", "-f", metavar="SQL", help="The rows to keep."),
]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Shuffle the rows.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Chooses the order of --shuffle.  [default: at random]"
    ),
]
FormatName = Format
ReadName = Annotated[
    Read | None,
    typer.Option(
        "--read", help="How rows are read.  [default: LANCELOADER_READ, or auto]"
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="Memory for rows, as in 4GiB.  [default: half of what is free]",
        callback=checked_size,
    ),
]
CacheDir = Annotated[
    str | None,
    typer.Option(
        "--cache-dir",
        metavar="FOLDER",
        help="The folder for packed rows.  [default: LANCELOADER_CACHE_DIR]",
    ),
]
ShowBars = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Show a bar.  [default: on a terminal]",
        envvar="LANCELOADER_PROGRESS",
        show_default=False,
    ),
]


def names_of(text: str | None) -> list[str] | None:
    """Split the value of ``--columns``."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        message = f"{text!r} has an empty name; write --columns a,b"
        raise typer.BadParameter(message, param_hint="--columns")
    return names
