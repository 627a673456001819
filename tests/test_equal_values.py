"""Which values are the same: one answer for every verb and every type, against plain Python.

Rows are numbered by their values in plain Python first. A verb must then do with the values what it
does with the numbers.
"""

from __future__ import annotations

import math
import struct

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lance.arrow import BFloat16Type

PAGE = determinism_page.load()
ROWS = 60
NAMES = ["a", "a much longer name, beyond a view", "", None, "b"]


def repeated(values, kind=None):
    return pa.array([values[k * 7 % len(values)] for k in range(ROWS)], kind)


def floats(dtype):
    """Zeros of both signs, NaNs of both signs and of several bits, a null."""
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    nan = np.array([np.nan], dtype).view(bits)
    odd = (nan + 1).view(dtype)
    values = np.concatenate([[0.0, -0.0, np.nan, -np.nan, 1.5], odd, -odd]).astype(
        dtype
    )
    values[5:] = [odd[0], -odd[0]]
    picked = values[np.arange(ROWS) * 5 % len(values)]
    return pa.array(picked, mask=np.arange(ROWS) % 11 == 3)


def bfloat16():
    wide = floats(np.float32)
    bits = np.array(
        [
            0 if v is None else struct.unpack("<I", struct.pack("<f", v))[0]
            for v in wide.to_pylist()
        ],
        np.uint32,
    )
    storage = [
        None if value is None else struct.pack("<H", b >> 16)
        for b, value in zip(bits.tolist(), wide.to_pylist(), strict=True)
    ]
    kind = BFloat16Type()
    return pa.ExtensionArray.from_storage(kind, pa.array(storage, pa.binary(2)))


def wrapped(kind, values, storage):
    return pa.ExtensionArray.from_storage(kind, repeated(values, storage))


def coded(values, kind, index="int32"):
    """A dictionary whose values are neither unlike each other nor all valid."""
    known = pa.array([*values, *values, None], kind)
    keys = [None if k % 13 == 5 else k * 7 % len(known) for k in range(ROWS)]
    return pa.DictionaryArray.from_arrays(pa.array(keys, getattr(pa, index)()), known)


def polars(name, values):
    import polars as pl

    kind = {
        "categorical": pl.Categorical,
        "enum": pl.Enum([value for value in values if value is not None]),
        "text": pl.String,
        "bytes": pl.Binary,
        "null": pl.Null,
    }[name]
    picked = [values[k * 7 % len(values)] for k in range(ROWS)]
    if name == "bytes":
        picked = [None if value is None else value.encode() for value in picked]
    return pa.table(pl.DataFrame({"y": pl.Series(picked, dtype=kind)}))[
        "y"
    ].combine_chunks()


UUIDS = [bytes([k]) * 16 for k in range(3)]

COLUMNS = {
    "float64": lambda: floats(np.float64),
    "float32": lambda: floats(np.float32),
    "float16": lambda: floats(np.float16),
    "bfloat16": bfloat16,
    "int": lambda: repeated([3, 0, -1, None], pa.int16()),
    "uint64": lambda: repeated([2**64 - 1, 0, None], pa.uint64()),
    "bool": lambda: repeated([True, None, False]),
    "string": lambda: repeated(NAMES, pa.string()),
    "large_string": lambda: repeated(NAMES, pa.large_string()),
    "string_view": lambda: repeated(NAMES, pa.string_view()),
    "binary_view": lambda: repeated([b"a", None, b"b" * 40], pa.binary_view()),
    "large_binary": lambda: repeated([b"a", None, b""], pa.large_binary()),
    "fixed_binary": lambda: repeated([b"ab", None, b"cd"], pa.binary(2)),
    "null": lambda: pa.nulls(ROWS),
    "decimal128": lambda: repeated([1, None, 2]).cast(pa.decimal128(21, 2)),
    "decimal32": lambda: repeated([1, None, 2], pa.int8()).cast(pa.decimal32(5, 2)),
    "timestamp": lambda: repeated([1, None, 2], pa.timestamp("us", "UTC")),
    "dictionary": lambda: coded(["a", "b"], pa.string()),
    "dictionary_of_views": lambda: coded(["a", "b"], pa.string_view(), "uint8"),
    "dictionary_of_bytes": lambda: coded([b"a", b"b"], pa.binary_view()),
    "dictionary_of_floats": lambda: coded([0.0, -0.0, math.nan], pa.float64()),
    "bool8": lambda: wrapped(pa.bool8(), [1, None, 0], pa.int8()),
    "uuid": lambda: wrapped(pa.uuid(), [*UUIDS, None], pa.binary(16)),
    "json": lambda: wrapped(pa.json_(), ["{}", None, "[1]"], pa.string()),
    "polars_categorical": lambda: polars("categorical", NAMES),
    "polars_enum": lambda: polars("enum", NAMES),
    "polars_text": lambda: polars("text", NAMES),
    "polars_bytes": lambda: polars("bytes", NAMES),
    "polars_null": lambda: polars("null", [None]),
}


