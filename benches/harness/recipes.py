"""What the tables of the benches hold: seeded columns, a run of rows at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SEED = 20130101

DIM = 768
NUM_FEATURES = 16
NUM_WIDE_FEATURES = 64
NUM_MIXED_COLUMNS = 24
NUM_LABELS = 10
VOCABULARY = 50_000
TEXT_CHARS = (50, 500)
NUM_TOKENS = (100, 2000)
IMAGE_BYTES = (40_000, 160_000)

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class Recipe:
    """A table to make: ``make(rng, count)`` gives the columns of a run of rows."""

    name: str
    what: str
    num_rows: int
    batch_size: int
    """Rows of a batch where rows are shuffled."""
    large_batch_size: int
    """Rows of a batch where they are read in order."""
    rows_at_once: int
    """Rows made and written at a time, which bounds memory."""
    make: Callable[[np.random.Generator, int], Columns]

    @property
    def fingerprint(self) -> str:
        """Names what a table holds, so that one of an earlier recipe is not taken for it."""
        found = 7
        for byte in f"{SEED} {self.what}".encode():
            found = (found * 31 + byte) % 2**32
        return format(found, "08x")


def features(
    rng: np.random.Generator, count: int, num_features: int = NUM_FEATURES
) -> Columns:
    columns = {
        f"f{at}": pa.array(rng.random(count, dtype=np.float32))
        for at in range(num_features)
    }
    return columns | labels(rng, count)


def vectors(rng: np.random.Generator, count: int) -> Columns:
    values = rng.standard_normal(count * DIM, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), DIM)
    return {"vector": column} | labels(rng, count)


def texts(rng: np.random.Generator, count: int) -> Columns:
    """Crops of one long text, many short and few long ones."""
    low, high = np.log(TEXT_CHARS)
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


def tokens(rng: np.random.Generator, count: int) -> Columns:
    return {"tokens": lists(rng, count, *NUM_TOKENS, VOCABULARY)}


def lists(
    rng: np.random.Generator, count: int, shortest: int, longest: int, below: int
) -> pa.ListArray:
    lengths = rng.integers(shortest, longest + 1, count)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = rng.integers(0, below, int(ends[-1]), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


def images(rng: np.random.Generator, count: int) -> Columns:
    """Bytes as random as those of a compressed image."""
    sizes = rng.integers(*IMAGE_BYTES, count)
    blobs = [rng.bytes(int(size)) for size in sizes]
    return {"image": pa.array(blobs, pa.large_binary())} | labels(rng, count)


def labels(rng: np.random.Generator, count: int) -> Columns:
    return {"label": pa.array(rng.integers(0, NUM_LABELS, count))}


def mixed(rng: np.random.Generator, count: int) -> Columns:
    """Columns of types and shares of nulls that were drawn once."""
    return {
        name: make(rng, count, share_of_nulls)
        for name, make, share_of_nulls in mixed_columns()
    }


@functools.cache
def mixed_columns() -> list[tuple[str, Callable[..., pa.Array], float]]:
    rng = np.random.default_rng(SEED)
    kinds = [*FIXED, "bool", "text", "bytes", "vector", "list"]
    # Each kind once, and then by chance.
    drawn = [*kinds, *rng.choice(kinds, NUM_MIXED_COLUMNS - len(kinds))]
    return [
        (
            f"{kind}_{at}",
            functools.partial(mixed_column, str(kind)),
            float(rng.choice([0.0, 0.1, 0.5])),
        )
        for at, kind in enumerate(drawn)
    ]


FIXED = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint32": pa.uint32(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
}


def mixed_column(
    kind: str, rng: np.random.Generator, count: int, share_of_nulls: float
) -> pa.Array:
    nulls = rng.random(count) < share_of_nulls
    mask = pa.array(nulls) if share_of_nulls else None
    numbers = rng.integers(0, 100, count)
    if kind in FIXED:
        dtype = FIXED[kind]
        if pa.types.is_floating(dtype):
            return pa.array(
                rng.random(count).astype(dtype.to_pandas_dtype()), mask=nulls
            )
        narrow = pa.int32() if dtype.bit_width == 32 else pa.int64()
        values = pa.array(numbers, mask=nulls)
        return values if kind == "int64" else values.cast(narrow).cast(dtype)
    if kind == "bool":
        return pa.array(numbers < 50, mask=nulls)
    if kind == "list":
        ends = lists(rng, count, 0, 8, 100)
        return pa.ListArray.from_arrays(ends.offsets, ends.values, mask=mask)
    if kind == "vector":
        values = pa.array(rng.random(count * 8, dtype=np.float32))
        return pa.FixedSizeListArray.from_arrays(values, 8, mask=mask)
    words, _ = vocabulary()
    text = pa.array(words[rng.integers(0, len(words), count)], mask=nulls)
    return text.cast(pa.binary()) if kind == "bytes" else text


WIDE = functools.partial(features, num_features=NUM_WIDE_FEATURES)
MIXED = f"int64 id, {NUM_MIXED_COLUMNS} columns of {len(FIXED) + 5} types, with nulls"
# fmt: off
ALL = [
    Recipe("narrow", "int64 id, 16 float32, int64 label", 5_000_000, 1024, 65_536, 250_000, features),
    Recipe("embeddings", "int64 id, float32[768], int64 label", 200_000, 256, 4096, 10_000, vectors),
    Recipe("text", "int64 id, text of 50 to 500 characters", 500_000, 1024, 16_384, 20_000, texts),
    Recipe("tokens", "int64 id, list of 100 to 2,000 int32", 40_000, 64, 2048, 5_000, tokens),
    Recipe("image", "int64 id, 40 to 160 KB as large_binary, int64 label", 8_000, 256, 256, 500, images),
    Recipe("mixed", MIXED, 500_000, 1024, 16_384, 50_000, mixed),
    Recipe("wide", "int64 id, 64 float32, int64 label", 1_000_000, 1024, 65_536, 50_000, WIDE),
]
# fmt: on
RECIPES = {recipe.name: recipe for recipe in ALL}


def batches(recipe: Recipe, num_rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, num_rows, recipe.rows_at_once):
        count = min(recipe.rows_at_once, num_rows - start)
        # Each run has a generator of its own: the rows do not depend on those before.
        rng = np.random.default_rng([SEED, start])
        ids = pa.array(np.arange(start, start + count))
        yield pa.RecordBatch.from_pydict({"id": ids} | recipe.make(rng, count))
