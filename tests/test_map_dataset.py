"""Permutations under torch's own ``DataLoader``: collate, samplers, subsets."""

from __future__ import annotations

import copy
import functools
import operator
import pickle
from types import NoneType

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from equality import same
from lanceloader.formats.python import LazyRows
from process_state import settle, soon, threads
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)


@pytest.fixture
def perm(any_table):
    return ll.Permutation.identity(any_table)


def ids(batches) -> list[int]:
    return [int(row) for batch in batches for row in batch["id"]]


@pytest.mark.parametrize("kind", ["python", "torch"])
def test_default_collate_by_column_is_that_by_row(kind):
    """A batch that carries its columns collates as the list of its rows does."""
    for nulls in (False, True):
        data = tables.every_type(17, nulls=nulls)
        for name in data.column_names:
            view = ll.open(data.select([name])).with_format(kind)
            for positions in ([3], [5, 1, 5], range(17)):
                try:
                    rows = list(view.__getitems__(positions))
                    if kind == "torch" and type(rows[0][name]) in (
                        str,
                        bytes,
                        NoneType,
                    ):
                        # Text goes through as it is, with its nulls.
                        wanted = {name: [row[name] for row in rows]}
                    else:
                        wanted = default_collate(rows)
                except (TypeError, RuntimeError, AttributeError) as error:
                    with pytest.raises(type(error)):
                        default_collate(view.__getitems__(positions))
                except ll.errors.FormatError:
                    break
                else:
                    assert same(default_collate(view.__getitems__(positions)), wanted)


def test_columns_are_collated_without_rows(perm, monkeypatch):
    made = []
    monkeypatch.setattr(LazyRows, "fill", lambda self: made.append(self))
    (batch,) = DataLoader(perm, batch_size=100)
    assert batch["id"].dtype == torch.int64
    assert batch["x"].dtype == torch.float64
    assert batch["name"][0] == "row 0"
    assert made == []


def test_a_batch_is_a_list_of_its_rows(perm):
    rows = perm.to_arrow().to_pylist()[:6]
    batch = perm.__getitems__(range(6))
    assert isinstance(batch, list)
    assert batch[0] == rows[0]
    assert batch == rows
    assert rows == batch
    assert len(batch) == 6
    assert batch[-1] == rows[-1]
    assert batch[2:4] == rows[2:4]
    assert list(reversed(batch)) == rows[::-1]
    assert rows[3] in batch
    assert batch.index(rows[3]) == 3
    assert batch + [1] == [*rows, 1]  # noqa: RUF005
    assert [*batch] == rows
    assert repr(batch) == repr(rows)
    assert copy.copy(batch) == rows
    assert copy.deepcopy(batch) == rows
    assert type(pickle.loads(pickle.dumps(batch))) is list
    assert pickle.loads(pickle.dumps(batch)) == rows
    batch.append("more")
    assert len(batch) == 7
    assert sorted(perm.__getitems__([5, 3]), key=lambda row: row["id"])[0] == rows[3]
    assert not perm.__getitems__([])
    assert perm.__getitems__([1])
    assert pa.array(list(perm.__getitems__([0, 1]))).field("id").to_pylist() == [0, 1]


def test_a_row_taken_out_of_its_batch_collates_with_others(perm):
    first = perm.__getitems__([4, 5])[0]
    second = perm.__getitems__([7])[0]
    both = default_collate([first, second])
    assert both["id"].tolist() == [4, 7]
    assert default_collate([dict(first), dict(second)])["name"] == both["name"]


