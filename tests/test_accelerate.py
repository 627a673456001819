"""Accelerate prepares loaders, skips batches and saves their states."""

from __future__ import annotations

import itertools

import accelerate
import pytest
import trainers
from accelerate.utils import DataLoaderConfiguration
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader
from trainers import BATCH, ROWS, as_it_is, ids, loader_of, wanted

pytestmark = trainers.MARKS
perm = trainers.perm


@pytest.fixture
def accelerator():
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    config = DataLoaderConfiguration(use_seedable_sampler=True)
    yield accelerate.Accelerator(cpu=True, dataloader_config=config)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_prepares_torch_s_loader_over_a_permutation(
    perm, accelerator, num_workers
):
    options = {"collate_fn": as_it_is, "num_workers": num_workers}
    loader = accelerator.prepare(TorchLoader(perm, BATCH, shuffle=True, **options))
    loader.set_epoch(1)
    first = ids(loader)
    assert sorted(first) == list(range(ROWS))
    loader.set_epoch(1)
    rest = ids(accelerate.skip_first_batches(loader, 4))
    assert rest == first[4 * BATCH :]
    loader.set_epoch(2)
    assert ids(loader) not in (first, list(range(ROWS)))


def test_accelerate_leaves_our_loaders_as_they_are_and_keeps_their_state(
    perm, accelerator, tmp_path
):
    plain = loader_of(perm)
    assert accelerator.prepare(plain) is plain
    loader = accelerator.prepare(DataLoader(perm, BATCH, shuffle=True, seed=5))
    assert type(loader) is DataLoader
    for _ in itertools.islice(loader.set_epoch(3), 4):
        pass
    accelerator.save_state(tmp_path)
    assert ids(loader.set_epoch(4)) == wanted(perm, 4)
    accelerator.load_state(tmp_path)
    assert ids(loader) == wanted(perm, 3)[80:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_skips_first_batches(perm, accelerator, num_workers):
    options = {"shuffle": True, "seed": 5, "num_workers": num_workers}
    loader = DataLoader(perm, BATCH, **options).set_epoch(1)
    skipped = accelerate.skip_first_batches(loader, 4)
    assert ids(skipped) == wanted(perm, 1)[80:]
    # The same without reading what is skipped.
    assert ids(loader.skip_batches(4)) == wanted(perm, 1)[80:]


def test_skip_first_batches_of_a_loader_names_skip_batches(perm, accelerator):
    """It would make a DataLoader of the data set, whose batches are not those of the loader."""
    loader = accelerator.prepare(loader_of(perm))
    with pytest.raises(AttributeError, match=r"call `loader.skip_batches\(n\)`"):
        accelerate.skip_first_batches(loader, 4)
    assert ids(loader.set_epoch(1).skip_batches(4)) == wanted(perm, 1)[80:]


@pytest.mark.parametrize("stateful", [False, True])
def test_accelerate_prepares_torch_s_loader_over_a_loader(perm, stateful):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    config = DataLoaderConfiguration(use_stateful_dataloader=stateful)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    loader = accelerator.prepare(TorchLoader(loader_of(perm), batch_size=None))
    loader.set_epoch(2)
    assert ids(loader) == wanted(perm, 2)
    loader.set_epoch(2)
    if not stateful:
        rest = accelerate.skip_first_batches(loader, 3)
        assert ids(rest) == wanted(perm, 2)[3 * BATCH :]
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
