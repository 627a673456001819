"""Columns of extension types, polars types and the null type in every format."""

from __future__ import annotations

import subprocess
import sys
import types

import lance
import lanceloader as ll
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from equality import same
from lance.arrow import bfloat16_array
from lanceloader.errors import FormatError

ROWS = 12
SHAPES = [
    ([2, 3], [1, 0], ["C", "W"]),
    ([2, 3], None, None),
    ([2, 3], [0, 1], None),
    ([2, 2, 3], [2, 0, 1], None),
    ([3, 1, 4], [1, 2, 0], ["a", "b", "c"]),
    ([6], [0], None),
]


def tensors(shape, permutation, names):
    size = int(np.prod(shape))
    kind = pa.float32()
    kind = pa.fixed_shape_tensor(kind, shape, dim_names=names, permutation=permutation)
    flat = pa.array(np.arange(ROWS * size), kind.value_type)
    storage = pa.FixedSizeListArray.from_arrays(flat, size)
    return pa.ExtensionArray.from_storage(kind, storage)


def logical(column):
    """What the format says: logical dimension i is the physical one with number permutation[i]."""
    shape, order = column.type.shape, column.type.permutation
    physical = column.storage.flatten().to_numpy().reshape(-1, *shape)
    return physical.transpose(0, *(1 + axis for axis in order or range(len(shape))))


def test_the_logical_shape_is_that_of_pyarrow():
    """Of permutations that are their own inverse: pyarrow 26 shows others with elements twice."""
    for shape, permutation, names in SHAPES[:3]:
        column = tensors(shape, permutation, names)
        assert same(logical(column), column.to_numpy_ndarray())


@pytest.fixture(params=["memory", "table", "packed"])
def opened(request, tmp_path):
    """Opens columns as Arrow data in memory, as a table, and as a table that is packed."""

    def open_columns(**columns):
        data = pa.table({"id": range(ROWS), **columns})
        if request.param == "memory":
            half = pa.concat_tables([data.slice(0, 5), data.slice(5)])
            return ll.open(half)
        lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=5)
        perm = ll.open(tmp_path / "t.lance")
        return perm if request.param == "table" else perm.with_read("resident")

    return open_columns


ORDER = [3, 0, 11, 7, 7]


@pytest.mark.parametrize(("shape", "permutation", "names"), SHAPES)
def test_tensors_have_their_logical_shape(opened, shape, permutation, names):
    column = tensors(shape, permutation, names)
    wanted = logical(column)
    perm = opened(x=column)
    for at in (ORDER, [0, 1, 2, 3], []):
        found = perm.with_format("torch_dict").take_offsets(at)["x"]
        assert same(found.numpy(), wanted[at])
        assert same(perm.with_format("numpy_dict").take_offsets(at)["x"], wanted[at])
        rows = perm.with_format("torch").take_offsets(at)
        assert [row["x"].tolist() for row in rows] == wanted[at].tolist()
        cells = perm.with_format("numpy").take_offsets(at)
        assert [cell.tolist() for cell in cells[:, 1]] == wanted[at].tolist()
    for batch in perm.loader(4, shuffle=True, seed=1, format="torch_dict"):
        assert same(batch["x"].numpy(), wanted[batch["id"].numpy()])
    assert perm.schema.field("x").type == column.type


def test_permuted_tensors_are_views_of_their_rows():
    perm = ll.open(pa.table({"x": tensors([2, 3], [1, 0], None)}))
    found = perm.with_format("torch_dict")[:5]["x"]
    assert found.stride() == (6, 1, 3)
    found[0] = 0
    assert perm.with_format("torch_dict")[:5]["x"][0].any()


def test_tensors_with_nulls_follow_the_policy():
    column = tensors([2, 3], [1, 0], None)
    storage = column.storage.to_pylist()
    storage[1] = None
    column = pa.ExtensionArray.from_storage(
        column.type, pa.array(storage, column.type.storage_type)
    )
    perm = ll.open(pa.table({"x": column}))
    batch = perm.with_format("torch_dict", nulls="mask")[:3]
    assert batch["x_mask"].tolist() == [True, False, True]
    assert batch["x"][0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not batch["x"][1].any()
    cells = perm.with_format("numpy")[:3][:, 0]
    assert cells[1] is None
    assert cells[2].shape == (3, 2)
    with pytest.raises(FormatError, match="column `x` has 1 nulls"):
        perm.with_format("torch_dict")[:3]


def test_tensors_inside_of_structs_and_lists():
    column = tensors([2, 3], [1, 0], None)
    wanted = logical(column)
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 12], pa.int32()), column)
    struct = pa.StructArray.from_arrays([column], ["t"])
    batch = ll.open(pa.table({"l": lists})).with_format("numpy_dict")[1:]
    assert same(batch["l"].values, wanted[2:])
    batch = (
        ll.open(pa.table({"s": struct})).with_format("torch_dict").take_offsets(ORDER)
    )
    assert same(batch["s"]["t"].numpy(), wanted[ORDER])


