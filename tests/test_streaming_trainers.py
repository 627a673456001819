"""``lanceloader.streaming`` in torchdata's, Lightning's and Accelerate's hands."""

from __future__ import annotations

import accelerate
import lance
import lightning
import pytest
import tables
import torch
import trainers
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from trainers import ids

pytestmark = [
    *trainers.MARKS,
    # Of Lightning: more workers, and what it cannot know of a stream.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*treespec:DeprecationWarning"),
]
ROWS, BATCH = 96, 8
WORKERS = [0, 2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("trainers") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), found)
    return str(found)


def dataset_of(path):
    return StreamingDataset(path, num_splits=4, columns=["id"], shuffle_seed=3)


def loading(num_workers):
    context = "fork" if num_workers else None
    return {"num_workers": num_workers, "multiprocessing_context": context}


def loader_of(path, num_workers):
    return StreamingDataLoader(
        dataset_of(path), batch_size=BATCH, **loading(num_workers)
    )


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stateful_data_loader_resumes_at_any_step(path, num_workers, stop):
    def made():
        dataset = dataset_of(path)
        return StatefulDataLoader(dataset, BATCH, **loading(num_workers))

    loader = made()
    batches = iter(loader)
    seen = ids(next(batches) for _ in range(stop))
    state = loader.state_dict()
    again = made()
    again.load_state_dict(state)
    assert seen + ids(again) == ids(made())
    del batches


@pytest.mark.parametrize("num_workers", WORKERS)
def test_accelerate_leaves_a_loader_as_it_is(path, num_workers, tmp_path):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True)
    loader = loader_of(path, num_workers)
    assert accelerator.prepare(loader) is loader
    assert ids(loader) == ids(loader_of(path, num_workers))
    accelerator.save_state(tmp_path)
    accelerator.load_state(tmp_path)
    assert loader.dataset.state_dict()["samples_consumed_per_split"] == [24] * 4
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


class Remembers(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, number):
        self.seen += batch["id"].tolist()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("num_workers", WORKERS)
def test_lightning_reads_every_row_once(path, num_workers):
    model, loader = Remembers(), loader_of(path, num_workers)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    assert model.seen == ids(loader_of(path, num_workers))
    assert sorted(model.seen) == list(range(ROWS))
    assert loader.dataset.state_dict()["samples_consumed_per_split"] == [24] * 4
