"""The tables that the benches read: made once, and kept in a cache folder.

Processes of all peers import this file: what only few of them need is imported late.

Run it by itself to make them ahead of a bench.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import mmap
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from recipes import NUM_FEATURES, NUM_WIDE_FEATURES, RECIPES, SEED, Recipe, batches
from tqdm.auto import tqdm

CACHE = Path.home() / ".cache" / "lanceloader" / "bench"
QUICK = 20
"""``--quick`` divides the rows by this."""
NUM_VALUES = {"narrow": NUM_FEATURES, "wide": NUM_WIDE_FEATURES}
"""Tables with columns ``f0``, ``f1``, ... of float32, and how many."""


@dataclass(frozen=True)
class BenchTable:
    """A table on disk, and how much of it is read at a time."""

    name: str
    what: str
    folder: Path
    """The LanceDB database that holds it."""
    num_rows: int
    batch_size: int
    large_batch_size: int
    columns: tuple[str, ...] | None = None
    """The columns that are read; by default all."""

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.lance"

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files())

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of a row.

        Raises:
            ValueError: If its columns are of no fixed width.
        """
        import lance

        schema = lance.dataset(self.path).schema
        return sum(
            schema.field(name).type.bit_width // 8
            for name in self.columns or schema.names
        )

    def files(self) -> list[Path]:
        return sorted(file for file in self.path.rglob("*") if file.is_file())

    def warm(self) -> None:
        """Read every file once, so that the operating system has it in memory."""
        for file in self.files():
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass

    def cool(self) -> None:
        """Have the operating system drop the files from memory.

        Unlike dropping all caches it needs no rights, and leaves other programs alone. Nobody
        may have the files mapped.
        """
        for file in self.files():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def cached_share(self) -> float:
        """Give the share of the files that the operating system has in memory."""
        found = [cached_pages(file) for file in self.files()]
        return sum(there for there, _ in found) / sum(pages for _, pages in found)

    def of(self, *, batch_size: int) -> BenchTable:
        return replace(self, batch_size=batch_size)

    def features(self, count: int | None = None) -> BenchTable:
        """Give the same table with its first columns of float32 only."""
        names = tuple(f"f{at}" for at in range(count or NUM_VALUES[self.name]))
        return replace(self, columns=names)


def bench_table(name: str, folder: Path = CACHE, *, quick: bool = False) -> BenchTable:
    """Give a table, made now if the folder does not have it."""
    recipe = RECIPES[name]
    return table_of(recipe, folder, recipe.num_rows // (QUICK if quick else 1))


def table_of(recipe: Recipe, folder: Path, num_rows: int) -> BenchTable:
    home = folder / f"{recipe.name}-{num_rows}-{fingerprint(recipe)}"
    make_once(home, functools.partial(write, recipe, num_rows))
    return BenchTable(
        recipe.name,
        recipe.what,
        home,
        num_rows,
        recipe.batch_size,
        recipe.large_batch_size,
    )


def fingerprint(recipe: Recipe) -> str:
    """Name what a table holds, so that one of an earlier recipe is not taken for it."""
    words = f"{SEED} {recipe.what}".encode()
    return format(functools.reduce(lambda a, b: (a * 31 + b) % 2**32, words, 7), "08x")


def make_once(home: Path, make: functools.partial[None]) -> None:
    """Have ``make(folder)`` fill a folder, and rename it when it is whole.

    A bench cut short then leaves nothing that looks finished.
    """
    if home.exists():
        return
    partial = home.with_name(f"{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    make(partial)
    partial.rename(home)


def write(recipe: Recipe, num_rows: int, home: Path) -> None:
    import lancedb

    schema = next(batches(recipe, 1)).schema
    with tqdm(total=num_rows, desc=f"making {recipe.name}", unit=" rows") as bar:

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in batches(recipe, num_rows):
                yield batch
                bar.update(batch.num_rows)

        reader = pa.RecordBatchReader.from_batches(schema, watched())
        lancedb.connect(home).create_table(recipe.name, reader)


def cached_pages(path: Path) -> tuple[int, int]:
    """Give how many pages of a file are in memory, and how many there are."""
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    if not pages:
        return 0, 0
    with (
        path.open("rb") as stream,
        # A private mapping that may be written to has an address that ctypes can tell.
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped,
    ):
        first = ctypes.c_char.from_buffer(mapped)
        flags = (ctypes.c_ubyte * pages)()
        address = ctypes.c_void_p(ctypes.addressof(first))
        length = ctypes.c_size_t(len(mapped))
        failed = ctypes.CDLL(None, use_errno=True).mincore(address, length, flags)
        del first
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return sum(flag & 1 for flag in flags), pages


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--tables", nargs="+", choices=RECIPES, default=list(RECIPES)
    )
    arguments.add_argument("--folder", type=Path, default=CACHE)
    arguments.add_argument("--quick", action="store_true", help="a twentieth of it")
    options = arguments.parse_args()
    for name in options.tables:
        table = bench_table(name, options.folder, quick=options.quick)
        print(f"{name:<12}{table.num_rows:>12,} rows{table.num_bytes:>16,} bytes")


if __name__ == "__main__":
    main()