@pytest.mark.parametrize("kind", ["python", "torch"])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_every_row_once_in_order(perm, kind, batch_size):
    wanted = perm.to_arrow()["id"].to_pylist()
    loader = DataLoader(perm.with_format(kind), batch_size=batch_size)
    assert len(loader) == -(-100 // batch_size)
    assert ids(loader) == wanted
    dropped = DataLoader(perm.with_format(kind), batch_size=8, drop_last=True)
    assert ids(dropped) == wanted[:96]


def test_shuffled_by_torch(perm):
    generator = torch.Generator().manual_seed(1)
    got = ids(DataLoader(perm, batch_size=7, shuffle=True, generator=generator))
    assert got != sorted(got)
    assert sorted(got) == perm.to_arrow()["id"].to_pylist()


def test_shuffled_by_us_and_read_in_order(perm):
    view = perm.shuffle(seed=4)
    assert ids(DataLoader(view, batch_size=9)) == view.to_arrow()["id"].to_pylist()


@pytest.mark.parametrize("kind", ["torch_dict", "numpy_dict"])
def test_columns_pass_default_collate(perm, kind):
    view = perm.with_format(kind).select_columns(["x", "label"])
    batches = list(DataLoader(view, batch_size=40))
    assert [len(batch["x"]) for batch in batches] == [40, 40, 20]
    assert type(batches[0]) is dict
    assert batches[0]["x"].dtype == (
        torch.float32 if kind == "torch_dict" else np.float32
    )
    joined = [value for batch in batches for value in batch["label"].tolist()]
    assert joined == perm.to_arrow()["label"].to_pylist()


def test_other_formats_with_an_identity_collate(perm):
    def identity(batch):
        return batch

    narrow = perm.select_columns(["id", "label"])
    for kind, kind_of in (
        ("arrow", pa.RecordBatch),
        ("polars", object),
        ("pandas", object),
        ("torch_col", torch.Tensor),
        ("torch_row", list),
        ("numpy", np.ndarray),
        ("python_col", dict),
    ):
        loader = DataLoader(
            narrow.with_format(kind), batch_size=60, collate_fn=identity
        )
        assert all(isinstance(batch, kind_of) for batch in loader)
    shapes = [
        tuple(batch.shape)
        for batch in DataLoader(
            narrow.with_format("torch_col"), batch_size=60, collate_fn=identity
        )
    ]
    assert shapes == [(2, 60), (2, 40)]


def test_torch_col_refuses_default_collate_as_the_documentation_says(perm):
    view = perm.select_columns(["id"]).with_format("torch_col")
    with pytest.raises(TypeError, match="must be tuple of Tensors, not Tensor"):
        next(iter(DataLoader(view, batch_size=4)))


def test_rows_and_matrices_collate(perm):
    view = perm.select_columns(["id", "label"])
    for kind in ("torch_row", "numpy"):
        (batch,) = DataLoader(view.with_format(kind), batch_size=100)
        assert batch.shape == (100, 2)


def test_subsets_random_splits_and_concatenations(perm):
    order = perm.to_arrow()["id"].to_pylist()
    subset = Subset(perm, [5, 50, 99])
    assert ids(DataLoader(subset, batch_size=2)) == [order[k] for k in (5, 50, 99)]
    parts = random_split(perm, [30, 70], generator=torch.Generator().manual_seed(0))
    got = [ids(DataLoader(part, batch_size=16)) for part in parts]
    assert [len(part) for part in got] == [30, 70]
    assert sorted(got[0] + got[1]) == order
    both = ConcatDataset([perm, perm])
    assert len(both) == 200
    assert both[150] == perm[50]


STACKED = tables.every_type(7, nulls=False).select(
    ["int32", "float64", "bool", "string", "point"]
)
FORMATS = {
    "python": lambda item: item["int32"],
    "python_col": lambda item: item["int32"],
    "torch": lambda item: item["int32"],
    "torch_dict": lambda item: item["int32"],
    "numpy_dict": lambda item: item["int32"],
    "torch_row": lambda item: item[0],
    "torch_col": lambda item: item[0],
    "torch_matrix": lambda item: item[0],
    "numpy": lambda item: item[0],
    "arrow": lambda item: item["int32"][0].as_py(),
    "pandas": lambda item: item["int32"].iloc[0],
    "polars": lambda item: item["int32"][0],
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("names", ["args", "kwargs"])
@pytest.mark.parametrize("subset", [False, True])
def test_stacks_of_data_sets_are_put_together_by_row(kind, names, subset):
    """Of as many columns as a batch has rows, torch would take those for rows."""
    columns = STACKED.column_names
    if kind in ("torch_row", "torch_col", "torch_matrix", "numpy"):
        columns = ["int32"] * 1 if kind == "torch_matrix" else ["int32", "float64"]
    perm = ll.open(STACKED.select(columns), format=kind)
    other = [f"label {row}" for row in range(7)]
    if subset:
        perm, other = Subset(perm, range(6, -1, -1)), other[::-1]
    parts = {"x": perm, "y": other}
    stack = StackDataset(*parts.values()) if names == "args" else StackDataset(**parts)
    wanted = STACKED["int32"].to_pylist()[:: -1 if subset else 1]
    found = []
    for batch in DataLoader(stack, batch_size=len(columns), collate_fn=list):
        for row in batch:
            item, label = row if names == "args" else (row["x"], row["y"])
            found.append((int(FORMATS[kind](item)), label))
    assert found == list(zip(wanted, other, strict=True))


@pytest.mark.parametrize("kind", ["torch_dict", "numpy_dict", "python_col"])
def test_stacks_collate_as_their_parts_do(kind):
    """Vectors, structs and masks too."""
    data = tables.every_type(7, nulls=False).select(["int32", "point", "struct"])
    options = {"nulls": "mask"} if kind.endswith("_dict") else {}
    perm = ll.open(data)
    perm = perm.with_format(kind, **options)
    stack = StackDataset(a=perm.select_columns(["int32", "point"]), b=perm)
    for found, start in zip(DataLoader(stack, batch_size=3), (0, 3, 6), strict=True):
        wanted = perm[start : start + 3]
        assert found["a"]["int32"].tolist() == list(wanted["int32"])
        if kind != "python_col":
            assert np.array_equal(found["b"]["point"], wanted["point"])
            assert np.array_equal(found["b"]["struct"]["x"], wanted["struct"]["x"])
        if options:
            assert found["a"]["int32_mask"].all()


def test_lists_in_stacks_are_their_own_rows():
    data = pa.table({"x": [[1, 2], [3], [], [4, 5, 6]]})
    stack = StackDataset(ll.open(data, format="torch_dict"))
    batches = DataLoader(stack, batch_size=2, collate_fn=list)
    found = [item["x"].tolist() for batch in batches for (item,) in batch]
    assert found == data["x"].to_pylist()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda batch: batch.num_rows, "a batch of type int"),
        (lambda batch: {"x": [1, 2]}, "`x` of type list does not have one value"),
    ],
)
def test_stacks_of_what_has_no_rows_are_refused(transform, message):
    perm = ll.open(pa.table({"x": range(6)})).with_transform(transform)
    with pytest.raises(ll.errors.FormatError, match=message):
        list(DataLoader(StackDataset(perm), batch_size=3))
    as_a_list = perm.with_transform(lambda batch: batch["x"].to_pylist())
    batches = DataLoader(StackDataset(as_a_list), batch_size=3)
    assert [part.tolist() for (part,) in batches] == [[0, 1, 2], [3, 4, 5]]


