"""Lightning and Fabric over our loaders."""

from __future__ import annotations

import lightning
import pytest
import torch
import trainers
from lanceloader.torch import DataLoader
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.data_connector import _process_dataloader
from lightning.pytorch.trainer.states import RunningStage
from trainers import BATCH, EVERY_LOADER, LOADERS, ROWS, STEPS, Tiny, ids, wanted

pytestmark = trainers.MARKS
perm = trainers.perm


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Tiny()
        self.evaluated = []

    def training_step(self, batch):
        return self.model(**batch)["loss"]

    def validation_step(self, batch):
        self.evaluated += batch["id"].tolist()

    test_step = validation_step

    def predict_step(self, batch):
        return batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer_of(folder, **options):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def fitted(folder, loader, resume=None, epochs=3):
    module = Module()
    checkpoints = ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = trainer_of(folder, max_epochs=epochs, callbacks=[checkpoints])
    path = None if resume is None else f"{folder}/step={resume}.ckpt"
    trainer.fit(module, loader, ckpt_path=path)
    return module.model.seen


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "kind", ["loader", "threads", pytest.param("workers", marks=pytest.mark.slow)]
)
def test_lightning_sets_epochs_and_resumes_at_any_step(perm, tmp_path, kind):
    make = LOADERS[kind]
    seen = fitted(tmp_path, make(perm))
    assert seen == wanted(perm, 0) + wanted(perm, 1) + wanted(perm, 2)
    for step in (1, 4, 10, 11, 12, 17, 22, 30):
        epoch, steps = divmod(step, STEPS)
        rest = fitted(tmp_path, make(perm), resume=step)
        assert rest == seen[epoch * ROWS + steps * BATCH :], step


@pytest.fixture(params=["given", "of a hook"])
def hooked(request):
    """A way to hand a loader over: Lightning records how those of hooks were made."""

    def hand(module, hook, make):
        if request.param == "given":
            return [make()]
        setattr(module, hook, make)
        return []

    return hand


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", EVERY_LOADER)
def test_lightning_validates_tests_and_predicts(perm, tmp_path, kind, hooked):
    def make():
        return LOADERS[kind](perm)

    trainer, whole = trainer_of(tmp_path), wanted(perm)
    for run, hook in (
        (trainer.validate, "val_dataloader"),
        (trainer.test, "test_dataloader"),
    ):
        module = Module()
        run(module, *hooked(module, hook, make), verbose=False)
        assert module.evaluated == whole
    module = Module()
    batches = trainer.predict(module, *hooked(module, "predict_dataloader", make))
    assert [row for batch in batches for row in batch.tolist()] == whole


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", EVERY_LOADER)
def test_lightning_fits_with_validation(perm, tmp_path, kind, hooked):
    """Validation begins with two batches that are tried out, and is run after every epoch."""
    train, val = perm.split([150, 53], seed=1)
    module = Module()
    loaders = [
        *hooked(module, "train_dataloader", lambda: LOADERS[kind](train)),
        *hooked(module, "val_dataloader", lambda: LOADERS[kind](val)),
    ]
    trainer_of(tmp_path, max_epochs=2).fit(module, *loaders)
    # torch's own loader has no epochs.
    epochs = (0, 0) if kind == "torch's" else (0, 1)
    assert module.model.seen == [row for e in epochs for row in wanted(train, e)]
    tried = wanted(val)[: 2 * BATCH]
    assert module.evaluated == tried + [row for e in epochs for row in wanted(val, e)]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", EVERY_LOADER)
def test_lightning_overfits_some_batches(perm, tmp_path, kind, hooked):
    module = Module()
    given = hooked(module, "train_dataloader", lambda: LOADERS[kind](perm))
    trainer_of(tmp_path, max_epochs=2, overfit_batches=2).fit(module, *given)
    assert len(module.model.seen) == 4 * BATCH


@pytest.mark.parametrize("kind", ["loader", "in this process"])
@pytest.mark.parametrize("stage", RunningStage)
def test_lightning_puts_no_sampler_into_ours_on_several_devices(perm, kind, stage):
    """What it does to each loader, where it thinks that there are two ranks."""
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False)
    connector = trainer._accelerator_connector
    connector.strategy = DDPStrategy(
        parallel_devices=[torch.device("cpu")] * 2,
        cluster_environment=LightningEnvironment(),
    )
    assert connector.is_distributed
    options = {"rank": 1, "world_size": 2}
    whole = perm.loader(BATCH, shuffle=True, seed=5, **options)
    loader = whole
    if kind != "loader":
        loader = DataLoader(perm, BATCH, shuffle=True, seed=5, **options)
    found = _process_dataloader(trainer, trainer.state.fn, stage, loader)
    assert ids(found) == ids(whole)
    assert type(found) is type(loader)


@pytest.mark.filterwarnings("default")
def test_fabric_takes_our_data_loader_and_sets_its_epochs(perm):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    loader = fabric.setup_dataloaders(DataLoader(perm, BATCH, shuffle=True, seed=5))
    assert ids(loader) == wanted(perm, 0)
    assert ids(loader) == wanted(perm, 1)
