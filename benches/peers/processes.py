"""Our loaders by the process that makes batches: this one, a helper, or workers of a DataLoader.

Beside them, tensors in memory that workers of torch's DataLoader select rows of.

Worker processes import this file, so it imports little.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from peers import loader

if TYPE_CHECKING:
    from harness.tables import BenchTable

Batches = Iterator[Any]


def work(batch: Any, seconds: float) -> Any:
    """Compute for some time in Python, which holds the GIL."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return batch


def options_of(format: str, work_s: float) -> dict[str, Any]:  # noqa: A002
    """Return the options of a loader that never ends."""
    options: dict[str, Any] = {"format": format, "epochs": None}
    if work_s:
        options["transform"] = functools.partial(work, seconds=work_s)
    return options


def in_loader(
    table: BenchTable, seed: int, *, format: str, in_process: bool, work_s: float = 0  # noqa: A002
) -> Batches:  # fmt: skip
    """Return batches of threads of this process, or of a helper process."""
    options = options_of(format, work_s)
    return iter(loader.loader(table, seed, in_process=in_process, **options))


def in_workers(
    table: BenchTable, seed: int, *, library: str, format: str, num_workers: int,  # noqa: A002
    work_s: float = 0,
) -> Batches:  # fmt: skip
    """Return batches of our DataLoader, or of torch's over our loader."""
    from lanceloader.torch import DataLoader as OwnLoader
    from torch.utils.data import DataLoader

    found = loader.loader(table, seed, **options_of(format, work_s))
    workers: dict[str, Any] = {"num_workers": num_workers}
    if num_workers:
        workers["multiprocessing_context"] = "fork"
    if library == "torch":
        return iter(DataLoader(found, batch_size=None, **workers))
    return iter(OwnLoader(found, **workers))


class TensorRows:
    """A dataset of tensors in memory, whose batches of rows are selected at once."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        import torch

        rows = torch.tensor(indices)
        return {
            name: column.index_select(0, rows) for name, column in self.tensors.items()
        }


def of_tensors(table: BenchTable, seed: int, *, num_workers: int) -> Batches:
    """Return batches of tensors in memory, which forked workers of torch's DataLoader select."""
    from peers.memory import tensors
    from peers.torch_loop import batches_of

    rows = TensorRows(tensors(table))
    return batches_of(rows, table, seed, num_workers=num_workers, context="fork")
