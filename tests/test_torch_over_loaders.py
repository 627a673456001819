"""torch's own ``DataLoader`` over our loaders."""

from __future__ import annotations

import pytest
import trainers
from torch.utils.data import (
    ChainDataset,
    IterableDataset,
)
from torch.utils.data import DataLoader as TorchLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from trainers import BATCH, ROWS, SLOW_TWO, SLOW_WORKERS, ids, loader_of, wanted

pytestmark = trainers.MARKS
perm = trainers.perm


@pytest.mark.parametrize("kind", ["python", "torch_dict", "torch_matrix", "arrow"])
@pytest.mark.parametrize("of", ["loader", "chain", "torchdata", SLOW_WORKERS])
@pytest.mark.parametrize("options", [{}, {"batch_size": 8}])
def test_batching_batches_again_is_refused(perm, kind, of, options):
    """By default torch would do that: silently, with one more dimension or as nested lists."""
    loader = perm.loader(4, format=kind)
    dataset = ChainDataset([loader, loader]) if of == "chain" else loader
    made = StatefulDataLoader if of == "torchdata" else TorchLoader
    batches = made(dataset, num_workers=2 * (of == "workers"), **options)
    with pytest.raises(ValueError, match=r"pass `batch_size=None`"):
        list(batches)


@pytest.mark.parametrize("num_workers", [0, SLOW_TWO])
def test_batches_pass_through_torch_s_loader_or_are_collated_on_request(
    perm, num_workers
):
    options = {"num_workers": num_workers}
    assert ids(TorchLoader(loader_of(perm), batch_size=None, **options)) == wanted(perm)
    twice = ChainDataset([perm.loader(BATCH)] * 2)
    assert ids(TorchLoader(twice, batch_size=None)) == [*range(ROWS), *range(ROWS)]
    joined = TorchLoader(loader_of(perm), batch_size=3, collate_fn=ids, num_workers=0)
    assert [row for rows in joined for row in rows] == wanted(perm)
    assert len(list(joined)) == 4


class RowsOfALoader(IterableDataset):
    """A data set of the user's own that takes batches apart."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for batch in self.loader:
            yield from batch["id"]


def test_a_data_set_that_reads_a_loader_is_collated(perm):
    batches = TorchLoader(RowsOfALoader(loader_of(perm)), batch_size=50)
    assert [row for batch in batches for row in batch.tolist()] == wanted(perm)
