"""``map`` and ``filter`` with functions, against loops over rows."""

from __future__ import annotations

import pickle

import functions
import lance
import lanceloader as ll
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import tables
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.errors import FormatError
from torch.utils.data import DataLoader

ROWS = 57


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "t.lance"
    data = tables.narrow(ROWS).append_column(
        "tags", [[[i] * (i % 3) for i in range(ROWS)]]
    )
    return lance.write_dataset(data, path, max_rows_per_file=20).uri


@pytest.fixture(scope="module")
def perm(uri):
    return ll.open(uri).shuffle(seed=4)


@pytest.fixture(scope="module")
def rows(perm):
    return perm[:]


def wanted(rows, *functions, removed=()):
    """What functions of rows give, one row after the other."""
    out = []
    for row in rows:
        for function in functions:
            row = {k: v for k, v in row.items() if k not in removed} | function(row)
        out.append(row)
    return out


def by_columns(function):
    """The same function, of columns."""

    def batched(columns):
        number = len(next(iter(columns.values())))
        found = [
            function({name: values[at] for name, values in columns.items()})
            for at in range(number)
        ]
        return (
            {name: [row[name] for row in found] for name in found[0]} if found else {}
        )

    return batched


FUNCTIONS = {
    "number": lambda row: {"double": 2 * row["id"]},
    "replaced": lambda row: {"name": row["name"].upper()},
    "text": lambda row: {"text": f"{row['id']}-{row['label']}"},
    "list": lambda row: {"tags": [*row["tags"], row["id"]]},
    "struct": lambda row: {"both": {"id": row["id"], "name": row["name"]}},
    "null": lambda row: {"maybe": None if row["id"] % 2 else row["id"]},
    "nothing": lambda row: {},
}


@given(
    names=st.lists(st.sampled_from(sorted(FUNCTIONS)), min_size=1, max_size=3),
    batched=st.booleans(),
    removed=st.sampled_from([(), ("x",), ("x", "y", "no such")]),
    take=st.integers(1, ROWS),
)
def test_map_is_a_loop_over_rows(perm, rows, names, batched, removed, take):
    mapped = perm.take(take)
    for name in names:
        function = FUNCTIONS[name]
        function = by_columns(function) if batched else function
        mapped = mapped.map(function, batched=batched, remove_columns=removed)
    expected = wanted(rows[:take], *(FUNCTIONS[n] for n in names), removed=removed)
    assert mapped[:] == expected
    assert len(mapped) == take
    assert mapped[take - 1] == expected[-1:]
    assert mapped.row(0) == expected[0]
    assert [row for batch in mapped.iter(10) for row in batch] == expected
    assert mapped.to_arrow().to_pylist() == expected
    assert list(mapped.iter_rows()) == expected


@pytest.mark.parametrize(
    "options", [{}, {"transform_threads": 0}, {"transform_threads": 3}, {"epochs": 2}]
)
def test_map_in_a_loader(perm, rows, options):
    loader = perm.map(functions.double).loader(8, **options)
    found = [row for batch in loader for row in batch]
    epochs = [perm.with_epoch(epoch)[:] for epoch in range(options.get("epochs", 1))]
    assert epochs[0] == rows
    assert found == [row for each in epochs for row in wanted(each, functions.double)]


