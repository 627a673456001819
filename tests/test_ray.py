"""What Ray does to a loader, without Ray."""

from __future__ import annotations

import pytest
import trainers
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
)
from trainers import BATCH, ROWS, as_it_is, ids, loader_of, wanted

pytestmark = trainers.MARKS
perm = trainers.perm


def prepared_by_ray(loader, world_size=2):
    """What ``ray.train.torch.prepare_data_loader`` does to a loader, on the CPU."""
    if (
        world_size > 1
        and not isinstance(loader.sampler, DistributedSampler)
        and not (
            hasattr(loader, "dataset") and isinstance(loader.dataset, IterableDataset)
        )
    ):
        in_order = isinstance(loader.sampler, SequentialSampler)
        loader = TorchLoader(
            dataset=loader.dataset,
            batch_size=loader.batch_size,
            shuffle=False,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
            sampler=DistributedSampler(loader.dataset, shuffle=not in_order),
        )
    return WrappedByRay(loader)


class WrappedByRay(TorchLoader):
    def __init__(self, loader):
        self.__dict__.update(getattr(loader, "__dict__", {}))
        self._dataloader = loader

    def __len__(self):
        return len(self._dataloader)

    def __iter__(self):
        return iter(self._dataloader)


@pytest.mark.parametrize("kind", ["loader", "threads", "in this process"])
def test_ray_leaves_our_loaders_as_they_are(perm, kind):
    perm = perm.with_take(99)
    ranks = []
    for rank in range(2):
        options = {"rank": rank, "world_size": 2}
        if kind == "in this process":
            loader = DataLoader(perm, BATCH, shuffle=True, seed=5, **options)
        else:
            options |= {"transform": as_it_is} if kind == "threads" else {}
            loader = loader_of(perm, **options)
        prepared = prepared_by_ray(loader)
        assert len(prepared) == len(loader) == 3
        # As Ray's users are told to.
        prepared.sampler.set_epoch(2)
        ranks.append(list(prepared))
        assert loader.state_dict()["epoch"] == 2
    both = [row for pair in zip(*ranks, strict=True) for row in ids(pair)]
    # One row stands in for the one that is missing.
    assert both == wanted(perm, 2)[:99] + wanted(perm, 2)[:1]


def test_ray_data_reads_every_row_of_a_permutation(perm):
    """``ray.data.from_torch`` iterates the data set."""
    assert ids(perm.with_batch_size(50)) == list(range(ROWS))
