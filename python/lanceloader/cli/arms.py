"""The ways of reading that ``bench`` compares, as endless runs of batches."""

from __future__ import annotations

import importlib.util
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import lanceloader as ll
    from lanceloader.cli.addresses import Address

__all__ = ["LOADER", "Arm", "Race", "arms"]

LOADER = "loader()"
LANCEDB = "lancedb's Permutation"

# The formats of lancedb's own permutations.
_FORMATS_OF_LANCEDB = (
    *("arrow", "numpy", "pandas", "polars", "python", "python_col"),
    *("torch", "torch_col", "torch_row"),
)
_FEW_ROWS = 16
_SECONDS_OF_A_BATCH = 0.2


@dataclass(frozen=True)
class Race:
    """What all arms read."""

    perm: ll.Permutation
    address: Address
    batch_size: int
    format: str
    workers: int


@dataclass
class Arm:
    """A way of reading.

    Attributes:
        name: Its name; opening may add to it.
        open: Imports what it needs, and returns an iterator over the number of rows of each batch.
        is_packing: Whether rows are still being packed in the background.
    """

    name: str
    open: Callable[[Arm], Generator[int]]
    is_packing: Callable[[], bool] = lambda: False


def arms(race: Race) -> tuple[list[Arm], dict[str, str]]:
    """Return the arms, fast ones first, and for each arm left out the reason."""
    found = [Arm(LOADER, lambda arm: through_loader(race, arm))]
    absent = {}
    name = "DataLoader"
    if race.workers:
        word = "worker" if race.workers == 1 else "workers"
        name += f", {race.workers:,} {word}"
    if is_installed("torch"):
        found.append(Arm(name, lambda _: through_data_loader(race)))
    else:
        absent[name] = needs("torch")
    if is_installed("lance") and isinstance(race.address.target(), str):
        found.append(Arm("scan in order, by pylance", lambda _: scan(race)))
    else:
        found.append(Arm("scan in order", lambda _: in_order(race)))
    reason = why_not_lancedb(race)
    if reason is None:
        found.append(Arm(LANCEDB, lambda arm: through_lancedb(race, arm)))
    else:
        absent[LANCEDB] = reason
    return found, absent


def through_loader(race: Race, arm: Arm) -> Generator[int]:
    """Read with ``loader()``, shuffled."""
    loader = race.perm.loader(race.batch_size, drop_last=True, shuffle=True, seed=0)
    lines = race.perm.shuffle(seed=0).explain().splitlines()
    if any(line.split()[:2] == ["read", "resident,"] for line in lines):
        arm.is_packing = lambda: (
            not (loader.stats().fill_seconds or loader.stats().failure)
        )

    def batches() -> Generator[int]:
        for epoch in itertools.count():
            for _ in loader.set_epoch(epoch):
                yield race.batch_size

    return batches()


def through_data_loader(race: Race) -> Generator[int]:
    """Read with torch's ``DataLoader``, shuffled."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        race.perm,  # type: ignore[arg-type]
        race.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=race.workers,
        persistent_workers=race.workers > 0,
        collate_fn=None if race.format.startswith("torch") else as_it_is,
    )

    def batches() -> Generator[int]:
        while True:
            for _ in loader:
                yield race.batch_size

    return batches()


def through_lancedb(race: Race, arm: Arm) -> Generator[int]:
    """Read with lancedb's own permutation, shuffled, through ``__getitems__`` as ``DataLoader`` does."""
    import lancedb
    import numpy as np
    from lancedb.permutation import Permutation

    address = race.address
    folder, _, name = str(address.target()).rstrip("/").rpartition("/")
    options = address.storage_options or None
    database = lancedb.connect(folder or ".", storage_options=options)
    table = database.open_table(name.removesuffix(".lance"))
    if race.perm.version is not None:
        table.checkout(race.perm.version)
    perm: Any = Permutation.identity(table).select_columns(race.perm.column_names)
    if race.format in _FORMATS_OF_LANCEDB:
        perm = perm.with_format(race.format)
    else:
        perm = perm.with_format("arrow")
        arm.name += ", as Arrow data"
    random = np.random.default_rng(0)
    rows = fitting(perm, race.batch_size, random.permutation(len(perm)).tolist())
    if rows < race.batch_size:
        arm.name += f", batches of {rows:,}"

    def batches() -> Generator[int]:
        while True:
            order = random.permutation(len(perm))
            for start in range(0, len(order) - rows + 1, rows):
                perm.__getitems__(order[start : start + rows].tolist())
                yield rows

    return batches()


def fitting(perm: Any, batch_size: int, order: list[int]) -> int:
    """Return the largest batch size whose batches do not take seconds, estimated from a few rows."""
    few = min(_FEW_ROWS, batch_size)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        perm.__getitems__(order[:few])
        seconds.append(time.perf_counter() - start)
    most = int(few * _SECONDS_OF_A_BATCH / max(min(seconds), 1e-9))
    return max(few, min(most, batch_size))


def scan(race: Race) -> Generator[int]:
    """Read with pylance, in order."""
    import lance

    address = race.address
    dataset = lance.dataset(
        address.target(), storage_options=address.storage_options or None
    )
    dataset = dataset.checkout_version(
        address.tag or (address.branch, race.perm.version)
    )
    names = race.perm.column_names

    def batches() -> Generator[int]:
        while True:
            for batch in dataset.to_batches(columns=names, batch_size=race.batch_size):
                yield batch.num_rows

    return batches()


def in_order(race: Race) -> Generator[int]:
    """Read with ``iter``, in order."""
    perm = race.perm.with_format("arrow")

    def batches() -> Generator[int]:
        while True:
            for batch in perm.iter(race.batch_size):
                yield batch.num_rows

    return batches()


def why_not_lancedb(race: Race) -> str | None:
    """Return why lancedb's permutation is not compared, or ``None`` if it is."""
    if not is_installed("lancedb"):
        return needs("lancedb")
    target = race.address.target()
    if not isinstance(target, str):
        return "the table is on a server"
    if not target.rstrip("/").endswith(".lance"):
        return "the name of the table does not end in .lance"
    if race.address.branch or race.address.tag:
        return "a branch or tag was passed"
    return None


def is_installed(library: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def needs(library: str) -> str:
    """Return the command that installs a library."""
    return f'{library} is not installed: pip install "lanceloader[{library}]"'


def as_it_is(batch: Any) -> Any:
    """Return a batch unchanged. A module-level function, as workers import it by name."""
    return batch
