"""Trainers of others, as they are: torchdata, Accelerate, Hugging Face's Trainer, Lightning."""

from __future__ import annotations

import itertools

import accelerate
import lance
import lanceloader as ll
import lightning
import pytest
import tables
import torch
import transformers
from accelerate.utils import DataLoaderConfiguration
from lanceloader.torch import DataLoader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader as TorchLoader
from torchdata.stateful_dataloader import StatefulDataLoader

pytestmark = [
    # That there are more workers than cores.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # torchdata calls what torch no longer has.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.timeout(120),
]
ROWS, BATCH, STEPS = 203, 20, 11
SLOW_TWO = pytest.param(2, marks=pytest.mark.slow)


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


# torchdata.


def stateful(perm, num_workers, epochs=1, **options):
    loader = loader_of(perm, epochs=epochs)
    return StatefulDataLoader(
        loader, batch_size=None, num_workers=num_workers, **options
    )


@pytest.mark.parametrize(
    "num_workers", [0, 1, SLOW_TWO, pytest.param(3, marks=pytest.mark.slow)]
)
def test_torchdata_resumes_at_any_step(perm, num_workers):
    whole = wanted(perm)
    loader = stateful(perm, num_workers)
    states = [loader.state_dict() for _ in loader]
    assert len(states) == STEPS
    for step in (0, 1, 4, 9):
        again = stateful(perm, num_workers)
        again.load_state_dict(states[step])
        assert ids(again) == whole[(step + 1) * BATCH :], step
        assert ids(again) == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_at_the_end_of_an_epoch(perm, num_workers):
    loader = stateful(perm, num_workers)
    assert len(ids(loader)) == ROWS
    again = stateful(perm, num_workers)
    again.load_state_dict(loader.state_dict())
    assert ids(again) == wanted(perm)


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_torchdata_over_several_epochs(perm, num_workers):
    """Workers are in different epochs at a time, and each goes on in its own."""
    whole = wanted(perm, 0) + wanted(perm, 1) + wanted(perm, 2)
    loader = stateful(perm, num_workers, epochs=3, snapshot_every_n_steps=4)
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    assert ids(batches) == whole
    for step in (7, 10, 11, 12, 21, 31):
        again = stateful(perm, num_workers, epochs=3)
        again.load_state_dict(states[step])
        assert ids(again) == ids(batches[step + 1 :]), step


def test_torchdata_s_states_are_not_ours(perm):
    loader = stateful(perm, 0)
    next(iter(loader))
    with pytest.raises(ValueError, match="wanted the dict of state_dict"):
        loader_of(perm).load_state_dict(loader.state_dict())


# Accelerate.


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


# Hugging Face's Trainer.


class Tiny(torch.nn.Module):
    """Learns nothing much, and remembers the rows that it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, id, **others):
        if self.training:
            self.seen += id.tolist()
        return {"loss": (self.weight * id.float()).mean() * 1e-4}


class OurTrainer(transformers.Trainer):
    loader = None

    def get_train_dataloader(self):
        return self.loader


class SetEpoch(transformers.TrainerCallback):
    """What a resumed epoch needs, as Trainer then sets none."""

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        train_dataloader.set_epoch(int(state.epoch))


def trained(folder, trainer_class=transformers.Trainer, resume=None, **options):
    model = Tiny()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=4,
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_num_workers=options.pop("num_workers", 0),
        seed=5,
    )
    loader = options.pop("loader", None)
    trainer = trainer_class(model=model, args=arguments, **options)
    trainer.loader = loader
    trainer.train(
        resume_from_checkpoint=None
        if resume is None
        else f"{folder}/checkpoint-{resume}"
    )
    assert trainer.state.global_step == 2 * STEPS
    return model.seen


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("num_workers", [0, SLOW_TWO])
def test_trainer_over_a_permutation(perm, tmp_path, num_workers, offline):
    options = {"train_dataset": perm, "data_collator": as_it_is}
    options["num_workers"] = num_workers
    seen = trained(tmp_path, **options)
    assert sorted(seen[:ROWS]) == sorted(seen[ROWS:]) == list(range(ROWS))
    assert seen[:ROWS] != seen[ROWS:]
    for step in (8, 16):
        rest = trained(tmp_path, resume=step, **options)
        assert rest == seen[len(seen) - len(rest) :]
        assert len(rest) == 2 * ROWS - (step * BATCH - 17 * (step > STEPS))


@pytest.mark.filterwarnings("default")
def test_trainer_over_rows_of_python(perm, tmp_path, offline):
    rows = perm.with_format("python")
    seen = trained(tmp_path, train_dataset=rows)
    assert sorted(seen[:ROWS]) == list(range(ROWS))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("num_workers", [0, SLOW_TWO])
def test_trainer_over_our_loader(perm, tmp_path, num_workers, offline):
    def run(resume=None):
        options = {"shuffle": True, "seed": 5, "num_workers": num_workers}
        loader = DataLoader(perm, BATCH, **options)
        callbacks = [SetEpoch()]
        return trained(tmp_path, OurTrainer, resume, loader=loader, callbacks=callbacks)

    seen = run()
    assert seen == wanted(perm, 0) + wanted(perm, 1)
    assert run(resume=8) == seen[160:]
    assert run(resume=16) == seen[ROWS + 100 :]


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


# Lightning.


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Tiny()

    def training_step(self, batch):
        return self.model(**batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fitted(folder, loader, resume=None, epochs=3):
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[
            ModelCheckpoint(
                folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
            )
        ],
    )
    path = None if resume is None else f"{folder}/step={resume}.ckpt"
    trainer.fit(module, loader, ckpt_path=path)
    return module.model.seen


LOADERS = {
    "loader": loader_of,
    "threads": lambda perm: loader_of(perm, transform=as_it_is, device="cpu"),
    "workers": lambda perm: DataLoader(loader_of(perm), num_workers=2),
}


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