def test_functions_run_in_threads_of_a_loader(perm):
    import threading

    seen = set()

    def note(columns):
        seen.add(threading.current_thread())
        return

    batches = list(perm.map(note, batched=True).loader(8, format="numpy_dict"))
    assert threading.main_thread() not in seen
    assert sorted(np.concatenate([b["id"] for b in batches])) == list(range(ROWS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_map_in_other_processes(uri):
    perm = ll.open(uri).select_columns(["id"]).map(functions.double)
    expected = wanted(perm.take(ROWS).with_format("python")[:])
    loader = perm.loader(8, in_process=False)
    assert [row for batch in loader for row in batch] == expected
    torch_loader = DataLoader(perm, 8, num_workers=2)
    assert torch.cat([b["double"] for b in torch_loader]).tolist() == [
        2 * i for i in range(ROWS)
    ]


def test_map_in_torch_s_loader_and_in_pickles(perm, rows):
    mapped = pickle.loads(pickle.dumps(perm.map(functions.double)))
    assert mapped[:] == wanted(rows, functions.double)
    narrow = perm.select_columns(["id"]).map(functions.double)
    batch = next(iter(DataLoader(narrow.select(range(5)), 5)))
    assert batch["double"].tolist() == [2 * row["id"] for row in rows[:5]]


@pytest.mark.parametrize(
    "format", ["torch_dict", "numpy_dict", "arrow", "pandas", "polars"]
)
def test_the_format_comes_after_the_functions(perm, rows, format):
    """``ds.map(tokenize, batched=True).with_format("torch")``, the other idiom."""
    narrow = perm.select_columns(["id", "name"])
    mapped = narrow.map(by_columns(FUNCTIONS["number"]), batched=True)
    ids = [row["id"] for row in rows]
    (loaded,) = mapped.loader(ROWS, format=format)
    for batch in (mapped.with_format(format)[:], loaded):
        found = batch["double"].tolist() if "dict" in format else list(batch["double"])
        found = pa.array(batch["double"]).to_pylist() if format == "arrow" else found
        assert found == [2 * i for i in ids]


def test_functions_get_what_the_format_holds(perm):
    def kinds(values):
        seen.append(type(values["id"]))

    for format, batched, kind in [
        ("python", False, int),
        ("python", True, list),
        ("python_col", True, list),
        ("numpy_dict", True, np.ndarray),
        ("numpy_dict", False, np.int64),
        ("numpy", True, np.ndarray),
        ("torch_dict", True, torch.Tensor),
        ("torch", False, torch.Tensor),
        ("torch_matrix", True, torch.Tensor),
        ("pandas", True, pd.Series),
        ("polars", True, pl.Series),
    ]:
        seen: list[type] = []
        narrow = perm.select_columns(["id"]).with_format(format)
        narrow.map(kinds, batched=batched)[:3]
        assert seen
        assert all(issubclass(found, kind) for found in seen), format


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(6).reshape(3, 2), pa.list_(pa.int64(), 2)),
        (np.zeros((3, 2, 2), np.float32), pa.list_(pa.list_(pa.float32(), 2), 2)),
        (torch.arange(3), pa.int64()),
        (torch.zeros(3, 4), pa.list_(pa.float32(), 4)),
        (torch.zeros(3, dtype=torch.bfloat16), pa.float32()),
        ([np.arange(2), np.arange(3), np.arange(0)], pa.list_(pa.int64())),
        ([torch.arange(2)] * 3, pa.list_(pa.int64())),
        ([torch.tensor(1.5)] * 3, pa.float64()),
        ([np.zeros((2, 2))] * 3, pa.list_(pa.list_(pa.float64(), 2), 2)),
        (ll.Ragged(np.arange(3), np.array([0, 1, 1, 3])), pa.large_list(pa.int64())),
        (pa.array(["a", "b", None]), pa.string()),
        (pa.chunked_array([["a"], ["b", None]]), pa.string()),
        (pd.Series([1.5, 2, 3]), pa.float64()),
        (pl.Series([1, 2, 3]), pa.int64()),
        ((True, False, None), pa.bool_()),
        ({"a": [1, 2, 3]}, pa.struct({"a": pa.int64()})),
    ],
)
def test_results_become_arrow_data(values, kind):
    perm = ll.open(pa.table({"x": range(3)})).map(lambda _: {"y": values}, batched=True)
    column = perm.to_arrow()["y"]
    assert column.type == kind
    assert len(column) == 3


