"""The tables that are read: made once, and kept in a cache folder with the copies that peers read.

Worker processes import this file: libraries are imported where they are used.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.recipes import Recipe

CACHE = Path.home() / ".cache" / "lanceloader" / "bench"
QUICK = 20
"""``--quick`` divides the rows by this."""


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
    def names(self) -> list[str] | None:
        return None if self.columns is None else list(self.columns)

    @property
    def num_batches(self) -> int:
        """Whole batches of an epoch."""
        return self.num_rows // self.batch_size

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files())

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of a row, whose columns are of a fixed width."""
        import lance

        fields = lance.dataset(self.path).schema
        return sum(field.type.bit_width // 8 for field in fields)

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

        Unlike dropping all caches it needs no rights, and leaves other programs alone. No
        process may have the files mapped.
        """
        for file in self.files():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def cached_share(self) -> float:
        """Return the share of the files that the operating system has in memory."""
        found = [cached_pages(file) for file in self.files()]
        return sum(there for there, _ in found) / sum(pages for _, pages in found)

    def of(self, *, batch_size: int) -> BenchTable:
        return replace(self, batch_size=batch_size)

    def features(self, count: int) -> BenchTable:
        """Return the same table with its first columns of float32 only."""
        return replace(self, columns=tuple(f"f{at}" for at in range(count)))

    def copy(self, suffix: str) -> Path:
        """Return the folder of a copy in another format."""
        return self.folder.with_name(f"{self.folder.name}-{suffix}")

    def make_copy(
        self, suffix: str, write: Callable[[BenchTable, Path], object]
    ) -> None:
        make_once(self.copy(suffix), functools.partial(write, self))


def bench_table(name: str, folder: Path = CACHE, *, quick: bool = False) -> BenchTable:
    """Return a table, made now if the folder does not have it."""
    from harness.recipes import RECIPES

    recipe = RECIPES[name]
    return table_of(recipe, folder, recipe.num_rows // (QUICK if quick else 1))


def table_of(recipe: Recipe, folder: Path, num_rows: int) -> BenchTable:
    home = folder / f"{recipe.name}-{num_rows}-{recipe.fingerprint}"
    make_once(home, functools.partial(write, recipe, num_rows))
    return BenchTable(
        recipe.name,
        recipe.what,
        home,
        num_rows,
        recipe.batch_size,
        recipe.large_batch_size,
    )


def make_once(home: Path, make: Callable[[Path], object]) -> None:
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
    import pyarrow as pa

    from harness.recipes import batches

    schema = next(batches(recipe, 1)).schema
    with tqdm(total=num_rows, desc=f"making {recipe.name}", unit=" rows") as bar:

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in batches(recipe, num_rows):
                yield batch
                bar.update(batch.num_rows)

        reader = pa.RecordBatchReader.from_batches(schema, watched())
        lancedb.connect(home).create_table(recipe.name, reader)


def cached_pages(path: Path) -> tuple[int, int]:
    """Return how many pages of a file are in memory, and how many there are."""
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
