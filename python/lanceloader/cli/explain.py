"""``lanceloader explain``."""

from lanceloader.cli.addresses import Address
from lanceloader.cli.options import (
    Branch,
    CacheDir,
    Columns,
    Filter,
    Json,
    MemoryLimit,
    ReadName,
    Seed,
    Shuffle,
    StorageOption,
    TableName,
    Tag,
    Uri,
    Version,
)
from lanceloader.cli.output import print_json, print_line
from lanceloader.cli.selecting import selected
from lanceloader.monitor.redaction import without_secrets

__all__ = ["explain"]


def explain(
    uri: Uri,
    columns: Columns = None,
    filter: Filter = None,  # noqa: A002
    *,
    shuffle: Shuffle = False,
    seed: Seed = None,
    read: ReadName = None,
    memory_limit: MemoryLimit = None,
    cache_dir: CacheDir = None,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    json: Json = False,
) -> None:
    """Show how the rows would be read, why, and at what cost. Nothing is packed.

    \b
    Examples:
      lanceloader explain db/flights.lance --shuffle
      lanceloader explain db/flights.lance --shuffle --read external --memory-limit 1GiB
    """
    address = Address.of(uri, table, version, branch, tag, storage_option)
    perm = selected(address.open(), columns, filter, shuffle=shuffle, seed=seed)
    perm = perm.with_read(read, memory_limit=memory_limit, cache_dir=cache_dir)
    text = without_secrets(perm.explain())
    if not json:
        print_line(text)
        return
    lines = (line.partition(" ") for line in text.splitlines())
    print_json({name: said.strip() for name, _, said in lines})
