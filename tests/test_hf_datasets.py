"""Hugging Face datasets as tables: rows, indices, columns, formats, pickles and memory."""

from __future__ import annotations

import pickle
import subprocess
import sys

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.errors import UnsupportedError

datasets = pytest.importorskip("datasets")

ROWS = 3210
FEATURES = datasets.Features(
    {
        "x": datasets.Value("int32"),
        "label": datasets.ClassLabel(names=["neg", "pos"]),
        "text": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("int64")),
        "image": datasets.Array2D((2, 3), "float32"),
    }
)


def columns():
    return {
        "x": list(range(ROWS)),
        "label": [i % 2 for i in range(ROWS)],
        "text": [f"word {i}" for i in range(ROWS)],
        "tokens": [list(range(i % 5)) for i in range(ROWS)],
        "image": [[[i, 1, 2], [3, 4, 5]] for i in range(ROWS)],
    }


@pytest.fixture(scope="module", autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("datasets"))
    datasets.Dataset.from_dict(columns(), features=FEATURES).save_to_disk(path)
    return path


@pytest.fixture(scope="module")
def mapped(folder):
    """A dataset in memory-mapped files."""
    return datasets.load_from_disk(folder)


CHAINS = {
    "as it is": lambda d: d,
    "shuffled": lambda d: d.shuffle(seed=3),
    "selected": lambda d: d.select([5, 3, 3, ROWS - 1, 0]),
    "a range": lambda d: d.select(range(1000, 2000)),
    "twice": lambda d: d.shuffle(seed=3).select(range(100, 900, 7)),
    "filtered": lambda d: d.filter(lambda row: row["x"] % 3 == 0),
    "a shard": lambda d: d.shard(4, 1),
    "columns": lambda d: d.shuffle(seed=1).select_columns(["text", "x"]),
    "renamed": lambda d: d.rename_column("x", "z").shuffle(seed=1),
    "concatenated": lambda d: datasets.concatenate_datasets(
        [d.shuffle(seed=1).select(range(10)), d.select(range(20))]
    ),
    "a part": lambda d: d.train_test_split(test_size=0.1, seed=1)["test"],
    "empty": lambda d: d.select([]),
    "sorted": lambda d: d.sort("text"),
    "mapped": lambda d: d.map(lambda row: {"y": row["x"] * 2}),
}


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("where", ["files", "memory"])
def test_rows_are_those_of_the_dataset(mapped, chain, where):
    data = mapped
    if where == "memory":
        data = datasets.Dataset.from_dict(columns(), features=FEATURES)
    data = CHAINS[chain](data)
    perm = ll.open(data)
    assert len(perm) == len(data)
    assert perm.column_names == data.column_names
    assert perm[:] == data.to_list()
    if len(data):
        assert perm.row(-1) == data[-1]
        assert perm[[0, len(data) - 1, 0]] == [data[0], data[-1], data[0]]
    loader = perm.loader(64, shuffle=True, seed=7)
    found = [str(row) for batch in loader for row in batch]
    assert sorted(found) == sorted(map(str, data.to_list()))


def test_a_shuffle_is_of_the_order_of_the_dataset(mapped):
    data = mapped.shuffle(seed=3).select(range(500))
    shuffled = ll.open(data).shuffle(seed=9)
    positions = ll.open(pa.table({"at": range(500)})).shuffle(seed=9)
    wanted = data[positions.to_arrow()["at"].to_pylist()]["x"]
    assert shuffled.to_arrow()["x"].to_pylist() == wanted
    assert ll.open(data).filter("x < 100")[:] == [
        row for row in data.to_list() if row["x"] < 100
    ]


