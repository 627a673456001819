"""``lanceloader.compat.lance_torch``: values, and what pylance reads itself."""

from __future__ import annotations

import importable
import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lance_torch_tables import (
    FIXTURES,
    WARNINGS,
    assert_all_same,
    assert_same,
    both,
    rows,
    theirs,
    write,
)
from lanceloader.compat import lance_torch as ours

pytestmark = WARNINGS
whole, deleted, path = FIXTURES


# Values


def every_kind(first, count):
    halves = np.arange(6 * count, dtype=np.float16)
    tensor = pa.fixed_shape_tensor(pa.float16(), [2, 3])
    gaps = [None if x % 3 == 0 else float(x) for x in range(2 * count)]
    numbers = [int, np.int8, np.uint16, np.uint64, np.float16, np.float32, np.float64]
    return pa.table(
        {
            **{np.dtype(kind).name: np.arange(count).astype(kind) for kind in numbers},
            "bool": [x % 2 == 0 for x in range(count)],
            "int32_nulls": pa.array(gaps[:count], pa.int32()),
            "float32_nulls": pa.array(gaps[:count], pa.float32()),
            "list_nulls": pa.FixedSizeListArray.from_arrays(
                pa.array(gaps, pa.float32()), 2
            ),
            "tensor": pa.ExtensionArray.from_storage(
                tensor, pa.FixedSizeListArray.from_arrays(pa.array(halves), 6)
            ),
            "bfloat16": lance.arrow.bfloat16_array([float(x) for x in range(count)]),
            "bfloat16_nulls": lance.arrow.bfloat16_array(gaps[:count]),
        }
    )


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "t.lance"
    return write(path, [60, 41], make=every_kind)


@pytest.mark.parametrize("name", every_kind(0, 2).column_names)
def test_columns_of_every_kind_become_the_tensors_of_pylance(kinds, name):
    assert_all_same(*both(kinds, 25, columns=[name]))
    assert_all_same(*both(kinds, 25, columns=[name], cache=True))
    assert_all_same(*both(kinds, 25, columns=[name], to_tensor_fn=None))
    (batch,) = lance.dataset(kinds).to_table(columns=[name], limit=9).to_batches()
    assert_same(theirs._to_tensor(batch), ours.to_tensor(batch))


def test_unsigned_numbers_may_stay_unsigned():
    batch = pa.record_batch({"x": pa.array([1, 2**63], pa.uint64())})
    assert ours.to_tensor(batch, uint64_as_int64=False).dtype == torch.uint64
    assert_same(theirs._to_tensor(batch), ours.to_tensor(batch))


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", "b"]),
        pa.array([[1], [2, 3]]),
        pa.array([True, None]),
        pa.array([{"y": 1}, {"y": 2}]),
        pa.array([1, 2], pa.date32()),
    ],
    ids=str,
)
def test_what_no_tensor_holds_says_what_to_do(tmp_path, values):
    lance.write_dataset(pa.table({"x": values}), tmp_path / "t.lance")
    dataset = ours.LanceDataset(tmp_path / "t.lance", 2)
    with pytest.raises(ValueError, match="`to_tensor_fn`"):
        list(dataset)
    found = ours.LanceDataset(tmp_path / "t.lance", 2, to_tensor_fn=importable.listed)
    assert list(found) == [{"x": values.to_pylist()}]


def test_a_function_gets_what_pylance_passes_to_it(whole):
    def to_tensor_fn(batch, **options):
        return batch, options

    wanted, found = both(whole, 200, to_tensor_fn=to_tensor_fn)
    for (batch, options), (same, also) in zip(wanted, found, strict=True):
        assert_same(batch, same)
        assert options == also == {"hf_converter": None, "use_blob_api": False}


def test_a_function_may_be_that_of_pylance(whole):
    assert_all_same(*both(whole, 200, to_tensor_fn=theirs._to_tensor))


def test_rows_have_addresses_too(deleted):
    (batch,) = ours.LanceDataset(
        deleted, 1000, columns=["id"], filter="id >= 250 and id < 300", with_row_address=True
    )  # fmt: skip
    assert list(batch) == ["id", "_rowaddr"]
    assert batch["_rowaddr"].tolist() == [(1 << 32) + x - 250 for x in batch["id"].tolist()]  # fmt: skip


def test_tables_of_hugging_face_are_converted_as_pylance_does(tmp_path):
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_dict(
        {"words": ["a", "b"], "x": [[1.0, 2.0], [3.0, 4.0]]},
        features=datasets.Features(
            {
                "words": datasets.ClassLabel(names=["a", "b"]),
                "x": datasets.Sequence(datasets.Value("float32"), length=2),
            }
        ),
    )
    lance.write_dataset(source.data.table, tmp_path / "t.lance")
    assert_all_same(*both(tmp_path / "t.lance", 2))


# What pylance reads


def with_blobs(first, count):
    blob = {"lance-encoding:blob": "true"}
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("blob", pa.large_binary(), metadata=blob),
        ]
    )
    ids = range(first, first + count)
    return pa.table({"id": ids, "blob": [b"x" * n for n in ids]}, schema=schema)


def test_blobs_come_as_the_files_of_pylance(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(with_blobs(0, 30), path, data_storage_version="2.1")

    def to_tensor_fn(batch, *, use_blob_api, **options):
        assert use_blob_api
        blobs = [blob.readall() for blob in batch["blob"]]
        return list(batch), batch["id"].to_pylist(), blobs

    wanted, found = both(path, 12, to_tensor_fn=to_tensor_fn)
    assert wanted == found
    assert found[2][2][0] == b"x" * 24
    with pytest.raises(NotImplementedError, match=r"`blob` has blobs.*`to_tensor_fn`"):
        list(ours.LanceDataset(path, 12))
    assert_all_same(*both(path, 12, columns=["id"]))


def test_what_only_pylance_reads_it_reads(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(rows(0, 300), path, data_storage_version="legacy")
    for sampler in (
        None,
        ("ShardedFragmentSampler", 0, 1, True),
        ("ShardedBatchSampler", 1, 2),
    ):
        with pytest.warns(UserWarning, match="pylance reads t at version 1"):
            wanted, found = both(path, 64, sampler, cache=True)
        assert_all_same(wanted, found)
    with pytest.raises(ll.errors.UnsupportedError, match="call the sampler of"):
        list(ours.FullScanSampler()(path))


def test_expressions_are_evaluated_by_pylance(whole):
    with pytest.warns(UserWarning, match="SQL expressions"):
        wanted, found = both(whole, 64, columns={"id": "id * 2"}, filter="id < 100")
    assert_all_same(wanted, found)


def test_options_of_scans_are_pylances(whole):
    options = {"dataset_options": {"default_scan_options": {"with_row_id": True}}}
    with pytest.warns(UserWarning, match="default_scan_options"):
        wanted, found = both(whole, 64, **options)
    assert_all_same(wanted, found)
    assert "_rowid" in found[0]
