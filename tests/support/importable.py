"""What tests send to other processes: functions and classes that are imported there by name."""

from __future__ import annotations

import itertools
import os
import sys
import threading

import numpy as np

LIBRARIES = ("lancedb", "lance", "torch", "pandas", "polars")


def ids(batch) -> list[int]:
    """A transform: the ids of a batch."""
    return batch["id"].to_pylist()


def holding_the_lock(batch) -> list[int]:
    """A transform: ids, with the lock of the event of workers held between every other two batches."""
    from lanceloader.transport.workers import arguments_of_worker

    condition = arguments_of_worker()["done_event"]._cond
    found = ids(batch)
    if found[0] // len(found) % 2 == 0:
        condition.acquire()
    else:
        condition.release()
    return found


def loaded(batch) -> list[str]:
    """A transform: the libraries that this process has imported, once per row."""
    return [",".join(name for name in LIBRARIES if name in sys.modules)] * len(batch)


def pids(batch) -> list[int]:
    """A transform: the process that reads, once per row."""
    return [os.getpid()] * len(batch)


def plus(batch, number: int) -> list[int]:
    """A transform with an argument, for partials."""
    return [value + number for value in ids(batch)]


class Doubled:
    """A transform that is an instance."""

    def __call__(self, batch) -> list[int]:
        return [value * 2 for value in ids(batch)]


OPENED: list[str] = []
"""What the factories of this process were asked for."""


def open_in(folder: str, name: str):
    """A connection factory, for partials."""
    import lancedb

    OPENED.append(name)
    return lancedb.connect(folder).open_table(name)


def open_from_environment(name: str):
    """A connection factory: the database that the environment names."""
    return open_in(os.environ["LANCELOADER_TEST_DB"], name)


def as_it_is(batch):
    """A collate function."""
    return batch


class Opener:
    """A connection factory that is an instance."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str):
        return open_in(self.folder, name)


def rows_of(perm) -> list[int]:
    """All ids of a permutation, by iteration and by position."""
    in_order = [row["id"] for batch in perm.iter(7) for row in batch]
    by_position = [row["id"] for row in perm.take_offsets(range(len(perm)))]
    if in_order != by_position:
        raise AssertionError((in_order, by_position))
    return in_order


def row_at(perm_and_position) -> int:
    """One id, for ``Pool.map``."""
    perm, position = perm_and_position
    return perm.row(position)["id"]


def options_of(perm, queue) -> None:
    """Put the storage options that reached this process into a queue."""
    queue.put(perm.source.storage_options)


def listed(batch, **options) -> dict[str, list]:
    """A ``to_tensor_fn`` of ``lance.torch``: lists of Python objects."""
    return batch.to_pydict()


def listed_rows(rows):
    """A ``collate_fn``: the rows themselves, in a plain list."""
    return [dict(row) for row in rows]


def bars_wanted(batch) -> bool:
    """A transform: whether this process shows bars that are asked for."""
    from lanceloader.monitor.progress import is_wanted

    del batch
    return is_wanted(progress=True)


def with_lock(batch) -> dict:
    """A transform whose results cannot be pickled."""
    return {"rows": len(batch), "lock": threading.Lock()}


def ids_and_pid(batch):
    """A transform: the ids of a batch, and the process that reads."""
    return ids(batch), os.getpid()


def wide_with_pid(batch):
    """A transform: more bytes than a batch that is copied at once, and the process that reads."""
    numbers = batch["id"].to_numpy()
    return {"wide": np.outer(numbers, np.ones(64)), "pid": [os.getpid()] * len(batch)}


class Shifted:
    """A transform with an array that its owner may change."""

    def __init__(self) -> None:
        self.by = np.zeros(1, np.int64)

    def __call__(self, batch):
        return batch["id"].to_numpy() + self.by, os.getpid()


def refuses_unless(batch, path):
    """A transform that raises until there is a file."""
    if not path.exists():
        raise ValueError("not there")
    return ids_and_pid(batch)


def hangs_later_unless(batch, path):
    """A transform that does not end from the second batch on, unless there is a file."""
    if not path.exists() and next(CALLS):
        path.with_suffix(".hangs").touch()
        threading.Event().wait()
    return ids_and_pid(batch)


CALLS = itertools.count()


def imported(batch) -> list[str]:
    """A transform: all modules that this process has imported, once per row."""
    return [",".join(sys.modules)] * len(batch)