FORMATS = {
    None: "python",
    "numpy": "numpy_dict",
    "torch": "torch_dict",
    "arrow": "arrow",
    "pandas": "pandas",
    "polars": "polars",
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_the_dataset(mapped, name):
    data = mapped.shuffle(seed=1).with_format(name, columns=["label", "x"])
    perm = ll.open(data)
    wanted = ll.open(
        mapped.shuffle(seed=1), columns=["label", "x"], format=FORMATS[name]
    )
    assert perm.column_names == ["label", "x"]
    assert perm.transform_fn == wanted.transform_fn
    batch = perm[:5]
    if name in ("numpy", "torch"):
        assert batch["x"].tolist() == data[:5]["x"].tolist()
        assert isinstance(batch["x"], np.ndarray if name == "numpy" else torch.Tensor)
    assert ll.open(data, format="python", columns=["x"])[:2] == [
        {"x": int(x)} for x in mapped.shuffle(seed=1)[:2]["x"]
    ]


def test_features_are_kept(mapped):
    schema = ll.open(mapped).schema
    assert datasets.Features.from_arrow_schema(schema) == FEATURES
    assert schema.field("label").type == pa.int64()


@pytest.mark.parametrize("format", ["numpy_dict", "torch_dict"])
def test_arrays_have_their_shape(mapped, format):
    batch = ll.open(mapped, columns=["image"], format=format)[5:8]
    assert tuple(batch["image"].shape) == (3, 2, 3)
    assert batch["image"][0].tolist() == [[5, 1, 2], [3, 4, 5]]


def test_files_stay_mapped(mapped):
    """The buffers are those of the dataset, and pickles name the files."""
    perm = ll.open(mapped.shuffle(seed=1))
    theirs = mapped.data.table["x"].chunk(0).buffers()[1].address
    assert perm.source.to_arrow()["x"].chunk(0).buffers()[1].address == theirs
    before = pa.total_allocated_bytes()
    again = pickle.loads(pickle.dumps(perm))
    assert pa.total_allocated_bytes() - before < 100_000
    assert again[:10] == perm[:10]
    assert mapped.cache_files[0] in again.base_table.cache_files
    assert len(pickle.dumps(ll.open(mapped))) < 10_000


def test_another_process_reads_the_same_rows(mapped, tmp_path):
    perm = ll.open(mapped.shuffle(seed=1).with_format("torch"))
    path = tmp_path / "perm.pickle"
    path.write_bytes(pickle.dumps(perm))
    code = (
        "import pickle, sys; perm = pickle.load(open(sys.argv[1], 'rb')); "
        "print(perm[:5]['x'].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(perm[:5]["x"].tolist())


def test_what_is_no_dataset_of_rows(mapped):
    both = datasets.DatasetDict(train=mapped, test=mapped)
    with pytest.raises(
        TypeError, match=r"'train', 'test'.*ll.open\(dataset\['train'\]\)"
    ):
        ll.open(both)
    stream = mapped.to_iterable_dataset()
    with pytest.raises(
        TypeError, match="IterableDataset, which has no rows by position"
    ):
        ll.open(stream)
    with pytest.raises(TypeError, match="dictionary of the datasets 'a'"):
        ll.open(datasets.IterableDatasetDict(a=stream))
    with pytest.raises(UnsupportedError, match=r"has a transform.*map\(\)"):
        ll.open(mapped.with_transform(lambda batch: batch))
    with pytest.raises(TypeError, match="`version` can only be passed with a path"):
        ll.open(mapped, version=3)


def test_datasets_is_not_imported(folder):
    code = "import lanceloader as ll, sys, pyarrow as pa; ll.open(pa.table({'x': [1]}))[:]; print('datasets' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_both_names_do_the_same(mapped):
    """Of methods that have the same names, where the results do not depend on random numbers."""
    perm = ll.open(mapped)
    for call in (
        lambda d: d.select(range(10, 50, 3)),
        lambda d: d.take(7),
        lambda d: d.skip(ROWS - 5),
        lambda d: d.take(30).skip(20).take(5),
        lambda d: d.filter(lambda row: row["x"] > 3200),
        lambda d: d.filter(lambda batch: [x > 3200 for x in batch["x"]], batched=True),
        lambda d: d.take(3).map(lambda row: {"y": [row["x"]] * 2}),
        lambda d: d.take(3).map(
            lambda batch: {"y": [len(t) for t in batch["text"]]},
            batched=True,
            remove_columns=["text", "image"],
        ),
        lambda d: d.train_test_split(0.3, shuffle=False)["test"],
        lambda d: d.train_test_split(test_size=11, shuffle=False)["train"].take(2),
        lambda d: d.take(2).remove_columns(["text"]),
        lambda d: d.take(2).select_columns(["text", "x"]),
        lambda d: d.take(2).repeat(2),
    ):
        assert call(perm).to_arrow().to_pylist() == call(mapped).to_list()
    assert perm.num_rows == mapped.num_rows
    assert perm.shape == mapped.shape
    assert perm.unique("label") == mapped.unique("label")
