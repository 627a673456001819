"""The tables that the benches read: seeded, made once, and kept in a cache folder.

Run it by itself to make them ahead of a bench.
"""

from __future__ import annotations

import argparse
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

SEED = 20130101
CACHE = Path.home() / ".cache" / "lanceloader" / "bench"
QUICK = 20
"""``--quick`` divides the rows by this."""

DIM = 768
NUM_FEATURES = 16
NUM_LABELS = 10
TEXT_BYTES = (100, 2000)
IMAGE_BYTES = (20_000, 100_000)

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class Recipe:
    """A table to make: ``make(rng, count)`` gives the columns of a run of rows."""

    name: str
    what: str
    num_rows: int
    batch_size: int
    """Rows of a batch in the benches."""
    rows_at_once: int
    """Rows made and written at a time, which bounds memory."""
    make: Callable[[np.random.Generator, int], Columns]


@dataclass(frozen=True)
class BenchTable:
    """A table on disk."""

    name: str
    what: str
    folder: Path
    """The LanceDB database that holds it."""
    num_rows: int
    batch_size: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.lance"

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files())

    def files(self) -> list[Path]:
        return sorted(file for file in self.path.rglob("*") if file.is_file())

    def warm(self) -> None:
        """Read every file once, so that the operating system has it in memory."""
        for file in self.files():
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


def features(rng: np.random.Generator, count: int) -> Columns:
    columns = {
        f"f{at}": pa.array(rng.random(count, dtype=np.float32))
        for at in range(NUM_FEATURES)
    }
    return columns | labels(rng, count)


def vectors(rng: np.random.Generator, count: int) -> Columns:
    values = rng.standard_normal(count * DIM, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), DIM)
    return {"vector": column} | labels(rng, count)


def texts(rng: np.random.Generator, count: int) -> Columns:
    """Crops of one long text, many short and few long ones."""
    low, high = np.log(TEXT_BYTES)
    lengths = np.exp(rng.uniform(low, high, count)).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    words, odds = vocabulary()
    # Even if every word were as short as a word can be, this is long enough.
    picks = rng.choice(words, int(ends[-1]) // 3 + 1, p=odds)
    text = " ".join(picks.tolist()).encode()[: ends[-1]]
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(text)]
    return {"text": pa.Array.from_buffers(pa.string(), count, buffers)}


@functools.cache
def vocabulary(size: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Words of 2 to 10 letters, and how often each comes: Zipf's law."""
    rng = np.random.default_rng(SEED)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    words = ["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(size)]
    odds = 1 / np.arange(1, size + 1)
    return np.array(words), odds / odds.sum()


def images(rng: np.random.Generator, count: int) -> Columns:
    """Bytes as random as those of a compressed image."""
    sizes = rng.integers(*IMAGE_BYTES, count)
    blobs = [rng.bytes(int(size)) for size in sizes]
    return {"image": pa.array(blobs, pa.large_binary())} | labels(rng, count)


def labels(rng: np.random.Generator, count: int) -> Columns:
    return {"label": pa.array(rng.integers(0, NUM_LABELS, count))}


RECIPES = {
    recipe.name: recipe
    for recipe in [
        Recipe(
            "narrow",
            "int64 id, 16 float32, int64 label",
            5_000_000,
            1024,
            250_000,
            features,
        ),
        Recipe(
            "embeddings",
            "int64 id, float32[768], int64 label",
            200_000,
            256,
            10_000,
            vectors,
        ),
        Recipe(
            "text",
            "int64 id, text of 100 to 2,000 bytes",
            500_000,
            1024,
            10_000,
            texts,
        ),
        Recipe(
            "image",
            "int64 id, 20 to 100 KB as large_binary, int64 label",
            20_000,
            256,
            500,
            images,
        ),
    ]
}


def bench_table(name: str, folder: Path = CACHE, *, quick: bool = False) -> BenchTable:
    """Give a table, made now if the folder does not have it."""
    recipe = RECIPES[name]
    num_rows = recipe.num_rows // (QUICK if quick else 1)
    home = folder / f"{name}-{num_rows}-seed{SEED}"
    if not home.exists():
        # Renamed when whole, so that a bench cut short leaves nothing that looks finished.
        partial = folder / f"{home.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write(recipe, num_rows, partial)
        partial.rename(home)
    return BenchTable(name, recipe.what, home, num_rows, recipe.batch_size)


def write(recipe: Recipe, num_rows: int, home: Path) -> None:
    schema = next(batches(recipe, 1)).schema
    with tqdm(total=num_rows, desc=f"making {recipe.name}", unit=" rows") as bar:

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in batches(recipe, num_rows):
                yield batch
                bar.update(batch.num_rows)

        reader = pa.RecordBatchReader.from_batches(schema, watched())
        lancedb.connect(home).create_table(recipe.name, reader)


def batches(recipe: Recipe, num_rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, num_rows, recipe.rows_at_once):
        count = min(recipe.rows_at_once, num_rows - start)
        # Each run has a generator of its own: the rows do not depend on those before.
        rng = np.random.default_rng([SEED, start])
        ids = pa.array(np.arange(start, start + count))
        yield pa.RecordBatch.from_pydict({"id": ids} | recipe.make(rng, count))


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
