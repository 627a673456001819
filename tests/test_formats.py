"""Formats: Arrow type × format → dtype, shape, nulls, shared memory.

What LanceDB's own formats give is tested against LanceDB, in ``test_parity.py``; here are the
formats and types that LanceDB does not have.
"""

from __future__ import annotations

import datetime as dt
import itertools
import pickle

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from lanceloader.formats._columns import Ragged

ROWS = 23


def batch_of(data, format, **options):
    return (
        ll.open(data).with_format(format, **options).take_offsets(range(data.num_rows))
    )


@pytest.fixture(scope="module")
def full():
    return tables.every_type(ROWS, nulls=False)


@pytest.fixture(scope="module")
def holes():
    return tables.every_type(ROWS, nulls=True)


NUMBERS = {
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bool": torch.bool,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(full, name):
    tensor = batch_of(full.select([name]), "torch_dict")[name]
    assert tensor.dtype == NUMBERS[name]
    assert tensor.shape == (ROWS,)
    assert tensor.numpy().tolist() == full[name].to_pylist()
    array = batch_of(full.select([name]), "numpy_dict")[name]
    assert array.dtype == tensor.numpy().dtype
    assert array.tolist() == full[name].to_pylist()


TIMES = {
    "timestamp": (torch.int64, "datetime64[us]"),
    "date32": (torch.int32, "datetime64[D]"),
    "duration": (torch.int64, "timedelta64[ms]"),
    "time64": (torch.int64, "int64"),
}


@pytest.mark.parametrize("name", TIMES)
def test_times(full, name):
    dtype, numpy_dtype = TIMES[name]
    tensor = batch_of(full.select([name]), "torch_dict")[name]
    whole = full[name].combine_chunks()
    stored = whole.view(pa.int32() if name == "date32" else pa.int64())
    assert tensor.dtype == dtype
    assert tensor.tolist() == stored.to_pylist()
    array = batch_of(full.select([name]), "numpy_dict")[name]
    assert array.dtype == np.dtype(numpy_dtype)
    if name == "timestamp":
        wanted = [value.replace(tzinfo=None) for value in full[name].to_pylist()]
        assert array.tolist() == wanted
    elif name == "time64":
        assert array.tolist() == stored.to_pylist()
    else:
        assert array.tolist() == full[name].to_pylist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("make", [pa.timestamp, pa.duration])
def test_units_of_time_are_those_of_the_column(unit, make):
    data = pa.table({"t": pa.array([1, 2**40], make(unit))})
    assert batch_of(data, "numpy_dict")["t"].dtype.str.endswith(f"[{unit}]")
    assert batch_of(data, "torch_dict")["t"].tolist() == [1, 2**40]


def test_decimals_become_floats(full):
    wanted = [float(value) for value in full["decimal"].to_pylist()]
    for format in ("torch_dict", "numpy_dict"):
        values = batch_of(full.select(["decimal"]), format)["decimal"]
        assert str(values.dtype).endswith("float64")
        assert values.tolist() == wanted


@pytest.mark.parametrize(
    "name", ["string", "large_string", "binary", "large_binary", "fixed_binary"]
)
@pytest.mark.parametrize("format", ["torch_dict", "numpy_dict"])
def test_text_and_bytes_are_lists_of_objects(full, name, format):
    values = batch_of(full.select([name]), format)[name]
    assert type(values) is list
    assert values == full[name].to_pylist()


def test_dictionaries_are_decoded(full):
    values = batch_of(full.select(["dictionary"]), "torch_dict")["dictionary"]
    assert values == full["dictionary"].to_pylist()
    numbers = pa.array([10, 20, 10]).dictionary_encode()
    data = pa.table({"d": numbers})
    assert batch_of(data, "torch_dict")["d"].tolist() == [10, 20, 10]


def test_vectors_are_matrices(full):
    tensor = batch_of(full.select(["point"]), "torch_dict")["point"]
    assert tensor.dtype == torch.float32
    assert tensor.shape == (ROWS, 4)
    assert tensor.tolist() == full["point"].to_pylist()
    array = batch_of(full.select(["point"]), "numpy_dict")["point"]
    assert array.shape == (ROWS, 4)


@pytest.mark.parametrize("inner", [pa.float16(), pa.int8(), pa.bool_(), pa.uint64()])
def test_vectors_of_every_number(inner):
    rows = [[True, False, True], [False, False, True]]
    if not pa.types.is_boolean(inner):
        rows = np.array(rows).astype(inner.to_pandas_dtype()).tolist()
    data = pa.table({"v": pa.array(rows, pa.list_(inner, 3))})
    tensor = batch_of(data, "torch_dict")["v"]
    assert tensor.shape == (2, 3)
    assert tensor.tolist() == rows


def test_vectors_of_vectors_and_tensors_keep_their_shape():
    nested = pa.list_(pa.list_(pa.float32(), 2), 3)
    rows = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    data = pa.table({"v": pa.array(rows.tolist(), nested)})
    assert np.array_equal(batch_of(data, "torch_dict")["v"].numpy(), rows)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
    data = pa.table({"v": tensors})
    assert np.array_equal(batch_of(data, "numpy_dict")["v"], rows)


def test_lists_are_values_and_offsets(full):
    for name in ("list", "large_list"):
        ragged = batch_of(full.select([name]), "torch_dict")[name]
        assert isinstance(ragged, Ragged)
        assert ragged.offsets.dtype == torch.int64
        assert ragged.offsets.shape == (ROWS + 1,)
        ends = ragged.offsets.tolist()
        rows = [ragged.values[a:b].tolist() for a, b in itertools.pairwise(ends)]
        assert rows == full[name].to_pylist()
    assert ragged.values.dtype == torch.float32


def test_lists_become_a_nested_tensor_in_one_call(full):
    values, offsets = batch_of(full.select(["list"]), "torch_dict")["list"]
    nested = torch.nested.nested_tensor_from_jagged(values, offsets)
    assert [row.tolist() for row in nested.unbind()] == full["list"].to_pylist()


def test_structs_are_dicts(full):
    value = batch_of(full.select(["struct"]), "torch_dict")["struct"]
    assert list(value) == ["x", "s"]
    assert value["x"].dtype == torch.int32
    assert value["x"].tolist() == [row["x"] for row in full["struct"].to_pylist()]
    assert value["s"] == [row["s"] for row in full["struct"].to_pylist()]


def test_slices_of_nested_columns_start_where_they_start(full):
    """Offsets and children of a sliced batch do not begin at zero."""
    for name in ("list", "large_list", "point", "struct", "bool"):
        data = full.select([name]).slice(5, 9)
        whole = batch_of(full.select([name]), "numpy_dict")[name]
        part = batch_of(data, "numpy_dict")[name]
        if isinstance(part, Ragged):
            assert part.offsets[0] == 0
            assert (
                np.diff(part.offsets).tolist() == np.diff(whole.offsets)[5:14].tolist()
            )
        elif isinstance(part, dict):
            assert part["x"].tolist() == whole["x"].tolist()[5:14]
        else:
            assert part.tolist() == whole.tolist()[5:14]


def test_what_no_array_holds_is_named(full):
    with pytest.raises(
        ll.errors.FormatError, match="column `struct_list` of type list<"
    ):
        batch_of(full.select(["struct_list"]), "torch_dict")


HELD = [
    name
    for name in tables.every_type(1, nulls=False).column_names
    if name != "struct_list"
]


def test_a_format_error_is_an_instance_of_lancedb_s_error_type(full):
    view = ll.open(full.select(["string"])).with_format("torch_col")
    with pytest.raises(pa.ArrowTypeError, match="column `string` of type string"):
        view.head()


@pytest.mark.parametrize("format", ["torch_dict", "numpy_dict"])
@pytest.mark.parametrize("name", [name for name in HELD if name != "struct"])
def test_nulls_are_an_error_that_names_the_column(holes, name, format):
    with pytest.raises(
        ll.errors.FormatError, match=f"column `{name}` has .* nulls in 23"
    ):
        batch_of(holes.select([name]), format)


@pytest.mark.parametrize("format", ["torch_dict", "numpy_dict"])
@pytest.mark.parametrize("name", HELD)
def test_a_mask_is_true_where_there_is_a_value(holes, name, format):
    out = batch_of(holes.select([name]), format, nulls="mask")
    assert set(out) == {name, f"{name}_mask"}
    valid = holes[name].is_valid().to_pylist()
    mask = out[f"{name}_mask"]
    assert str(mask.dtype).endswith("bool")
    assert mask.tolist() == valid
    values = out[name]
    if isinstance(values, Ragged):
        ends = values.offsets.tolist()
        values = [values.values[a:b].tolist() for a, b in itertools.pairwise(ends)]
    elif isinstance(values, dict):
        values = [
            {"x": x, "s": s}
            for x, s in zip(values["x"].tolist(), values["s"], strict=True)
        ]
    elif not isinstance(values, list):
        values = values.tolist()
    full = [value for value, ok in zip(values, valid, strict=True) if ok]
    wanted = [value for value in holes[name].to_pylist() if value is not None]
    if name in ("timestamp", "date32", "duration", "time64", "decimal"):
        assert len(full) == len(wanted)
    else:
        assert full == wanted


FILLS = {
    "int32": -1,
    "float32": -1.0,
    "bool": True,
    "string": "none",
    "binary": b"none",
    "timestamp": dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    "list": [7, 8],
    "point": [9.0] * 4,
    "dictionary": "z",
}


@pytest.mark.parametrize("name", FILLS)
def test_nulls_are_filled(holes, name):
    value = FILLS[name]
    wanted = [value if v is None else v for v in holes[name].to_pylist()]
    for fill in (value, {name: value}):
        out = batch_of(
            holes.select([name]), "numpy_dict", nulls="fill", fill_value=fill
        )
        got = out[name]
        if isinstance(got, Ragged):
            ends = got.offsets.tolist()
            got = [got.values[a:b].tolist() for a, b in itertools.pairwise(ends)]
        elif name == "timestamp":
            got = [v.replace(tzinfo=dt.UTC) for v in got.tolist()]
        elif not isinstance(got, list):
            got = got.tolist()
        assert got == wanted


def test_nulls_inside_lists_are_nulls_too():
    data = pa.table({"v": [[1, None], [2]]})
    with pytest.raises(ll.errors.FormatError, match="column `v` has 1 nulls"):
        batch_of(data, "torch_dict")
    with pytest.raises(ll.errors.FormatError, match="nulls inside its lists"):
        batch_of(data, "torch_dict", nulls="mask")
    out = batch_of(data, "torch_dict", nulls="fill", fill_value=0)
    assert out["v"].values.tolist() == [1, 0, 2]


def test_fields_of_structs_follow_the_policy():
    kind = pa.struct({"x": pa.int32()})
    data = pa.table({"m": pa.array([{"x": 1}, {"x": None}, None], kind)})
    with pytest.raises(ll.errors.FormatError, match=r"column `m\.x` has 2 nulls"):
        batch_of(data, "torch_dict")
    out = batch_of(data, "torch_dict", nulls="mask")
    assert out["m_mask"].tolist() == [True, True, False]
    assert out["m"]["x_mask"].tolist() == [True, False, False]
    out = batch_of(data, "torch_dict", nulls="fill", fill_value={"m.x": 5})
    assert out["m"]["x"].tolist() == [1, 5, 5]


BAD_OPTIONS = [
    (("torch_dict",), {"nulls": "ignore"}, ValueError, "`nulls` must be .*'ignore'"),
    (("torch_dict",), {"nulls": "fill"}, ValueError, "requires a `fill_value`"),
    (("torch_dict",), {"fill_value": 3}, ValueError, "only with `nulls"),
    (
        ("torch_dict",),
        {"nulls": "mask", "fill_value": 3},
        ValueError,
        "only with `nulls",
    ),
    (("torch_col",), {"nulls": "mask"}, ValueError, '"torch_col" takes no options'),
    (("arrow",), {"fill_value": 1}, ValueError, '"arrow" takes no options'),
    (("tensor",), {}, ValueError, "Invalid format: tensor"),
    (("Torch",), {}, ValueError, "Invalid format: Torch"),
    ((5,), {}, ValueError, "Invalid format: 5"),
    (([],), {}, (TypeError, ValueError), r"Invalid format|unhashable"),
    ((None,), {}, AssertionError, "format"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), BAD_OPTIONS)
def test_bad_options(full, arguments, options, error, text):
    with pytest.raises(error, match=text):
        ll.open(full).with_format(*arguments, **options)


def test_a_fill_value_of_another_type_is_named(holes):
    view = ll.open(holes.select(["int32"])).with_format(
        "torch_dict", nulls="fill", fill_value="x"
    )
    with pytest.raises(
        ll.errors.FormatError, match="'x' cannot be stored in column `int32` of type"
    ):
        view.head(ROWS)


def test_zero_copy_where_arrow_allows_it(full):
    for name in (
        *(set(NUMBERS) - {"bool"}),
        "timestamp",
        "duration",
        "date32",
        "point",
    ):
        batch = (
            ll.open(full.select([name])).with_format("arrow").take_offsets([3, 1, 2])
        )
        column = batch.column(0)
        values = column.values if name == "point" else column
        address = values.buffers()[1].address
        from lanceloader.formats import numpy as numpy_format
        from lanceloader.formats import torch as torch_format

        assert torch_format.columns(batch)[name].data_ptr() == address
        if name != "date32":  # numpy keeps days in 64 bits
            array = numpy_format.columns(batch)[name]
            assert array.__array_interface__["data"][0] == address
    strings = pa.record_batch({"s": ["a"]})
    assert ll.formats.arrow.batch(strings) is strings


def test_tensors_of_a_batch_may_be_written_to(full):
    for format in ("torch_dict", "torch_col", "torch"):
        view = ll.open(full.select(["int64"])).with_format(format)
        first, again = view.head(3), view.head(3)
        tensor = {"torch_dict": lambda b: b["int64"], "torch_col": lambda b: b[0]}.get(
            format, lambda b: b[0]["int64"]
        )
        tensor(first).fill_(-5)
        assert int(tensor(again).flatten()[0]) == full["int64"][0].as_py()


def test_the_row_format_of_torch_holds_vectors_lists_and_text(full):
    rows = batch_of(full.select(["point", "string", "list", "bool"]), "torch")
    assert rows[3]["point"].tolist() == full["point"][3].as_py()
    assert rows[3]["string"] == full["string"][3].as_py()
    assert rows[3]["list"].tolist() == full["list"][3].as_py()
    assert rows[3]["bool"].dtype == torch.bool


def test_batches_of_columns_are_dicts_that_pickle(full):
    out = batch_of(full.select(["int32", "struct"]), "torch_dict")
    again = pickle.loads(pickle.dumps(out))
    assert isinstance(out, dict)
    assert again["int32"].tolist() == out["int32"].tolist()
    assert dict(again).keys() == out.keys()
    with pytest.raises(KeyError):
        out["nothing"]


def test_a_transform_of_the_user_s_gets_batches():
    data = pa.table({"x": range(10)})
    view = ll.open(data).with_transform(lambda batch: sum(batch["x"].to_pylist()))
    assert list(view.iter(5)) == [10, 35]
    assert view.take_offsets([1, 2]) == 3
    assert view[3] == 3
    with pytest.raises(AssertionError):
        view.with_transform(None)


def test_an_error_of_a_transform_is_the_user_s():
    def fail(batch):
        raise LookupError("in the user's code")

    view = ll.open(pa.table({"x": range(10)})).with_transform(fail)
    with pytest.raises(LookupError, match="in the user's code"):
        view.head()
    with pytest.raises(LookupError, match="in the user's code"):
        next(view.iter(3))


def test_no_rows_in_every_format():
    data = tables.every_type(5, nulls=False).select(
        ["int32", "string", "point", "list"]
    )
    for format in ("torch_dict", "numpy_dict"):
        out = batch_of(data.slice(0, 0), format)
        assert out["int32"].shape == (0,)
        assert out["point"].shape == (0, 4)
        assert out["string"] == []
        assert out["list"].offsets.tolist() == [0]


@pytest.mark.parametrize("names", [["a", "a_mask"], ["a_mask", "a"]])
def test_a_mask_never_replaces_a_column(names):
    perm = ll.open(pa.table({name: [1, None] for name in names}))
    with pytest.raises(ll.errors.FormatError, match="a_mask"):
        perm.with_format("numpy_dict", nulls="mask")[:2]


def test_nulls_of_views_are_filled():
    perm = ll.open(pa.table({"s": pa.array(["a", None], pa.string_view())}))
    batch = perm.with_format("numpy_dict", nulls="fill", fill_value="-")[:2]
    assert list(batch["s"]) == ["a", "-"]
