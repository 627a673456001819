"""Random transforms are repeatable in the ways that the guide describes."""

from __future__ import annotations

import itertools
import random

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.torch import DataLoader
from producers import Keyed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
ROWS = 200


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "t.lance"
    lance.write_dataset(pa.table({"x": range(ROWS)}), path, max_rows_per_file=70)
    perm = ll.open(path, columns=["x", "_rowid"], format="numpy_dict")
    return perm.shuffle(seed=3)


def drawn(loader):
    return [pair for batch in loader for pair in batch.items()]


def of_epoch(perm, epoch, size=8, **options):
    keyed = Keyed()
    loader = perm.loader(size, transform=keyed, **options)
    keyed.epoch = epoch
    return drawn(loader.set_epoch(epoch))


def test_a_generator_of_row_and_epoch_in_any_number_of_threads(perm):
    wanted = of_epoch(perm, 1, transform_threads=0)
    assert len(dict(wanted)) == ROWS
    for threads, size in itertools.product([1, 3], [1, 8, 64]):
        assert of_epoch(perm, 1, size, transform_threads=threads) == wanted
    ranks = [of_epoch(perm, 1, rank=rank, world_size=2) for rank in range(2)]
    assert dict(ranks[0] + ranks[1]) == dict(wanted)
    other = dict(of_epoch(perm, 2))
    assert other.keys() == dict(wanted).keys()
    assert all(other[row] != value for row, value in wanted)


def test_a_generator_of_row_and_epoch_after_a_resume(perm):
    wanted = of_epoch(perm, 1)
    loader = perm.loader(8, transform=Keyed()).set_epoch(1)
    for _ in itertools.islice(loader, 5):
        pass
    keyed = Keyed()
    keyed.epoch = 1
    again = perm.loader(16, transform=keyed)
    again.load_state_dict(loader.state_dict())
    assert drawn(again) == wanted[40:]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["workers", "helper"])
def test_a_generator_of_row_and_epoch_in_other_processes(perm, where):
    keyed = Keyed()
    wanted = of_epoch(perm, 2)
    if where == "workers":
        loader = DataLoader(perm, 8, transform=keyed, num_workers=2)
    else:
        loader = perm.loader(8, transform=keyed, in_process=False)
    keyed.epoch = 2
    assert drawn(loader.set_epoch(2)) == wanted


def from_everywhere(batch):
    """Draw from the generators that a process has."""
    return [
        (row, random.random(), float(np.random.random()), float(torch.rand(())))
        for row in batch["x"].tolist()
    ]


def seeded(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_the_generators_of_the_process_in_the_thread_that_asks(perm):
    loader = perm.loader(8, transform=from_everywhere, transform_threads=0)
    runs = []
    for seed in (1, 1, 2):
        seeded(seed)
        runs.append(list(loader))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_generators_of_workers(perm, num_workers):
    runs = []
    for seed in (1, 1, 2):
        loader = DataLoader(
            perm,
            8,
            transform=from_everywhere,
            num_workers=num_workers,
            generator=torch.Generator().manual_seed(seed),
        )
        runs.append([list(loader), list(loader)])
    assert runs[0] == runs[1] != runs[2]
    # The second epoch draws anew.
    assert runs[0][0] != runs[0][1]
