"""What tests of loaders share: tables worth keeping, and what a process is doing."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

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


def threads() -> list[str]:
    """The threads that work for a reader or a loader; those of the runtime stay."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found.append((task / "comm").read_text().strip())
        except OSError:
            continue
    return [
        name
        for name in found
        if name.startswith("lanceloader-") and name != "lanceloader-io"
    ]


def soon(condition, limit_s: float = 20) -> bool:
    """Whether something becomes true. The limit says "does not hang", never "is fast"."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        # Asked once a turn: a thread that starts has its name a moment later.
        if condition():
            return True
        time.sleep(0.005)
    return False


def settle() -> None:
    """Wait until nothing is open any more, as in a process that has just started."""
    gc.collect()
    assert soon(lambda: not threads()), threads()


def files(folder, suffix: str = "rows") -> list[Path]:
    """The files of a cache folder, by path."""
    return sorted(Path(folder).rglob(f"*.{suffix}"))


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
