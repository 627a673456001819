"""What tests have made in a helper process, which imports this module."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from lanceloader.helper.client import iterate_in_helper


class Counted:
    """Numbers, and how many there were."""

    def __init__(self, num_items):
        self.num_items = num_items
        self.num_made = 0

    def __call__(self):
        for number in range(self.num_items):
            self.num_made += 1
            yield {"x": np.full(1000, number), "number": number}

    def statistics(self):
        return {"made": self.num_made, "pid": os.getpid()}


class Raises:
    def __init__(self, kind, *arguments, at=2):
        self.kind = kind
        self.arguments = arguments
        self.at = at

    def __call__(self):
        if self.at is None:
            raise self.kind(*self.arguments)
        yield from range(self.at)
        raise self.kind(*self.arguments)


class OddError(Exception):
    """Cannot be made again of its arguments."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def values():
    """One of everything."""
    whole = torch.arange(24, dtype=torch.float32)
    big = torch.arange(1000)
    yield {
        "columns": dict(zip("abc", whole.view(3, 8).unbind(0), strict=True)),
        "few of many": big[5:7],
        "turned": torch.arange(6).view(2, 3).T,
        "bfloat": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(7),
        "grad": torch.ones(2, requires_grad=True),
        "sparse": torch.eye(2).to_sparse(),
        "numpy": np.arange(6).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "strided": np.arange(10)[::3],
        "no numbers": np.empty((0, 3)),
        "times": np.array(["2024-01-01"], "datetime64[s]"),
        "batch": pa.record_batch({"x": [1, None, 3], "t": ["a", "b", None]}).slice(1),
        "text": ["a" * size for size in (0, 10, 100_000)],
        "bytes": [b"a" * size for size in (0, 10, 100_000, 3_000_000)],
        "many": [np.full(2, number) for number in range(2500)],
        "plain": (1, None, {"x": 2.5}),
    }


SPARSE = ["coo", "csr", "csc", "bsr", "bsc"]


def sparse(layout):
    """Sparse tensors, large enough to be views of shared memory."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        dense = torch.rand(64, 64, generator=rng)
        whole = torch.where(dense < 0.5, 0, dense).to_sparse()
        # Not coalesced, as some elements are there twice.
        doubled = torch.sparse_coo_tensor(
            torch.cat([whole.indices()] * 2, 1),
            torch.cat([whole.values()] * 2),
            whole.shape,
            check_invariants=True,
        )
        block = (4, 8) if layout.startswith("b") else None
        kind = getattr(torch, f"sparse_{layout}")
        yield (
            doubled
            if layout == "coo"
            else dense.to_sparse(layout=kind, blocksize=block)
        )


def forever(size=10):
    for number in itertools.count():
        yield np.full(size, number)


def lambdas():
    yield 1
    yield lambda: 1


def killed():
    yield from range(3)
    os.kill(os.getpid(), signal.SIGKILL)
    yield 3


def exits():
    yield 0
    os._exit(7)


def exits_as_one_that_raises():
    yield 1
    os._exit(1)


def killed_with_children():
    # Processes that keep open whatever they inherit.
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = subprocess.Popen(
        program, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    yield [started.pid, child]
    os.kill(os.getpid(), signal.SIGKILL)
    yield 1


def stuck():
    yield 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(1000)


def sleeps():
    yield os.getpid()
    time.sleep(1000)


def hangs_at_once():
    time.sleep(1000)
    yield 0


class Marks:
    """Writes down that it ended in order."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        try:
            yield os.getpid()
            threading.Event().wait()
        finally:
            Path(self.path).write_text("closed")


def varied(num_items=60):
    """Items of very different sizes."""
    for number in range(num_items):
        yield np.full((number * 7919) % 50_000, number)


def begins():
    iterate_in_helper(killed)


def told(function):
    """What a function raises."""
    try:
        function()
    except RuntimeError as error:
        yield str(error)


def doubled(batch):
    """Twice every column of a dict."""
    return {name: column * 2 for name, column in batch.items()}


def paired(batch):
    """A batch and its number of rows."""
    return batch, len(next(iter(batch.values())))


def refuses(batch):
    """Raise, whatever the batch."""
    raise ValueError("no batch is good enough")


UNLUCKY = 13


class BadRowError(Exception):
    pass


def unlucky(batch):
    rows = batch["id"].to_pylist()
    if UNLUCKY in rows:
        raise BadRowError("bad")
    return rows


class Keyed:
    """Draws by the row and the epoch."""

    epoch = 0

    def __call__(self, batch):
        return {
            row: np.random.default_rng([7, self.epoch, row]).random()
            for row in batch["_rowid"].tolist()
        }


def drawn_by_row(batch, rng):
    """Draw several numbers for each row, and return them with the row."""
    numbers = rng.per_row.random(), *rng.per_row.integers(3, 1003, size=2).T
    others = rng.named("other").per_row.random(), [each.random() for each in rng.rows]
    columns = [batch["x"], *numbers, *others]
    return list(zip(*(np.asarray(column).tolist() for column in columns), strict=True))
