"""``lanceloader info``."""

import lanceloader as ll
from lanceloader.cli.addresses import Address, Database
from lanceloader.cli.options import (
    Branch,
    Json,
    StorageOption,
    TableName,
    Tag,
    Uri,
    Version,
)
from lanceloader.cli.output import print_json, print_line, print_table, size
from lanceloader.monitor.redaction import without_secrets

__all__ = ["info"]


def info(
    uri: Uri,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    *,
    json: Json = False,
) -> None:
    """Show the schema, versions, files and indices of a table, and what reads it.

    Of a LanceDB database, list the tables.

    \b
    Examples:
      lanceloader info db/flights.lance
      lanceloader info db
      lanceloader info s3://bucket/db/flights.lance --storage-option region=eu-west-1
      lanceloader info db --table flights --version 3 --json
    """
    address = Address.of(uri, table, version, branch, tag, storage_option)
    found = address.info()
    if isinstance(found, Database):
        if json:
            print_json({"database": without_secrets(found.uri), "tables": found.tables})
        else:
            for name in found.tables:
                print_line(name)
        return
    if json:
        print_json(found.to_dict() | {"source": without_secrets(found.source)})
        return
    for name, value in facts(found):
        print_line(f"{name:<12}{value}")
    print_line()
    print_table(
        ("column", "type", "nulls", "read by"),
        [
            (
                column.name,
                column.description,
                "yes" if column.nullable else "no",
                "lanceloader" if column.is_native else "the table's own library",
            )
            for column in found.columns
        ],
    )
    reasons = {
        column.reason: None for column in found.columns if column.reason is not None
    }
    for reason in reasons:
        print_line(f"\nnot read natively: {reason}")
    if found.indices:
        print_line()
        print_table(
            ("index", "type", "columns", "rows"),
            [
                (
                    index.name,
                    index.type,
                    ", ".join(index.columns),
                    "unknown" if index.rows is None else f"{index.rows:,}",
                )
                for index in found.indices
            ],
            right=("rows",),
        )


def facts(found: ll.TableInfo) -> list[tuple[str, str]]:
    """Return the facts about a table, as pairs of name and text."""
    lines = [("source", without_secrets(found.source))]
    rows = f"{found.num_rows:,}"
    if found.num_deleted_rows:
        rows += f", and {found.num_deleted_rows:,} deleted"
    lines.append(("rows", rows))
    if found.num_versions is not None:
        lines.append(
            (
                "versions",
                f"{found.num_versions:,}, the latest is {found.latest_version}",
            )
        )
    if found.branches:
        lines.append(("branches", ", ".join(found.branches)))
    if found.tags:
        tags = (f"{name} (version {number})" for name, number in found.tags.items())
        lines.append(("tags", ", ".join(tags)))
    if found.num_fragments is not None:
        fragments = f"{found.num_fragments:,}"
        if found.num_data_files is not None:
            files = "file" if found.num_data_files == 1 else "files"
            fragments += f", in {found.num_data_files:,} data {files}"
        lines.append(("fragments", fragments))
    if found.data_bytes is not None:
        lines.append(("bytes", size(found.data_bytes)))
    if found.file_versions:
        lines.append(("files", f"Lance {', '.join(found.file_versions)}"))
    if found.indices is not None and not found.indices:
        lines.append(("indices", "none"))
    read = "by lanceloader's native reader"
    if not found.is_native:
        read = f"by the table's own library: {found.reason}"
    elif others := sum(not column.is_native for column in found.columns):
        read += f", except {others:,} of {len(found.columns):,} columns"
    lines.append(("read", read))
    if found.hint is not None:
        lines.append(("hint", found.hint))
    return lines
