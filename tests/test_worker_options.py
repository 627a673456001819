"""Options of torch's ``DataLoader`` that concern workers, of our two loaders with them."""

from __future__ import annotations

import multiprocessing
import os

import lance
import lanceloader as ll
import pytest
import tables
import torch
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from lanceloader.torch import DataLoader
from process_state import soon
from torch.utils.data import get_worker_info

pytestmark = pytest.mark.filterwarnings(
    # That there are more workers than cores.
    "ignore:This DataLoader will create:UserWarning",
    "ignore:.*pin_memory.*:UserWarning",
)
ROWS, BATCH, WORKERS = 40, 10, 2
KINDS = ["own", "streaming"]
CONTEXT = multiprocessing.get_context("fork")

initialised: list[int] = []
"""What ``remember`` was called with in this process."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("options") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), found)
    return str(found)


def loader_of(kind, path, transform, **options):
    options = {
        "batch_size": BATCH,
        "num_workers": WORKERS,
        "multiprocessing_context": CONTEXT,
        "timeout": 100,
        **options,
    }
    if kind == "own":
        perm = ll.open(path).select_columns(["id"]).with_format("arrow")
        return DataLoader(perm, transform=transform, **options)
    dataset = StreamingDataset(
        path, num_splits=2, shuffle=False, columns=["id"],
        read_batch_size=BATCH, transform=transform,
    )  # fmt: skip
    return StreamingDataLoader(dataset, **{"collate_fn": as_it_is, **options})


def as_it_is(rows):
    return rows


def remember(worker):
    initialised.append(worker)


def who(batch):
    """Return of each row what the transform knows about its worker."""
    info = get_worker_info()
    seen = {
        "pid": os.getpid(),
        "id": info.id,
        "num_workers": info.num_workers,
        "seed": info.seed,
        "has_dataset": info.dataset is not None,
        "initialised": list(initialised),
    }
    return [seen] * batch.num_rows


def seen_by(loader):
    """Return what was seen by each worker."""
    found = {}
    for batch in loader:
        for seen in batch:
            assert found.setdefault(seen["id"], seen) == seen
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_workers_are_those_of_torch(path, kind):
    found = seen_by(loader_of(kind, path, who, worker_init_fn=remember))
    assert sorted(found) == list(range(WORKERS))
    pids = {seen["pid"] for seen in found.values()}
    assert len(pids) == WORKERS
    assert os.getpid() not in pids
    for number, seen in found.items():
        # Once, and before the transform is called.
        assert seen["initialised"] == [number]
        assert seen["num_workers"] == WORKERS
        assert seen["has_dataset"]
    assert initialised == []


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_workers(path, kind):
    def seeds(seed):
        generator = torch.Generator().manual_seed(seed)
        found = seen_by(loader_of(kind, path, who, generator=generator))
        return [found[number]["seed"] for number in range(WORKERS)]

    first = seeds(5)
    # As in torch: one number is drawn, to which each worker adds its own.
    assert first == [first[0], first[0] + 1]
    assert seeds(5) == first
    assert seeds(6) != first


class Waits:
    """A transform that does not return before it may. Its process may be killed meanwhile."""

    def __init__(self):
        self.read, self.write = os.pipe()

    def __call__(self, batch):
        os.read(self.read, 1)
        return batch["id"].to_pylist()

    def end(self):
        os.write(self.write, b"1" * ROWS)
        os.close(self.read)
        os.close(self.write)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_takes_too_long(path, kind):
    waits = Waits()
    batches = iter(loader_of(kind, path, waits, num_workers=1, timeout=0.1))
    try:
        with pytest.raises(RuntimeError, match=r"timed out after 0\.1 seconds"):
            next(batches)
    finally:
        waits.end()
    del batches
    assert soon(lambda: not multiprocessing.active_children(), 60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1, 4])
def test_batches_are_the_same_however_many_are_ahead(path, kind, factor):
    loader = loader_of(kind, path, ids_of, prefetch_factor=factor)
    assert loader.prefetch_factor == factor
    assert sorted(row for batch in loader for row in batch) == list(range(ROWS))


def ids_of(batch):
    return batch["id"].to_pylist()


class Counts:
    """A transform that counts its calls in all processes."""

    def __init__(self):
        self.calls = CONTEXT.Value("i", 0)

    def __call__(self, batch):
        with self.calls:
            self.calls.value += 1
        return batch["id"].to_pylist()


@pytest.mark.parametrize("factor", [1, 2])
def test_no_more_batches_are_made_ahead_than_asked_for(path, factor):
    counts = Counts()
    options = {"batch_size": 2, "prefetch_factor": factor}
    for number, _ in enumerate(loader_of("own", path, counts, **options), 1):
        ahead = factor * WORKERS
        assert number <= counts.calls.value <= number + ahead


def test_workers_that_stay(path):
    loader = loader_of(
        "own", path, who, worker_init_fn=remember, persistent_workers=True
    )
    assert seen_by(loader) == seen_by(loader)


def columns(batch):
    return {"id": torch.tensor(batch["id"].to_pylist())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, WORKERS])
def test_pinned_batches(path, kind, num_workers):
    options = {"pin_memory": True, "num_workers": num_workers}
    if num_workers == 0:
        options |= {"multiprocessing_context": None, "timeout": 0}
    if kind == "streaming":
        options["collate_fn"] = None
    loader = loader_of(kind, path, columns, **options)
    batches = list(loader)
    # Without an accelerator there is nothing to pin for.
    is_pinned = torch.accelerator.is_available()
    assert all(batch["id"].is_pinned() == is_pinned for batch in batches)
    assert sorted(torch.cat([batch["id"] for batch in batches]).tolist()) == list(
        range(ROWS)
    )
    if kind == "streaming":
        state = loader.dataset.state_dict()
        assert state["samples_consumed_per_split"] == [ROWS // 2] * 2
