"""Errors in a user's function name the batch and its rows, by offset and row id."""

from __future__ import annotations

import logging
import re

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.locations import MOST
from lanceloader.streaming import StreamingDataset
from lanceloader.torch import DataLoader
from producers import UNLUCKY, BadRowError, unlucky
from torch.utils.data import DataLoader as TorchLoader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Row ids that are no row offsets: several files, and rows that are deleted."""
    data = pa.table({"id": np.arange(40), "n": np.arange(40) % 5, "half": [0, 1] * 20})
    path = tmp_path_factory.mktemp("places") / "t.lance"
    dataset = lance.write_dataset(data, path, max_rows_per_file=9)
    dataset.delete("id % 10 = 3 and id <> 13")
    return lance.dataset(path)


@pytest.fixture(scope="module")
def perm(dataset):
    return ll.open(dataset).with_format("arrow")


@pytest.fixture(scope="module")
def row_ids(dataset):
    found = dataset.to_table(["id"], with_row_id=True)
    return dict(zip(found["id"].to_pylist(), found["_rowid"].to_pylist(), strict=True))


def offset_of(perm, unlucky=UNLUCKY):
    return perm.to_arrow()["id"].to_pylist().index(unlucky)


def note_of(error):
    (note,) = error.__notes__
    assert note.startswith("lanceloader: ")
    return note


def numbers_in(text, what):
    """The numbers that are listed behind a word."""
    (found,) = re.findall(rf"{what}s? ((?:\d+, )*\d+)", text)
    return [int(number) for number in found.split(", ")]


def raised(read):
    with pytest.raises(BadRowError) as caught:
        for _ in read:
            pass
    return note_of(caught.value)


LOADERS = {
    "in order": (lambda perm: perm, {}),
    "shuffled": (lambda perm: perm.shuffle(seed=3), {}),
    "a filter": (lambda perm: perm.filter("id > 5").shuffle(seed=3), {}),
    "a part": (lambda perm: perm.split([18, 18], seed=4, stratify_by="half")[0], {}),
    "drawn": (lambda perm: perm.sample(200, seed=1, replacement=True), {}),
    "epoch": (lambda perm: perm, {"shuffle": True, "seed": 2}),
    "of a rank": (lambda perm: perm, {"rank": 1, "world_size": 3}),
    "padded": (
        lambda perm: perm.with_skip(11),
        {"rank": 1, "world_size": 2, "batch_size": 5},
    ),
    "by tokens": (
        lambda perm: perm.shuffle(seed=3),
        {"batch_size": None, "batch_tokens": 12, "length": "n"},
    ),
    "matrix": (lambda perm: perm.with_format("torch_matrix"), {}),
    "one table mixed": (lambda perm: ll.mix(perm.strata("half")), {}),
}


@pytest.mark.parametrize("view", LOADERS)
@pytest.mark.parametrize("threads", [0, 2])
def test_the_batch_and_its_rows(perm, row_ids, view, threads):
    make, options = LOADERS[view]
    view = make(perm)
    options = {"batch_size": 4} | options
    is_matrix = type(next(iter(view.loader(1)))).__name__ == "Tensor"
    read = (
        (lambda b: b[:, 0].tolist()) if is_matrix else (lambda b: b["id"].to_pylist())
    )

    def batches(**more):
        loader = view.loader(**options, **more)
        return loader.set_epoch(2) if "seed" in options else loader

    ids = [read(batch) for batch in batches()]
    everything = perm.to_arrow()["id"].to_pylist()
    epoch = " of epoch 2" if "seed" in options else ""
    for number in (0, len(ids) // 2, len(ids) - 1):
        wanted = ids[number]

        def fails(batch, wanted=wanted):
            if read(batch) == wanted:
                raise BadRowError
            return batch

        note = raised(batches(transform=fails, transform_threads=threads))
        assert f"in batch {number}{epoch} of {len(wanted)} row" in note
        offsets = numbers_in(note, "row offset")
        assert [everything[at] for at in offsets] == wanted[:MOST]
        assert numbers_in(note, "`_rowid`") == [row_ids[id] for id in wanted][:MOST]


def test_a_resumed_loader_counts_batches_of_the_epoch(perm):
    loader = perm.loader(4, transform=unlucky).skip_batches(2)
    ids = [batch["id"].to_pylist() for batch in perm.loader(4)]
    (number,) = [at for at, rows in enumerate(ids) if UNLUCKY in rows]
    note = raised(loader)
    assert f"in batch {number} of 4 rows" in note
    offsets = numbers_in(note, "row offset")
    assert perm.take_offsets(offsets)["id"].to_pylist() == ids[number]


def test_many_rows_are_counted(perm):
    note = raised(perm.loader(30, transform=unlucky))
    assert (
        f"of 30 rows: row offsets 0, 1, 2, 3, 4, 5, 6, 7 and {30 - MOST} more" in note
    )
    assert 'on_error="warn" finds out which' in note
    assert "on_error" not in raised(perm.loader(1, transform=unlucky))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("policy", ["warn", "skip", "fill", "repair", "asks"])
def test_the_row_where_rows_are_tried(perm, row_ids, policy, threads, caplog):
    notes = []

    def asks(error):
        notes.append(note_of(error))
        return True

    def repair(error, row):
        notes.append(note_of(error))
        return [0]

    options = {
        "fill": {"on_error": "fill", "error_value": [0]},
        "repair": {"on_error": "fill", "repair": repair},
        "asks": {"on_error": asks},
    }.get(policy, {"on_error": policy})
    view = perm.shuffle(seed=3)
    loader = view.loader(10, transform=unlucky, transform_threads=threads, **options)
    with caplog.at_level(logging.INFO, "lanceloader"):
        list(loader)
    row = f"row offset {offset_of(perm)} (`_rowid` {row_ids[UNLUCKY]}), in batch"
    (record,) = caplog.records
    done = "Filled" if policy in ("fill", "repair") else "Skipped"
    assert re.match(rf"{done} 1 of (10|7) rows", record.getMessage())
    assert row in record.getMessage()
    assert "BadRowError" in record.getMessage()
    assert record.levelno == (logging.WARNING if policy == "warn" else logging.INFO)
    if policy in ("repair", "asks"):
        assert f"at {row}" in notes[-1]


def test_the_row_that_a_policy_function_does_not_skip(perm, row_ids):
    asked = []

    def once(error):
        asked.append(error)
        return len(asked) == 1

    note = raised(perm.loader(10, transform=unlucky, on_error=once))
    assert f"at row offset {offset_of(perm)} (`_rowid` {row_ids[UNLUCKY]})" in note


def test_a_skipped_batch_is_named_in_the_log(perm, caplog):
    with caplog.at_level(logging.WARNING, "lanceloader"):
        list(perm.loader(1, transform=unlucky, on_error="skip"))
    (record,) = caplog.records
    assert f"row offset {offset_of(perm)} (" in record.getMessage()


def test_errors_in_packed_and_mixed_batches(perm, dataset):
    data = pa.table({"tokens": [[1] * (row % 4) for row in range(30)]})

    def fails(batch):
        raise BadRowError

    packed = ll.open(data).pack(8)
    assert "of 2 rows: blocks 0, 1" in raised(packed.loader(2, transform=fails))
    others = ll.open(dataset.to_table(["id", "n", "half"])).with_format("arrow")
    mixture = ll.mix([perm, others])
    note = raised(mixture.loader(3, transform=unlucky))
    positions = numbers_in(note, "mixed row")
    rows = [row for batch in mixture.loader(3) for row in batch["id"].to_pylist()]
    assert UNLUCKY in [rows[at] for at in positions]


def test_rows_in_memory_are_named_by_offset_only():
    perm = ll.open(pa.table({"id": range(20)}), format="arrow")
    note = raised(perm.loader(4, transform=unlucky))
    assert note.endswith(
        'row offsets 12, 13, 14, 15; on_error="warn" finds out which of them fail'
    )


@pytest.mark.parametrize("where", ["with_transform", "collate"])
def test_other_functions_of_the_user(perm, where):
    if where == "collate":
        loader = perm.loader(4, collate=unlucky)
    else:
        loader = perm.with_transform(unlucky).loader(4)
    offset = offset_of(perm)
    note = raised(loader)
    assert f"in batch {offset // 4} of 4 rows" in note
    assert offset in numbers_in(note, "row offset")


READS = {
    "iter": lambda perm, at: perm.iter(4),
    "a slice": lambda perm, at: perm[at - 2 : at + 2],
    "a slice backwards": lambda perm, at: perm[at + 1 : at - 3 : -1],
    "positions": lambda perm, at: perm[[at, 0, 5]],
    "an array": lambda perm, at: perm.take_offsets(np.array([at, 0, 5])),
    "torch": lambda perm, at: TorchLoader(perm, batch_size=4),
}


@pytest.mark.parametrize("read", READS)
def test_reading_without_a_loader(perm, read):
    view = perm.shuffle(seed=3)
    at = view.to_arrow()["id"].to_pylist().index(UNLUCKY)
    failing = view.with_transform(unlucky)
    with pytest.raises(BadRowError) as caught:
        list(READS[read](failing, at))
    note = note_of(caught.value)
    assert offset_of(perm) in numbers_in(note, "row offset")
    assert "rows: row offsets" in note


@pytest.mark.slow
@pytest.mark.parametrize("where", ["workers", "torch", "helper"])
def test_errors_of_worker_processes_name_the_rows(perm, row_ids, where):
    view = perm.shuffle(seed=3)
    if where == "torch":
        loader = TorchLoader(view.with_transform(unlucky), 4, num_workers=2)
    elif where == "workers":
        loader = DataLoader(view, 4, transform=unlucky, num_workers=2)
    else:
        loader = view.loader(4, transform=unlucky, in_process=False)
    with pytest.raises(BadRowError) as caught:
        list(loader)
    # torch makes a text of what is raised in workers.
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    ids = view.to_arrow()["id"].to_pylist()
    number = ids.index(UNLUCKY) // 4
    assert row_ids[UNLUCKY] in numbers_in(text, "`_rowid`")
    called = "a batch" if where == "torch" else f"batch {number}"
    assert f"in {called} of 4 rows" in text


STREAMS = [
    (policy, tail)
    for policy in ("raise", "warn", "skip", "fill", "asks")
    for tail in (None, "pad")
    # Ranks stay in step, where there is a tail.
    if tail is None or policy in ("raise", "fill")
]


@pytest.mark.parametrize(("policy", "tail"), STREAMS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_streaming(dataset, perm, row_ids, policy, tail, shuffle, caplog):
    notes = []
    options = {
        "fill": {"on_transform_error": "fill", "fill_value": {}},
        "asks": {"on_transform_error": lambda e: notes.append(note_of(e)) or True},
    }.get(policy, {"on_transform_error": policy})

    def fails(batch):
        unlucky(batch)
        return batch.to_pylist()

    def ranks(**more):
        number = 1 if tail is None else 2
        for rank in range(number):
            yield StreamingDataset(
                dataset,
                num_splits=3,
                shuffle=shuffle,
                read_batch_size=5,
                tail=tail,
                rank=rank,
                world_size=number,
                **more,
            )

    served = [[row["id"] for row in rank] for rank in ranks()]
    rank = next(at for at, rows in enumerate(served) if UNLUCKY in rows)
    stream = list(ranks(transform=fails, **options))[rank]
    row = f"row offset {offset_of(perm)} (`_rowid` {row_ids[UNLUCKY]})"
    if policy == "raise":
        note = raised(stream)
        assert row_ids[UNLUCKY] in numbers_in(note, "`_rowid`")
        assert offset_of(perm) in numbers_in(note, "row offset")
        return
    with caplog.at_level(logging.INFO):
        list(stream)
    (said,) = [text for text in caplog.messages if "whose transform failed" in text]
    assert row in said
    if policy == "asks":
        assert f"at {row}" in notes[-1]


def test_an_exception_raised_repeatedly_has_one_note(perm):
    always = BadRowError("one for all")
    always.add_note("of the user")

    def fails(batch):
        raise always

    list(perm.loader(4, transform=fails, on_error="skip"))
    user, ours = always.__notes__
    assert user == "of the user"
    assert ours.startswith("lanceloader: at row offset ")


def test_a_function_that_stops_is_named_too(perm):
    def stops(batch):
        return next(iter(()))

    for options in ({"transform": stops}, {"collate": stops}):
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            list(perm.loader(4, **options))
        assert "in batch 0 of 4 rows" in note_of(caught.value)


def test_an_error_is_raised_although_naming_its_rows_fails(perm, monkeypatch):
    def breaks(*_):
        raise OSError("gone")

    monkeypatch.setattr("lanceloader.units.locations.name_rows", breaks)
    note = raised(perm.loader(4, transform=unlucky))
    assert "in batch 3 of 4 rows: rows 0, 1, 2, 3" in note
