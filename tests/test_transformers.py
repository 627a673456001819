"""Hugging Face's ``Trainer`` over permutations and loaders."""

from __future__ import annotations

import pytest
import trainers
import transformers
from lanceloader.torch import DataLoader
from lanceloader.transformers import SetEpoch
from trainers import (
    BATCH,
    EVERY_LOADER,
    LOADERS,
    ROWS,
    SLOW_TWO,
    STEPS,
    Tiny,
    as_it_is,
    loader_of,
    wanted,
)

pytestmark = trainers.MARKS
perm = trainers.perm


class OurTrainer(transformers.Trainer):
    loader = None

    def get_train_dataloader(self):
        return self.loader

    def get_eval_dataloader(self, eval_dataset=None):
        return self.loader

    def get_test_dataloader(self, test_dataset):
        return self.loader


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
    # 16 is in the second epoch, whose skipped batches must be those of this epoch.
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
    # Not how many: the clock of a machine may be set back meanwhile.
    assert "eval_samples_per_second" in trainer.evaluate(perm)


@pytest.mark.filterwarnings("default")
def test_trainer_refuses_to_batch_batches_again(perm, tmp_path, offline):
    with pytest.raises(ValueError, match="pass the permutation as the dataset"):
        trained(tmp_path, train_dataset=loader_of(perm))


@pytest.mark.filterwarnings("default")
def test_trainer_over_a_loader_without_workers(perm, tmp_path, offline):
    seen = trained(tmp_path, OurTrainer, loader=loader_of(perm))
    assert seen == wanted(perm, 0) + wanted(perm, 1)
    with pytest.raises(AttributeError, match=r"pass `lanceloader\.torch\.DataLoader"):
        trained(tmp_path, OurTrainer, 8, loader=loader_of(perm))


def test_set_epoch_needs_a_loader_with_epochs(perm):
    state = transformers.TrainerState(epoch=3.0)
    loader = loader_of(perm)
    SetEpoch().on_epoch_begin(None, state, None, train_dataloader=loader)
    assert loader.epoch == 3
    with pytest.raises(TypeError, match="`set_epoch`, not list"):
        SetEpoch().on_epoch_begin(None, state, None, train_dataloader=[])


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