def test_samplers(perm):
    order = perm.to_arrow()["id"].to_pylist()
    repeats = RandomSampler(perm, replacement=True, num_samples=250)
    assert len(ids(DataLoader(perm, batch_size=16, sampler=repeats))) == 250
    weights = [1.0 if k == 3 else 0.0 for k in range(100)]
    weighted = WeightedRandomSampler(weights, 20)
    assert set(ids(DataLoader(perm, batch_size=5, sampler=weighted))) == {order[3]}
    batches = BatchSampler(SequentialSampler(perm), 30, drop_last=False)
    assert ids(DataLoader(perm, batch_sampler=batches)) == order


def test_a_batch_sampler_as_the_sampler(perm):
    """``batch_size=None``: whole batches by one index, a list of positions."""
    sampler = BatchSampler(SequentialSampler(perm), 30, drop_last=True)
    loader = DataLoader(
        perm.with_format("torch_dict").select_columns(["id"]),
        batch_size=None,
        sampler=sampler,
    )
    assert [len(batch["id"]) for batch in loader] == [30, 30, 30]


def test_without_batching_an_index_is_a_batch_of_one(perm):
    first = next(iter(DataLoader(perm, batch_size=None)))
    assert first == perm[0]
    assert len(first) == 1


def test_a_loader_over_a_split_of_a_filter_of_a_shuffle(perm):
    view = perm.filter("label = 2").shuffle(seed=1)
    train, val = view.split([0.7, 0.3], seed=2)
    got = ids(DataLoader(train, batch_size=4)) + ids(DataLoader(val, batch_size=4))
    assert sorted(got) == sorted(view.to_arrow()["id"].to_pylist())


def test_it_is_a_dataset_by_shape_and_not_by_class(perm):
    assert not isinstance(perm, torch.utils.data.Dataset)
    assert len(perm) == 100


def test_a_batch_is_a_list_like_any_other():
    perm = ll.open(pa.table({"x": range(4)}))
    wanted = [{"x": 0}, {"x": 1}]

    def batch():
        return perm.__getitems__([0, 1])

    assert batch() == batch()
    assert batch() == wanted
    assert wanted == batch()
    assert batch() + batch() == wanted * 2
    assert operator.add([0], batch()) == [0, *wanted]
    assert functools.reduce(operator.add, [[], batch(), batch()]) == wanted * 2
    assert [*batch()] == wanted
    extended = [0]
    extended.extend(batch())
    assert extended == [0, *wanted]
    assert sorted(batch(), key=lambda row: -row["x"]) == wanted[::-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch[0].update(x=9),
        lambda batch: batch[0].__setitem__("x", 9),
        lambda batch: batch.__setitem__(0, {"x": 9}),
        lambda batch: next(iter(batch)).update(x=9),
    ],
)
def test_changes_to_a_batch_are_collated(change):
    batch = ll.open(pa.table({"x": range(4)})).__getitems__([0, 1])
    assert batch[0] == {"x": 0}
    change(batch)
    assert batch == [{"x": 9}, {"x": 1}]
    assert default_collate(batch)["x"].tolist() == [9, 1]


@pytest.mark.parametrize("stride", [1, 3])
def test_batches_of_a_sequence_are_read_ahead(any_table, stride):
    """As a sequential sampler asks for them, or one of several workers."""
    view = ll.Permutation.identity(any_table).shuffle(3).with_format("numpy_dict")
    wanted = view.to_arrow()["id"].to_pylist()
    settle()
    size = len(view) // 40
    # So long that the threads are not done before anyone looks.
    view = view.with_repeat(10**9).with_read("direct")
    for start in range(0, 12 * size, stride * size):
        rows = view.__getitems__(range(start, start + size))["id"].tolist()
        assert rows == wanted[start : start + size]
        # Two takes may be chance; the third confirms a distance.
        assert bool(threads()) == (start >= 2 * stride * size)
    rows = view.__getitems__(range(5, 5 + size))["id"].tolist()
    assert rows == wanted[5 : 5 + size]
    assert soon(lambda: not threads())