def test_whole_batches_are_used_in_place(perm, rows):
    narrow = perm.select_columns(["id", "label"])

    def ours(frame):
        return frame.assign(double=frame["id"] * 2).drop(columns="label")

    def theirs(frame):
        return frame.select("id", double=frame["id"] * 2)

    def arrow(batch):
        return pa.table(
            {"id": batch["id"], "double": [2 * i for i in batch["id"].to_pylist()]}
        )

    expected = [{"id": row["id"], "double": 2 * row["id"]} for row in rows]
    for format, function in [("pandas", ours), ("polars", theirs), ("arrow", arrow)]:
        mapped = narrow.with_format(format).map(function, batched=True)
        assert mapped.to_arrow().to_pylist() == expected
        assert mapped.with_format("python")[:] == expected
        with pytest.raises(ValueError, match="pass batched=True"):
            narrow.with_format(format).map(function)


def test_materialize_stores_the_results(perm, rows, tmp_path):
    mapped = perm.map(FUNCTIONS["list"]).map(
        functions.double, remove_columns=["x", "y"]
    )
    stored = mapped.materialize(tmp_path / "new.lance")
    assert stored[:] == mapped[:]
    assert stored.column_names == ["id", "label", "name", "tags", "double"]
    empty = perm.take(0).map(functions.double).materialize(tmp_path / "empty.lance")
    assert len(empty) == 0

    def changing(row):
        return {"odd": "text" if row["id"] == rows[-1]["id"] else 1}

    by_one = perm.map(changing)
    with pytest.raises(FormatError, match=r"`odd`.*cannot be stored"):
        by_one.materialize(tmp_path / "mixed.lance")


def test_types_may_not_change_while_a_table_is_written(tmp_path):
    perm = ll.open(pa.table({"x": range(2500)}))

    def changing(columns):
        late = columns["x"][0] >= 2000
        return {"y": ["late" if late else 1] * len(columns["x"])}

    with pytest.raises(FormatError, match="the same columns and types for all rows"):
        perm.map(changing, batched=True).materialize(tmp_path / "t.lance")
    widened = perm.map(
        lambda columns: {
            "y": [None if columns["x"][0] < 1000 else 1] * len(columns["x"])
        },
        batched=True,
    )
    assert widened.to_arrow()["y"].null_count == 1000


@pytest.mark.parametrize(
    ("function", "batched", "error", "match"),
    [
        (lambda row: 3, False, TypeError, "must return a dict.*not int"),
        (lambda batch: [3], True, TypeError, "must return a dict of columns.*not list"),
        (lambda batch: {"y": [1]}, True, ValueError, "1 values of `y` for 57 rows"),
        (lambda batch: {"y": "abc"}, True, TypeError, "a value of `y` for each row"),
        (lambda batch: {"y": 3}, True, TypeError, "a value of `y` for each row"),
        (lambda row: {"y": object()}, False, FormatError, "`y`.*cannot be stored"),
        (lambda batch: pa.table({"y": [1]}), True, ValueError, "1 values of the batch"),
    ],
)
def test_wrong_results_are_refused(perm, function, batched, error, match):
    with pytest.raises(error, match=match) as caught:
        perm.map(function, batched=batched)[:]
    assert any("row offsets" in note for note in caught.value.__notes__)


def test_errors_of_functions_name_rows(perm):
    def fails(row):
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone") as caught:
        list(perm.map(fails).loader(10))
    assert any("row offsets" in note for note in caught.value.__notes__)

    def stops(row):
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(perm.map(stops).loader(10))


def test_what_cannot_follow_map(perm):
    mapped = perm.map(functions.double)
    for call in (
        lambda: mapped.select_columns(["id"]),
        lambda: mapped.remove_columns(["x"]),
        lambda: mapped.rename_column("id", "key"),
        lambda: mapped.rename_columns({"id": "key"}),
        lambda: mapped.flatten(),
    ):
        with pytest.raises(ValueError, match=r"cannot follow map\(\)"):
            call()
    with pytest.raises(ValueError, match=r"materialize\(\), and pack the new table"):
        mapped.pack(8, column="tags")
    with pytest.raises(ValueError, match="a mixture cannot call"):
        ll.mix([mapped, mapped])
    with pytest.raises(ValueError, match=r"map\(\) or filter\(\) first"):
        perm.with_transform(len).map(functions.double)
    with pytest.raises(TypeError, match="must be a function"):
        perm.map(None)
    with pytest.raises(TypeError, match="not a string"):
        perm.map(functions.double, remove_columns="x")
    with pytest.raises(ValueError, match="leaves no column"):
        perm.map(lambda row: None, remove_columns=perm.column_names)[:]


