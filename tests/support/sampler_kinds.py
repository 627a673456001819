"""Samplers of every kind, and the rows that torch's own loader yields with them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

ROWS = 103
SIZE = 8


def generator(seed):
    return torch.Generator().manual_seed(seed)


class Reversed:
    """A sampler of one's own, without a length."""

    def __init__(self, _perm=None):
        pass

    def __iter__(self):
        yield from range(ROWS - 1, -1, -3)


class Shuffler:
    """A sampler that draws from the global generators of Python and NumPy."""

    def __init__(self, _perm=None):
        pass

    def __len__(self):
        return 40

    def __iter__(self):
        rows = random.sample(range(ROWS), 20)
        rows += [int(row) for row in np.random.permutation(ROWS)[:20]]
        return iter(rows)


class Stateful:
    """A sampler with a state as of torchdata, which yields other rows in each pass."""

    def __init__(self, _perm=None):
        self.number, self.place, self.is_resumed = -1, 0, False

    def __len__(self):
        return 30

    def __iter__(self):
        if not self.is_resumed:
            self.number, self.place = self.number + 1, 0
        self.is_resumed = False
        while self.place < 30:
            self.place += 1
            yield (7 * self.number + self.place) % ROWS

    def state_dict(self):
        return {"number": self.number, "place": self.place}

    def load_state_dict(self, state):
        self.number, self.place = state["number"], state["place"]
        self.is_resumed = True


SAMPLERS = {
    "sequential": SequentialSampler,
    "random": lambda perm: RandomSampler(perm, generator=generator(5)),
    "random without a generator": RandomSampler,
    "random with replacement": lambda perm: RandomSampler(
        perm, replacement=True, num_samples=250, generator=generator(5)
    ),
    "weighted": lambda _: WeightedRandomSampler(
        [float(row % 5) for row in range(ROWS)], 90, generator=generator(5)
    ),
    "subset": lambda _: SubsetRandomSampler(range(10, 60, 3), generator(5)),
    "distributed": lambda perm: DistributedSampler(
        perm, num_replicas=3, rank=1, seed=9
    ),
    "stateful distributed": lambda perm: StatefulDistributedSampler(
        perm, num_replicas=3, rank=1, seed=9
    ),
    "list": lambda _: [5, 5, 102, 0, 7, 7, 3, 1, 99, 4],
    "range": lambda _: range(3, 90, 2),
    "array": lambda _: np.arange(50, 20, -1, np.int32),
    "tensor": lambda _: torch.arange(30),
    "nothing": lambda _: [],
    "without a length": Reversed,
    "global generators": Shuffler,
    "stateful": Stateful,
}


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


UNSEEDED = ("global generators", "random without a generator")


def sampled(name, perm):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    return SAMPLERS[name](perm)


def of_torch(perm, **options):
    """Return the batches of torch's own loader."""
    loader = TorchLoader(perm.with_format("arrow"), collate_fn=lambda x: x, **options)
    return [batch["x"].to_pylist() for batch in loader]


def rows(batches):
    return [batch["x"].tolist() for batch in batches]


def loader_of(perm, sampler, **options):
    return perm.loader(SIZE, sampler=sampler, format="numpy_dict", **options)


def batched(perm, sampler, **options):
    return perm.loader(batch_sampler=sampler, format="numpy_dict", **options)


def failing(batch):
    """Fail for some rows."""
    if (batch["x"] % 10 == 0).any():
        raise LookupError("ten")
    return batch
