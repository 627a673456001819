"""Processes send the buffers of batches, which are made where they arrive."""

from __future__ import annotations

import copy
import itertools
import pickle

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.formats import Columns
from lanceloader.transport.buffered import BUFFERED, BufferedBatch
from lanceloader.transport.serialization import packed
from transferred import transferred

ROWS, BATCH = 100, 32
ids = np.arange(ROWS)
NUMBERS = {
    "id": ids,
    "x": ids.astype(np.float32) / 2,
    "y": ids.astype(np.float32),
    "flag": ids % 3 == 0,
    "vector": pa.FixedSizeListArray.from_arrays(
        pa.array(np.arange(ROWS * 6, dtype=np.float32)), 6
    ),
}
FLAT = {
    "id": ids,
    "gaps": pa.array([None if number % 7 == 0 else number for number in ids]),
    "flag": pa.array([None if number % 5 == 0 else number % 3 == 0 for number in ids]),
    "text": [None if number % 9 == 0 else f"row {number}" for number in ids],
    "large": pa.array([b"x" * number for number in ids], pa.large_binary()),
    "time": pa.array(ids, pa.timestamp("us", "UTC")),
    "money": pa.array([*map(int, ids)], pa.decimal128(9, 2)),
}
NESTED = {"id": ids, "words": [list(range(number % 4)) for number in ids]}


@pytest.fixture
def sends(monkeypatch):
    """A process that sends its batches."""
    monkeypatch.setattr(Columns, "are_sent", True)


@pytest.fixture
def loader_of(tmp_path):
    def loader(columns, name, **options):
        path = tmp_path / "t.lance"
        table = pa.table(columns).replace_schema_metadata({"who": "we"})
        lance.write_dataset(table, path, mode="overwrite")
        return ll.open(str(path)).loader(
            BATCH, shuffle=True, seed=1, format=name, **options
        )

    return loader


def sent_by(loader, **options):
    """Return what a process that sends batches makes of them."""
    new = copy.copy(loader)
    new.pipeline = loader.pipeline.for_sending(loader.units, **options)
    return [*new]


def check_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, pa.RecordBatch):
        found.validate(full=True)
        assert found.equals(expected, check_metadata=True)
        return
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value)
        assert found[name].dtype == value.dtype
        assert np.array_equal(np.asarray(found[name]), np.asarray(value))


@pytest.mark.usefixtures("sends")
@pytest.mark.parametrize("has_function", [False, True])
def test_batches_of_a_window_do_not_bring_its_other_rows(tmp_path, has_function):
    texts = [f"the text of row {number}" for number in range(20_000)]
    lance.write_dataset(pa.table({"text": texts}), tmp_path / "t.lance")
    perm = ll.open(str(tmp_path / "t.lance"))
    loader = perm.loader(10, format="arrow")
    batches = (
        ({"rows": batch, "column": batch["text"]} for batch in loader)
        if has_function
        else sent_by(loader)
    )
    for at, batch in enumerate(itertools.islice(batches, 1000)):
        assert packed(batch)[0].num_bytes < 10_000
        found = transferred(batch)
        rows = found["rows"] if has_function else found
        assert rows["text"].to_pylist() == texts[10 * at : 10 * at + 10]


@pytest.mark.usefixtures("sends")
@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (NUMBERS, "torch_dict"),
        (NUMBERS, "numpy_dict"),
        (FLAT, "arrow"),
        ({"id": ids}, "arrow"),
    ],
)
def test_batches_are_made_of_their_buffers(loader_of, columns, name):
    loader = loader_of(columns, name)
    expected, sent = [*loader], sent_by(loader)
    assert [type(batch) for batch in sent] == [BufferedBatch] * 4
    for found, batch in zip(transferred((0, sent))[1], expected, strict=True):
        check_equal(found, batch)
    # A queue pickles what shared memory has no room for, by an earlier protocol.
    for protocol in (2, 5):
        for found, batch in zip(sent, expected, strict=True):
            check_equal(pickle.loads(pickle.dumps(found, protocol)), batch)


@pytest.mark.usefixtures("sends")
def test_parts_of_larger_batches_are_sent_as_buffers_too():
    rows = pa.table(
        {
            "text": [str(at) for at in range(100)],
            "n": [None, True, False, None, True] * 20,
        }
    )
    sent = sent_by(ll.open(rows).loader(30, format="arrow"))
    assert [type(batch) for batch in sent] == [BufferedBatch] * 4
    for at, found in enumerate(transferred((0, sent))[1]):
        found.validate(full=True)
        assert found.equals(rows.slice(30 * at, 30).combine_chunks().to_batches()[0])
    assert packed(sent[0])[0].num_bytes < 5_000


@pytest.mark.usefixtures("sends")
def test_recipes_are_sent_once_and_made_once(loader_of):
    for columns, name in (({"id": ids}, "torch_dict"), (FLAT, "arrow")):
        sent = sent_by(loader_of(columns, name))
        (recipe,) = {batch.recipe for batch in sent}
        once, again = transferred([recipe, recipe])
        assert once is again is transferred(recipe)


@pytest.mark.usefixtures("sends")
def test_tensors_are_no_views_of_one_another(loader_of):
    loader = loader_of(NUMBERS, "torch_dict")
    batch = transferred(sent_by(loader)[0])
    y = batch["y"].clone()
    batch["x"].requires_grad_()
    (batch["x"] * 2).sum().backward()
    with torch.no_grad():
        batch["x"] += 1
    assert torch.equal(batch["y"], y)
    assert batch["y"]._version == 0


@pytest.mark.usefixtures("sends")
@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (NESTED, "arrow"),
        (NESTED, "torch_dict"),
        (NUMBERS, "torch_col"),
        (NUMBERS, "python"),
        (NUMBERS, "pandas"),
    ],
)
def test_other_batches_are_made_by_who_sends_them(loader_of, columns, name):
    columns = dict(columns)
    if name == "torch_col":
        columns = {"x": columns["x"], "y": columns["y"]}
    sent = sent_by(loader_of(columns, name))
    assert {type(batch) for batch in sent}.isdisjoint({BufferedBatch})


def first_column(batch):
    return batch["id"]


@pytest.mark.usefixtures("sends")
def test_functions_get_batches(loader_of):
    for options in ({"transform": first_column}, {"collate": first_column}):
        sent = sent_by(loader_of(NUMBERS, "torch_dict", **options))
        assert [len(part) for part in sent] == [BATCH] * 3 + [ROWS - 3 * BATCH]
    mapped = loader_of(NUMBERS, "torch_dict").permutation.map(unchanged)
    sent = sent_by(mapped.loader(BATCH))
    assert {type(batch) for batch in sent}.isdisjoint({BufferedBatch})


def unchanged(row):
    return row


@pytest.mark.usefixtures("sends")
def test_masks_of_nulls_are_made_by_who_sends_them(loader_of):
    loader = loader_of(NUMBERS, "torch_dict").permutation
    masked = loader.with_format("torch_dict", nulls="mask").loader(BATCH)
    for found, batch in zip(sent_by(masked), masked, strict=True):
        check_equal(found, batch)


def test_only_processes_that_send_make_buffers(loader_of):
    loader = loader_of(NUMBERS, "torch_dict")
    assert loader.pipeline.for_sending(loader.units) is loader.pipeline
    assert {"arrow", "torch_dict"} <= set(BUFFERED)


@pytest.mark.usefixtures("sends")
def test_formats_may_be_excluded(loader_of):
    sent = sent_by(loader_of(NUMBERS, "numpy_dict"), formats=("torch_dict",))
    assert {type(batch) for batch in sent}.isdisjoint({BufferedBatch})