def test_columns_of_the_table_stay_those_of_the_table(perm, rows):
    """Splits, samples, sizes and SQL read what is stored; functions run on the rows that remain."""
    mapped = perm.map(lambda row: {"label": 100, "new": row["id"]})
    assert mapped.column_names == perm.column_names
    assert sorted(mapped.unique("label")) == sorted({row["label"] for row in rows})
    expected = [row["id"] for row in rows if row["label"] == 2]
    assert [row["new"] for row in mapped.filter("label = 2")[:]] == expected
    train, test = mapped.split([0.5, 0.5], seed=1, stratify_by="label")
    assert {row["label"] for row in train[:] + test[:]} == {100}
    assert mapped.sample(5, seed=1, weights="label")[:][0]["label"] == 100
    assert mapped.with_transform(lambda batch: batch.schema.names)[:][-1] == "new"


@given(modulus=st.integers(1, 9), batched=st.booleans(), seed=st.integers(0, 3))
def test_filter_by_a_function_is_a_loop(modulus, batched, seed):
    perm = ll.open(pa.table({"x": range(1203)})).shuffle(seed)

    def keep(row):
        return row["x"] % modulus == 0

    def keep_batch(columns):
        return [x % modulus == 0 for x in columns["x"]]

    kept = perm.filter(keep_batch if batched else keep, batched=batched)
    assert kept[:] == [row for row in perm[:] if keep(row)]


def test_filter_by_functions_in_formats(perm, rows):
    expected = [row["id"] for row in rows if row["id"] > 30]
    for format in ("numpy_dict", "torch_dict", "pandas", "polars"):
        view = perm.select_columns(["id"]).with_format(format)
        kept = view.filter(lambda batch: batch["id"] > 30, batched=True)
        assert kept.to_arrow()["id"].to_pylist() == expected
    tensors = perm.select_columns(["id"]).with_format("torch")
    assert len(tensors.filter(lambda row: row["id"] > 30)) == len(expected)
    mapped = perm.map(functions.double).filter(lambda row: row["double"] > 60)
    assert [row["id"] for row in mapped[:]] == expected
    assert len(perm.take(0).filter(lambda row: 1 / 0)) == 0


@pytest.mark.parametrize(
    ("function", "batched", "error", "match"),
    [
        (
            lambda row: row["name"],
            False,
            TypeError,
            "True or False for each row, not 'row",
        ),
        (lambda row: None, False, TypeError, "not None"),
        (lambda batch: [True], True, ValueError, r"shape \(1,\) for 57 rows"),
        (lambda batch: True, True, ValueError, r"shape \(\) for 57 rows"),
    ],
)
def test_filter_refuses(perm, function, batched, error, match):
    with pytest.raises(error, match=match):
        perm.filter(function, batched=batched)


def test_explain_counts_functions(perm):
    assert "map " not in perm.explain()
    mapped = perm.map(functions.double)
    assert "map       1 function, called when rows are read" in mapped.explain()
    assert (
        "map       2 functions" in mapped.map(functions.halves, batched=True).explain()
    )


def test_batched_needs_a_function(perm):
    with pytest.raises(ValueError, match="option of a function"):
        perm.filter("id > 3", batched=True)
    for call in (perm.map, perm.filter):
        with pytest.raises(
            TypeError, match="`batched` must be True or False, not 'no'"
        ):
            call(functions.double, batched="no")
