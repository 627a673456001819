"""The attributes that trainers look for in a loader."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import weakref

import pytest
import trainers
from torch.utils.data import (
    DistributedSampler,
)
from trainers import BATCH, ids, loader_of

pytestmark = trainers.MARKS
perm = trainers.perm


def test_what_trainers_look_for(perm):
    loader = loader_of(perm, rank=1, world_size=3, drop_last=True)
    sampler = loader.sampler
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.rank, sampler.num_replicas) == (1, 3)
    # DeepSpeed's strategy of Lightning asks for that.
    assert loader.batch_sampler.batch_size == loader.batch_size == BATCH
    assert loader.batch_sampler.drop_last is True
    assert len(loader.batch_sampler) == len(loader)
    assert not hasattr(loader, "dataset")
    sampler.set_epoch(4)
    assert loader.epoch == 4
    with pytest.raises(TypeError, match="iterate the Loader"):
        iter(sampler)
    for again in (copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        again.sampler.set_epoch(7)
        assert (again.epoch, loader.epoch) == (7, 4)
        assert ids(again) == ids(
            loader_of(perm, rank=1, world_size=3, drop_last=True).set_epoch(7)
        )
    gone = weakref.ref(loader)
    del loader, again
    # At once, and not when garbage is collected.
    assert gone() is None


def test_a_loader_has_a_sampler_without_torch():
    code = (
        "import sys, lanceloader as ll, pyarrow as pa;"
        "loader = ll.open(pa.table({'x': range(9)})).loader(4, format='arrow');"
        "loader.sampler.set_epoch(3);"
        "assert loader.epoch == 3 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
