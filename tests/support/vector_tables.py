"""Tables of vectors large enough for files of packed rows, and reads of them."""

from __future__ import annotations

import os

import lance
import numpy as np
import pyarrow as pa

STRATEGIES = ["direct", "resident", "external", "auto"]

# Less than 8 MiB of packed rows is kept in memory only.
ROWS_WORTH_A_FILE = 50_000
ROWS_OF_FIVE_BLOCKS = 160_000


def vectors(num_rows: int, *, seed: int = 0, dim: int = 60) -> pa.Table:
    """Rows of some 250 bytes: an id, a number, a vector, all of which follow from each other."""
    values = np.random.default_rng(seed).random(num_rows * dim, dtype=np.float32)
    ids = np.arange(num_rows)
    return pa.table(
        {
            "id": ids,
            "square": ids * ids + seed,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(values), dim),
        }
    )


def large(path, num_rows: int = ROWS_WORTH_A_FILE, *, seed: int = 0, **options):
    """A dataset whose packed rows are worth files."""
    return lance.write_dataset(vectors(num_rows, seed=seed), path, **options)


def table_of(loader) -> pa.Table:
    """All batches of a loader of Arrow data, end to end."""
    return pa.Table.from_batches(loader, schema=loader.permutation.schema)


class Watched:
    """A dataset that says of each batch which process read it, and what that process packed."""

    def __init__(self, perm) -> None:
        self.perm = perm.with_format("arrow")

    def __len__(self) -> int:
        return len(self.perm)

    def __getitems__(self, places) -> tuple[list[int], int, int, int]:
        batch = self.perm.take_offsets(places)
        ids, squares = batch["id"].to_numpy(), batch["square"].to_numpy()
        if not (squares == ids**2).all():
            raise AssertionError(ids)
        stats = self.perm.reader.stats()
        return ids.tolist(), os.getpid(), stats.blocks_filled, stats.blocks_mapped