def python_values(column):
    """The values as Python objects, of extension types as they are stored."""
    name = getattr(column.type, "extension_name", None)
    if name == "lance.bfloat16":
        return [
            None if v is None else struct.unpack("<f", b"\0\0" + v)[0]
            for v in column.storage.to_pylist()
        ]
    return (column.storage if name else column).to_pylist()


def key_of(value):
    return "NaN" if isinstance(value, float) and math.isnan(value) else (value,)


def codes_of(values):
    seen = {}
    return [seen.setdefault(key_of(value), len(seen)) for value in values]


def ids(perm):
    return perm.select_columns(["id"]).to_arrow()["id"].to_pylist()


def all_ids(parts):
    return [ids(part) for part in parts]


@pytest.fixture(params=COLUMNS)
def case(request):
    """A permutation over two chunks, the second cut out of a longer one; and plain values."""
    column = COLUMNS[request.param]()
    values = python_values(column)
    chunks = pa.chunked_array([column.slice(0, 17), column.slice(17)])
    data = pa.table(
        {"id": pa.array(range(ROWS)), "y": chunks, "code": codes_of(values)}
    )
    return ll.open(data), values


VERBS = {
    "strata": lambda perm, y: perm.strata(y).values(),
    "split_by": lambda perm, y: perm.split_by(y),
    "group_by": lambda perm, y: perm.split([0.6, 0.4], seed=3, group_by=y),
    "stratify_by": lambda perm, y: perm.split([0.6, 0.3], seed=3, stratify_by=y),
    "both": lambda perm, y: perm.split([0.5, 0.5], seed=3, group_by=[y, y]),
    "kfold": lambda perm, y: perm.kfold(3, seed=3, stratify_by=y)[1],
    "balance_by": lambda perm, y: [
        perm.sample(50, seed=3, balance_by=y, replacement=True)
    ],
    "choose": lambda perm, y: [perm.sample(20, seed=3, balance_by=y)],
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_go_by_the_same_values(case, verb):
    perm, _ = case
    perm = perm.shuffle(seed=1)
    assert all_ids(VERBS[verb](perm, "y")) == all_ids(VERBS[verb](perm, "code"))


def test_strata_and_unique_are_named_by_the_values(case):
    perm, values = case
    wanted = {}
    for row, value in enumerate(values):
        wanted.setdefault(key_of(value), []).append(row)
    strata = perm.strata("y")
    assert {key_of(key): ids(part) for key, part in strata.items()} == wanted
    assert [key_of(value) for value in perm.unique("y")] == list(wanted)
    assert list(map(type, strata)) == list(map(type, perm.unique("y")))
    assert perm.split_by("y").names == list(map(str, strata))
    assert sum(len(part) for part in strata.values()) == ROWS
    batches = ll.mix(strata).loader(7, format="arrow")
    rows = [row for batch in batches for row in batch["id"].to_pylist()]
    assert sorted(rows) == list(range(ROWS))


def test_hashes_are_those_of_the_page(case):
    perm, values = case
    if pa.types.is_decimal(perm.schema.field("y").type):
        with pytest.raises(ll.errors.UnsupportedError, match="Decimal128"):
            perm.split([0.5, 0.5], seed=9, hash_by="y")
        return
    if pa.types.is_timestamp(perm.schema.field("y").type):
        values = [None if v is None else int(v.timestamp() * 1e6) for v in values]
    first, second = perm.split([0.5, 0.5], seed=9, hash_by="y")
    is_first = [PAGE.stable_hash((value,), 9) < 2**63 for value in values]
    assert ids(first) == [row for row in range(ROWS) if is_first[row]]
    assert ids(second) == [row for row in range(ROWS) if not is_first[row]]


def test_weights_by_class_find_every_class():
    data = pa.table({"id": range(ROWS), "y": floats(np.float64)})
    perm = ll.open(data)
    values = data["y"].to_pylist()
    weights = {float("nan"): 1, 0: 0, 1.5: 0, None: 0}
    drawn = ids(
        perm.sample(40, seed=1, balance_by="y", weights=weights, replacement=True)
    )
    assert all(math.isnan(values[row]) for row in drawn)
    assert ids(perm.strata("y")[math.nan])


def test_strata_that_python_cannot_tell_apart_are_refused():
    times = pa.array([1, 2, 3], pa.time64("ns"))
    perm = ll.open(pa.table({"t": times, "id": range(3)}))
    with pytest.raises(ll.errors.FormatError, match=r"column `t` .*split_by"):
        perm.strata("t")
    assert all_ids(perm.split_by("t")) == [[0], [1], [2]]


def test_no_rows_have_no_values():
    for make in COLUMNS.values():
        perm = ll.open(pa.table({"id": range(ROWS), "y": make()})).with_take(0)
        assert perm.strata("y") == {}
        assert len(perm.split_by("y")) == 0
        assert perm.unique("y") == []
