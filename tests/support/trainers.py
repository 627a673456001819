"""What tests of other libraries' trainers share: rows, loaders and a model that remembers rows."""

from __future__ import annotations

import lance
import lanceloader as ll
import pytest
import tables
import torch
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader

MARKS = [
    # That there are more workers than cores.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # torchdata calls what torch no longer has.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.timeout(120),
]
ROWS, BATCH, STEPS = 203, 20, 11
SLOW_TWO = pytest.param(2, marks=pytest.mark.slow)
SLOW_WORKERS = pytest.param("workers", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainers") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=60)
    return ll.open(str(path)).select_columns(["id"]).with_format("torch_dict")


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def wanted(perm, epoch=0, seed=5):
    return perm.shuffle(seed, epoch=epoch).with_format("arrow")[:]["id"].to_pylist()


def loader_of(perm, **options):
    return perm.loader(BATCH, shuffle=True, seed=5, **options)


def as_it_is(batch):
    return batch


LOADERS = {
    "loader": loader_of,
    "threads": lambda perm: loader_of(perm, transform=as_it_is, device="cpu"),
    "workers": lambda perm: DataLoader(loader_of(perm), num_workers=2),
    "in this process": lambda perm: DataLoader(perm, BATCH, shuffle=True, seed=5),
    "a DataLoader of a loader": lambda perm: DataLoader(loader_of(perm)),
    "torch's": lambda perm: TorchLoader(loader_of(perm), batch_size=None),
}


EVERY_LOADER = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind == "workers" else [])
    for kind in LOADERS
]


class Tiny(torch.nn.Module):
    """Learns nothing much, and remembers the rows that it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, id, **others):
        if self.training:
            self.seen += id.tolist()
        loss = (self.weight * id.float()).mean() * 1e-4
        return {"loss": loss, "logits": id[:, None] * self.weight}
