"""Trainers of others, as they are: torchdata, Accelerate, Hugging Face's Trainer, Lightning."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
import weakref

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
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.data_connector import _process_dataloader
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
)
from torch.utils.data import DataLoader as TorchLoader
from torchdata.nodes import (
    IterableWrapper,
    Loader,
    MapStyleWrapper,
    Prefetcher,
    SamplerWrapper,
)
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


# torch.


@pytest.mark.parametrize("kind", ["python", "torch_dict", "torch_matrix", "arrow"])
@pytest.mark.parametrize("of", ["loader", "chain", "torchdata", SLOW_WORKERS])
@pytest.mark.parametrize("options", [{}, {"batch_size": 8}])
def test_batches_are_not_put_into_batches_once_more(perm, kind, of, options):
    """By default torch would do that: silently, with one more dimension or as nested lists."""
    loader = perm.loader(4, format=kind)
    dataset = ChainDataset([loader, loader]) if of == "chain" else loader
    made = StatefulDataLoader if of == "torchdata" else TorchLoader
    batches = made(dataset, num_workers=2 * (of == "workers"), **options)
    with pytest.raises(ValueError, match=r"pass `batch_size=None`"):
        list(batches)


@pytest.mark.parametrize("num_workers", [0, SLOW_TWO])
def test_batches_go_through_torch_s_loader_or_are_joined_as_is_asked_for(
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
    with pytest.raises(ValueError, match="pass the dict of state_dict"):
        loader_of(perm).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("num_batches", [0, 3, STEPS])
def test_nodes_of_torchdata_over_a_loader(perm, num_batches):
    def made():
        node = IterableWrapper(loader_of(perm))
        return Loader(Prefetcher(node, 2), restart_on_stop_iteration=False)

    nodes = made()
    batches = iter(nodes)
    begun = [next(batches) for _ in range(num_batches)]
    again = made()
    again.load_state_dict(nodes.state_dict())
    assert ids(begun) + ids(again) == wanted(perm)


def test_nodes_of_torchdata_over_a_permutation(perm):
    sampler = BatchSampler(SequentialSampler(perm), BATCH, drop_last=False)
    node = MapStyleWrapper(perm, SamplerWrapper(sampler))
    assert ids(node) == list(range(ROWS))


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


def test_accelerate_is_told_how_to_skip_batches_of_a_loader(perm, accelerator):
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
        loss = (self.weight * id.float()).mean() * 1e-4
        return {"loss": loss, "logits": id[:, None] * self.weight}


class OurTrainer(transformers.Trainer):
    loader = None

    def get_train_dataloader(self):
        return self.loader

    def get_eval_dataloader(self, eval_dataset=None):
        return self.loader

    def get_test_dataloader(self, test_dataset):
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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["permutation", *EVERY_LOADER])
def test_trainer_evaluates_and_predicts(perm, tmp_path, kind, offline):
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=BATCH,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=[],
    )
    options = {"model": Tiny(), "args": arguments, "data_collator": as_it_is}
    if kind == "permutation":
        trainer = transformers.Trainer(**options)
        in_order = list(range(ROWS))
    else:
        trainer = OurTrainer(**options)
        trainer.loader = LOADERS[kind](perm)
        in_order = wanted(perm)
    found = trainer.predict(perm, ignore_keys=["loss"]).predictions
    assert found[:, 0].tolist() == in_order
    assert trainer.evaluate(perm)["eval_samples_per_second"] > 0


@pytest.mark.filterwarnings("default")
def test_trainer_does_not_put_batches_into_batches_once_more(perm, tmp_path, offline):
    with pytest.raises(ValueError, match="pass the permutation as the dataset"):
        trained(tmp_path, train_dataset=loader_of(perm))


@pytest.mark.filterwarnings("default")
def test_trainer_over_a_loader_without_workers(perm, tmp_path, offline):
    seen = trained(tmp_path, OurTrainer, loader=loader_of(perm))
    assert seen == wanted(perm, 0) + wanted(perm, 1)
    with pytest.raises(AttributeError, match=r"pass `lanceloader\.torch\.DataLoader"):
        trained(tmp_path, OurTrainer, 8, loader=loader_of(perm))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


# Lightning.


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


# Ray.


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


# What they look for.


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


def test_a_sampler_is_there_without_torch():
    code = (
        "import sys, lanceloader as ll, pyarrow as pa;"
        "loader = ll.open(pa.table({'x': range(9)})).loader(4, format='arrow');"
        "loader.sampler.set_epoch(3);"
        "assert loader.epoch == 3 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
