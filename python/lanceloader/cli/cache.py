"""``lanceloader cache list``, ``clear``, ``prune`` and ``path``."""

import dataclasses
from typing import Annotated, Any

import typer

import lanceloader.cache
from lanceloader.cli.failures import UsageError
from lanceloader.cli.options import CacheDir, Json
from lanceloader.cli.output import print_json, print_line, print_table, size

__all__ = ["clear", "list_entries", "path", "prune"]


def list_entries(*, cache_dir: CacheDir = None, json: Json = False) -> None:
    """List the packed rows in the cache, most recently used first.

    \b
    Examples:
      lanceloader cache list
      lanceloader cache list --cache-dir /scratch/rows --json
    """
    folder = the_folder(cache_dir)
    found = lanceloader.cache.entries(folder)
    total = sum(entry.bytes for entry in found)
    if json:
        entries = [dataclasses.asdict(entry) for entry in found]
        print_json({"path": folder, "bytes": total, "entries": entries})
        return
    if found:
        print_table(
            ("table", "columns", "rows", "size", "last used", "state"),
            [row_of(entry) for entry in found],
            right=("rows", "size"),
        )
        print_line()
    word = "entry" if len(found) == 1 else "entries"
    print_line(f"{len(found):,} {word}, {size(total)}, in {folder}")


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only report what would be removed.")
]


def clear(
    *,
    dry_run: DryRun = False,
    cache_dir: CacheDir = None,
    json: Json = False,
) -> None:
    """Remove the packed rows from the cache, except those in use.

    \b
    Examples:
      lanceloader cache clear --dry-run
      lanceloader cache clear
    """
    folder = the_folder(cache_dir)
    done = lanceloader.cache.clear(folder, dry_run=dry_run)
    if json:
        print_json(dataclasses.asdict(done) | {"bytes": done.bytes, "dry_run": dry_run})
        return
    word = "entry" if len(done.removed) == 1 else "entries"
    verb = "would be removed" if dry_run else "removed"
    print_line(
        f"{len(done.removed):,} {word}, {size(done.bytes)}, {verb} from {folder}"
    )
    if done.kept:
        print_line(
            f"{len(done.kept):,} kept: in use, or in a folder without lanceloader's marker"
        )


def prune(
    *, dry_run: DryRun = False, cache_dir: CacheDir = None, json: Json = False
) -> None:
    """Remove copies of remote files that only older versions of their tables have.

    \b
    Examples:
      lanceloader cache prune --dry-run
      lanceloader cache prune
    """
    folder = the_folder(cache_dir)
    done = lanceloader.cache.prune(folder, dry_run=dry_run)
    if json:
        print_json(dataclasses.asdict(done) | {"dry_run": dry_run})
        return
    word = "copy" if done.files == 1 else "copies"
    verb = "would be removed" if dry_run else "removed"
    print_line(f"{done.files:,} {word}, {size(done.bytes)}, {verb} from {folder}")


def path(*, cache_dir: CacheDir = None, json: Json = False) -> None:
    """Print the folder where packed rows are kept.

    \b
    Example:
      lanceloader cache path
    """
    folder = the_folder(cache_dir)
    if json:
        print_json({"path": folder})
    else:
        print_line(folder)


def the_folder(cache_dir: str | None) -> str:
    """Return the cache folder.

    Raises:
        UsageError: If the cache folder is disabled.
    """
    folder = lanceloader.cache.path(cache_dir)
    if folder is None:
        raise UsageError(
            "LANCELOADER_CACHE_DIR is set to an empty string, which disables the cache folder: set it "
            "to a folder, or pass --cache-dir"
        )
    return str(folder)


def row_of(entry: Any) -> tuple[str, ...]:
    """Return the table cells of an entry."""
    state = "whole" if entry.is_complete else "in part"
    return (
        entry.table[:12],
        ", ".join(entry.columns),
        f"{entry.rows:,}",
        size(entry.bytes),
        entry.last_used.astimezone().strftime("%Y-%m-%d %H:%M"),
        f"{state}, in use" if entry.is_in_use else state,
    )
