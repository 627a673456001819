"""The Python objects of lists of numbers, which are pyarrow's, made faster."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from lanceloader._native import small_number_lists
from lanceloader.formats.python import LONG, MANY, columns, rows

WHOLE = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
]
EDGES = [
    *(-(2**63), -257, -256, -100, -1, 0, 256, 257, 2**16 - 1, 2**16),
    *(2**18 - 1, 2**18, 2**63 - 1, 2**64 - 1),
]


def edges_of(kind):
    info = np.iinfo(kind.to_pandas_dtype())
    return [each for each in EDGES if info.min <= each <= info.max]


def lists(kind, values, *, length=2 * LONG):
    """Return as many lists of the same values as it takes to share their objects."""
    flat = pa.array(np.resize(np.array(values, kind.to_pandas_dtype()), 2 * MANY), kind)
    ends = np.arange(0, len(flat) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), flat)


def batch_of(column):
    return pa.record_batch({"tokens": column})


def assert_same(column):
    batch = batch_of(column)
    found = rows(batch)
    assert found == batch.to_pylist()
    kinds = {type(value) for row in found for value in row["tokens"]}
    wanted = {type(value) for row in batch.to_pylist() for value in row["tokens"]}
    assert kinds == wanted


@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_whole_numbers_of_every_type_and_size(kind):
    found = edges_of(kind)
    for highest in found:
        for lowest in found:
            assert_same(lists(kind, [lowest, highest, highest // 2, 1]))


@pytest.mark.parametrize(
    "make",
    [
        lambda column: column.slice(3, len(column) - 7),
        lambda column: column.cast(pa.large_list(pa.int32())),
        lambda column: column.cast(pa.list_(pa.int32(), 2 * LONG)),
        lambda column: column.cast(pa.list_(pa.int32(), 2 * LONG)).slice(5),
        lambda column: pa.concat_arrays([column, pa.array([[]], column.type)]),
        lambda column: pa.concat_arrays([column, pa.array([None], column.type)]),
        lambda column: pa.concat_arrays([column, pa.array([[None]], column.type)]),
        lambda column: column.cast(pa.list_(pa.float32())),
    ],
    ids=["slice", "large", "fixed", "fixed slice", "empty", "null", "null in", "float"],
)
def test_lists_of_every_kind(make):
    batch = batch_of(make(lists(pa.int32(), range(1000))))
    assert rows(batch) == batch.to_pylist()
    assert columns(batch) == batch.to_pydict()


@pytest.mark.parametrize("size", [None, 0, 4])
@pytest.mark.parametrize("num_rows", [0, 3])
@pytest.mark.parametrize("kind", [pa.int32(), pa.float32()], ids=str)
def test_lists_without_values(size, num_rows, kind):
    kind = pa.list_(kind) if size is None else pa.list_(kind, size)
    batch = batch_of(pa.array([[0] * (size or 0)] * num_rows, kind))
    assert rows(batch) == batch.to_pylist()
    assert columns(batch) == batch.to_pydict()


def test_batches_share_the_objects_of_tokens():
    tokens = [50_000, 131_071, -100]
    one, other = (rows(batch_of(lists(pa.int64(), tokens))) for _ in range(2))
    assert one[0]["tokens"] is not other[0]["tokens"]
    pairs = zip(one[0]["tokens"], other[-1]["tokens"], strict=True)
    same = [a is b for a, b in pairs if a == b]
    assert same
    assert all(same)


def test_a_list_of_shared_objects_is_the_callers():
    batch = batch_of(lists(pa.int32(), [1, 2, 70_000]))
    rows(batch)[0]["tokens"][0] = "changed"
    assert rows(batch) == batch.to_pylist()


def test_a_list_of_no_numbers_and_numbers_that_are_not_small():
    ends = np.array([0, 1, 1, 3])
    assert small_number_lists(np.array([5, -256, 2**18 - 1]), ends) == [
        [5],
        [],
        [-256, 2**18 - 1],
    ]
    assert small_number_lists(np.array([], np.uint8), ends[:1]) == []
    for other in ([5, -257, 0], [5, 2**18, 0], [0.5, 1, 2], [True, False, True]):
        assert small_number_lists(np.array(other), ends) is None
    assert small_number_lists(np.array([5, 2**64 - 1], np.uint64), ends) is None


@pytest.mark.parametrize("ends", [[0, 4], [-1, 2], [2, 1]])
def test_lists_end_within_the_values(ends):
    with pytest.raises(ValueError, match="`ends` must ascend within the 3 values"):
        small_number_lists(np.arange(3), np.array(ends))