NUMBERS = [1.0, -0.0, 3.25, float("inf"), -2.5, 0.1015625, 7, 8, 9, 10, 11, 12]


def halves(values=NUMBERS):
    return bfloat16_array(values)


def test_lance_s_floats_of_16_bits_in_torch(opened):
    inner = halves([k / 2 for k in range(ROWS * 3)])
    vectors = pa.FixedSizeListArray.from_arrays(inner, 3)
    lists = pa.ListArray.from_arrays(
        pa.array([*range(0, 24, 2), 36], pa.int32()), inner
    )
    perm = opened(x=halves(), v=vectors, l=lists)
    wanted = torch.tensor(NUMBERS, dtype=torch.bfloat16)
    matrix = (torch.arange(ROWS * 3) / 2).to(torch.bfloat16).view(ROWS, 3)
    batch = perm.with_format("torch_dict").take_offsets(ORDER)
    assert same(batch["x"].float(), wanted[ORDER].float())
    assert same(batch["v"].float(), matrix[ORDER].float())
    assert batch["x"].dtype == batch["v"].dtype == torch.bfloat16
    assert batch["l"].values.dtype == torch.bfloat16
    assert batch["l"].values[:2].tolist() == [3.0, 3.5]
    rows = perm.with_format("torch").take_offsets(ORDER)
    assert rows[2]["x"].item() == NUMBERS[11]
    assert rows[1]["v"].tolist() == [0.0, 0.5, 1.0]
    narrow = perm.select_columns(["x"])
    assert same(
        narrow.with_format("torch_col").take_offsets(ORDER)[0].float(),
        wanted[ORDER].float(),
    )
    assert narrow.with_format("torch_row")[2][0].tolist() == [3.25]
    assert narrow.with_format("torch_row")[2][0].dtype == torch.bfloat16
    again = narrow.rename_column("x", "y").select_columns(["y"])
    for view in (narrow, again):
        for at in (ORDER, []):
            found = view.with_format("torch_matrix").take_offsets(at)
            assert found.dtype == torch.bfloat16
            assert same(found.float(), wanted[at].float()[:, None])
    loader = perm.loader(5, shuffle=True, seed=2, format="torch_dict")
    for batch in loader:
        assert same(batch["x"].float(), wanted[batch["id"]].float())
        assert same(batch["v"].float(), matrix[batch["id"]].float())


def test_nulls_among_lance_s_floats_follow_the_policy():
    vectors = pa.FixedSizeListArray.from_arrays(
        halves([1, 2, 3, 4]), 2, mask=pa.array([True, False])
    )
    perm = ll.open(pa.table({"x": halves([None, 2]), "v": vectors}))
    batch = perm.with_format("torch_dict", nulls="mask")[:2]
    assert batch["x"].tolist() == [0, 2]
    assert batch["x_mask"].tolist() == batch["v_mask"].tolist() == [False, True]
    assert batch["v"].tolist() == [[0, 0], [3, 4]]
    fill = {"x": 0.1, "v": [-1, 1e39]}
    batch = perm.with_format("torch_dict", nulls="fill", fill_value=fill)[:2]
    wanted = torch.tensor([0.1, -1, 1e39]).to(torch.bfloat16)
    assert batch["x"][0] == wanted[0]
    assert same(batch["v"][0].float(), wanted[1:].float())
    for value in ("text", [1], float("nan")):
        view = perm.select_columns(["x"])
        view = view.with_format("torch_dict", nulls="fill", fill_value=value)
        if isinstance(value, float):
            assert view[:2]["x"][0].isnan()
        else:
            with pytest.raises(FormatError, match="cannot be stored in column `x`"):
                view[:2]
    with pytest.raises(FormatError, match="column `x` has 1 nulls"):
        perm.with_format("torch_dict")[:2]


@pytest.mark.parametrize("format", ["numpy_dict", "numpy"])
@pytest.mark.parametrize("name", ["x", "v"])
def test_numpy_has_lance_s_floats_with_ml_dtypes_only(format, name, monkeypatch):
    vectors = pa.FixedSizeListArray.from_arrays(halves([1, 2, 3, 4]), 2)
    perm = ll.open(pa.table({"x": halves([1, 2]), "v": vectors})).select_columns([name])
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for at in ([1, 0], []):
        with pytest.raises(FormatError, match=f"`{name}` of type bfloat16.*ml_dtypes"):
            perm.with_format(format).take_offsets(at)
    stand_in = types.ModuleType("ml_dtypes")
    stand_in.bfloat16 = np.dtype("V2")
    monkeypatch.setitem(sys.modules, "ml_dtypes", stand_in)
    found = perm.with_format(format).take_offsets([1, 0])
    values = found[name] if format == "numpy_dict" else found[:, 0]
    if format == "numpy" and name == "v":
        values = np.stack(list(values))
    assert values.dtype == stand_in.bfloat16
    wanted = torch.tensor([2, 1] if name == "x" else [[3, 4], [1, 2]])
    bits = wanted.to(torch.bfloat16).view(torch.int16).numpy()
    assert values.view(np.int16).tolist() == bits.tolist()


def test_numpy_has_lance_s_floats_as_ml_dtypes_does():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    perm = ll.open(pa.table({"x": halves()}))
    found = perm.with_format("numpy_dict")[:]["x"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == NUMBERS


def test_lance_s_floats_need_no_pylance(tmp_path):
    """Until it is imported, pyarrow does not know the type."""
    vectors = pa.FixedSizeListArray.from_arrays(halves([1, 2, 3, 4]), 2)
    data = pa.table({"x": halves([1, -0.0]), "v": vectors})
    lance.write_dataset(data, tmp_path / "t.lance")
    program = f"""
import sys
import lanceloader as ll
perm = ll.open({str(tmp_path / "t.lance")!r})
batch = perm.with_format("torch_dict")[:]
print(batch["x"].dtype, batch["v"].dtype, batch["v"].tolist(), list(perm.strata("x")))
rows = perm.with_format("torch")[:]
print(rows[0]["x"].item(), rows[1]["v"].tolist(), "lance" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "torch.bfloat16 torch.bfloat16 [[1.0, 2.0], [3.0, 4.0]] [1.0, 0.0]",
        "1.0 [3.0, 4.0] False",
    ]


def test_other_extension_types_convert_as_their_storage(opened):
    uuids = [bytes([k]) * 16 for k in range(ROWS)]
    flags = [k % 3 for k in range(ROWS)]
    texts = [f'{{"k":{k}}}' for k in range(ROWS)]
    perm = opened(
        u=pa.ExtensionArray.from_storage(pa.uuid(), pa.array(uuids, pa.binary(16))),
        b=pa.ExtensionArray.from_storage(pa.bool8(), pa.array(flags, pa.int8())),
        j=pa.array(texts, pa.json_()),
    )
    for format in ("torch_dict", "numpy_dict"):
        batch = perm.with_format(format).take_offsets(ORDER)
        assert batch["u"] == [uuids[k] for k in ORDER]
        assert batch["b"].tolist() == [flags[k] for k in ORDER]
        assert str(batch["b"].dtype).endswith("int8")
        assert batch["j"] == [texts[k] for k in ORDER]
    rows = perm.with_format("torch").take_offsets(ORDER)
    assert (rows[2]["u"], rows[2]["b"].item(), rows[2]["j"]) == (
        uuids[11],
        flags[11],
        texts[11],
    )
    narrow = perm.select_columns(["b"])
    assert narrow.with_format("torch_col")[:3].tolist() == [[0, 1, 2]]
    assert narrow.with_format("torch_row")[1][0].tolist() == [1]
    assert narrow.with_format("torch_matrix")[:2].tolist() == [[0], [1]]


def frame():
    """A polars frame of the types that have a layout of their own."""
    words = ["a", None, "b much longer than a view holds", "c"] * 3
    known = [word for word in words[:4] if word]
    return pl.DataFrame(
        {
            "id": range(ROWS),
            "categorical": pl.Series(words, dtype=pl.Categorical),
            "enum": pl.Series(words, dtype=pl.Enum(known)),
            "text": words,
            "bytes": [word and word.encode() for word in words],
            "null": [None] * ROWS,
            "decimal": pl.Series(range(ROWS), dtype=pl.Decimal(9, 2)),
            "struct": pl.Series(
                [{"c": word, "n": None} for word in words],
                dtype=pl.Struct({"c": pl.Categorical, "n": pl.Null}),
            ),
            "array": pl.Series([[1, 2]] * ROWS, dtype=pl.Array(pl.Int32, 2)),
            "list": pl.Series([[k] * (k % 3) for k in range(ROWS)]),
            "nothing": pl.Series([[None] * (k % 3) for k in range(ROWS)]),
        }
    )


def plain(data):
    """The same values in Arrow's oldest types."""
    values = data.to_dict(as_series=False)
    kinds = {
        "decimal": pa.decimal128(9, 2),
        "array": pa.list_(pa.int32(), 2),
        "null": pa.int64(),
        "nothing": pa.list_(pa.int64()),
        "struct": pa.struct({"c": pa.string(), "n": pa.int64()}),
    }
    return pa.table(
        {name: pa.array(column, kinds.get(name)) for name, column in values.items()}
    )


FILL = {
    "categorical": "-",
    "enum": "-",
    "text": "-",
    "bytes": b"-",
    "null": 7,
    "struct.c": "-",
    "struct.n": 8,
    "nothing": 9,
}


@pytest.mark.parametrize("format", ["torch_dict", "numpy_dict"])
@pytest.mark.parametrize(
    "options", [{"nulls": "fill", "fill_value": FILL}, {"nulls": "mask"}]
)
def test_polars_frames_convert_as_plain_columns(format, options):
    data = frame()
    if options["nulls"] == "mask":
        data = data.drop("nothing")
    ours = ll.open(data).with_format(format, **options)
    theirs = ll.open(plain(data)).with_format(format, **options)
    for at in (ORDER, range(ROWS), []):
        assert same(ours.take_offsets(at), theirs.take_offsets(at))
    loaders = [
        perm.loader(5, shuffle=True, seed=1, drop_last=False) for perm in (ours, theirs)
    ]
    for a, b in zip(*loaders, strict=True):
        assert same(dict(a), dict(b))


def test_columns_of_nothing_are_an_error_that_names_them():
    perm = ll.open(pa.table({"n": pa.nulls(3)})).with_format("torch_dict")
    with pytest.raises(FormatError, match="column `n` has 3 nulls in 3 rows"):
        perm[:3]
    assert perm[:0]["n"].shape == (0,)


def test_frames_of_polars_as_they_are_and_as_those_of_pandas():
    data = frame()
    perm = ll.open(data)
    assert perm.to_polars().equals(data)
    assert perm.with_format("polars")[:].equals(data)
    names = ["id", "categorical", "text", "struct"]
    for view in (perm, perm.shuffle(seed=1)):
        frames = [view.to_pandas(), view.with_format("pandas")[:]]
        rows = view.to_arrow().to_pydict()
        for found in frames:
            for name in names:
                values = [None if v != v else v for v in found[name].tolist()]
                assert values == rows[name]
        cells = view.select_columns(names).with_format("numpy")[:]
        assert cells[:, 3].tolist() == rows["struct"]


def test_frames_of_polars_in_the_formats_of_rows():
    data = frame().select("id", "categorical", "text")
    perm = ll.open(data).filter(np.array([k % 4 != 1 for k in range(ROWS)]))
    rows = perm.with_format("torch")[:2]
    assert (
        rows[1]["categorical"] == rows[1]["text"] == "b much longer than a view holds"
    )
    for format in ("python", "pandas", "polars", "arrow", "numpy", "python_col"):
        perm.with_format(format)[:4]


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_frames_of_polars_are_materialized(tmp_path, is_shuffled):
    data = frame()
    view = ll.open(pl.concat([data, data.reverse()], rechunk=False))
    if is_shuffled:
        view = view.shuffle(seed=3)
    copy = view.materialize(tmp_path / "copy.lance")
    assert copy.to_arrow().to_pydict() == view.to_arrow().to_pydict()
    assert copy.head(4) == view.head(4)
    again = copy.materialize(tmp_path / "again.lance")
    assert again.to_arrow().to_pydict() == view.to_arrow().to_pydict()


def test_columns_that_arrow_has_no_type_for_are_an_error():
    data = pl.DataFrame({"x": pl.Series([1], dtype=pl.Int128)})
    with pytest.raises(
        ll.errors.UnsupportedError, match="column of the DataFrame has a type"
    ):
        ll.open(data)
