"""``lanceloader.compat.lance_torch``: batches are those of pylance's ``lance.torch.data``."""

from __future__ import annotations

import itertools
import pickle
import random
import re
import types

import importable
import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.compat import lance_torch as ours
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    # Of pylance, which makes tensors of Arrow's buffers and warns of its own arguments.
    "ignore:The given NumPy array is not writable:UserWarning",
    "ignore:with_row_id is not supported for ShardedBatchSampler:UserWarning",
)

SIZES = (250, 70, 3, 400, 1, 2, 130)
theirs = types.SimpleNamespace(**vars(lance.torch.data) | vars(lance.sampler))


def rows(first, count):
    rng = np.random.default_rng(first)
    return pa.table(
        {
            "id": np.arange(first, first + count),
            "small": rng.integers(0, 100, count).astype(np.uint8),
            "large": pa.array(range(count), pa.uint64()),
            "flag": rng.random(count) < 0.5,
            "maybe": pa.array(
                [None if x % 7 == 0 else x for x in range(count)], pa.int32()
            ),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.random(3 * count, dtype=np.float32)), 3
            ),
        }
    )


def write(path, sizes=SIZES, deleted=None, make=rows):
    for first, count in zip(
        itertools.accumulate(sizes, initial=0), sizes, strict=False
    ):
        lance.write_dataset(
            make(first, count), path, mode="append" if first else "create"
        )
    if deleted:
        lance.dataset(path).delete(deleted)
    return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "t.lance")


@pytest.fixture(scope="module")
def deleted(tmp_path_factory):
    """Some rows of each fragment are deleted, all of two small ones, and a whole batch of one."""
    gone = (
        "id % 5 = 1 or id = 724 or (id >= 320 and id < 323) or (id >= 400 and id < 520)"
    )
    return write(tmp_path_factory.mktemp("deleted") / "t.lance", deleted=gone)


@pytest.fixture(params=["whole", "deleted"])
def path(request):
    return request.getfixturevalue(request.param)


def assert_same(one, other):
    """Items are equal in type, keys, dtype, shape and value."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name, values in one.items():
            assert_same(values, other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for value, same in zip(one, other, strict=True):
            assert_same(value, same)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, pa.RecordBatch):
        assert one.schema.equals(other.schema, check_metadata=True)
        assert one.equals(other)
    else:
        assert one == other


def assert_all_same(wanted, found):
    wanted, found = list(wanted), list(found)
    assert len(wanted) == len(found)
    for one, other in zip(wanted, found, strict=True):
        assert_same(one, other)


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def both(path, batch_size, sampler=None, **options):
    """Batches of pylance and ours; a sampler is a name and its arguments."""
    found = []
    for library in (theirs, ours):
        if sampler is not None:
            name, *arguments = sampler
            options["sampler"] = getattr(library, name)(*arguments)
        found.append(list(library.LanceDataset(path, batch_size, **options)))
    return found


# Scans


@pytest.mark.parametrize("batch_size", [1, 64, 100, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"with_row_id": True},
        {"columns": ["vector", "id"]},
        {"columns": ["vector"]},
        {"columns": ["large"], "with_row_id": True},
        {"columns": {"small": "small"}},
        {"to_tensor_fn": None},
        {"batch_readahead": 1},
        {"auto_detect_rank": False},
        {"shard_granularity": "fragment"},
        {"shard_granularity": "batch"},
        {"cache": True},
    ],
    ids=repr,
)
def test_batches_are_those_of_pylance(path, batch_size, options):
    assert_all_same(*both(path, batch_size, **options))


@pytest.mark.parametrize("predicate", ["id % 3 = 0", "flag", "small < 3", "id < 0"])
@pytest.mark.parametrize("columns", [None, ["id", "maybe"]])
def test_filtered_rows_are_those_of_pylance_in_full_batches(path, predicate, columns):
    options = {"filter": predicate, "columns": columns, "with_row_id": True}
    wanted, found = both(path, 64, **options)
    assert ids(wanted) == ids(found)
    assert all(len(batch["id"]) == 64 for batch in found[:-1])
    if found:
        joined = [
            {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
            for batches in (wanted, found)
        ]
        assert_same(*joined)


def test_a_filter_that_matches_nothing_yields_nothing(whole):
    for name in ("FullScanSampler", "ShardedBatchSampler"):
        arguments = () if name == "FullScanSampler" else (0, 2)
        sampler = getattr(ours, name)(*arguments)
        dataset = ours.LanceDataset(whole, 10, filter="id < 0", sampler=sampler)
        assert list(dataset) == []


def test_tiny_fragments_are_joined_in_turn(tmp_path):
    path = write(tmp_path / "t.lance", [39, 17, 31, 7, 5, 84, 1, 84, 20])
    assert_all_same(*both(path, 84))


def test_items_belong_to_who_gets_them(whole):
    """Writing to one changes neither the others nor what the next iteration reads."""
    for cache in (None, True):
        dataset = ours.LanceDataset(whole, 100, cache=cache)
        wanted = ids(dataset)
        for batch in dataset:
            batch["id"].zero_()
            batch["vector"] *= 0
        assert ids(dataset) == wanted


# Samplers, ranks and epochs

SHARDS = [(rank, size) for size in (1, 2, 3) for rank in range(size)]


@pytest.mark.parametrize(("rank", "world_size"), SHARDS)
@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_samplers_choose_the_rows_of_pylance(path, name, rank, world_size, randomize):
    sampler = name, rank, world_size, randomize, 7
    wanted, found = both(path, 64, sampler)
    assert_all_same(wanted, found)
    assert world_size == 3 or len(found) > 2
    # pylance's own samplers mean the same.
    sampler = getattr(theirs, name)(rank, world_size, randomize, 7)
    assert_all_same(wanted, ours.LanceDataset(path, 64, sampler=sampler))


@pytest.mark.parametrize(("rank", "world_size"), SHARDS)
@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("batch_size", [1, 30])
def test_filtered_batches_of_ranks_and_epochs_are_those_of_pylance(
    path, rank, world_size, randomize, epoch, batch_size
):
    """Here pylance's epochs differ; batches of one row overflow its reservoir of 256."""
    found = []
    for library in (theirs, ours):
        sampler = library.ShardedBatchSampler(rank, world_size, randomize, 7)
        sampler.set_epoch(epoch)
        options = {"filter": "id % 2 = 0", "sampler": sampler}
        found.append(list(library.LanceDataset(path, batch_size, **options)))
    assert_all_same(*found)


@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_set_epoch_changes_a_random_order(whole, name):
    """In epoch 0 it is pylance's, whose order is the same in all epochs."""
    sampler = getattr(ours, name)(0, 1, randomize=True, seed=3)
    dataset = ours.LanceDataset(whole, 64, sampler=sampler)
    orders = []
    for epoch in (0, 1, 2, 0):
        dataset.set_epoch(epoch)
        orders.append(ids(dataset))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(sum(SIZES))) for order in orders)
    plain = getattr(theirs, name)(0, 1, randomize=True, seed=4)
    assert orders[1] == ids(theirs.LanceDataset(whole, 64, sampler=plain))


def test_randomizing_leaves_the_generators_of_the_program_alone(whole):
    random.seed(1)
    state = random.getstate()
    for name in ("ShardedFragmentSampler", "ShardedBatchSampler"):
        sampler = getattr(ours, name)(0, 1, randomize=True)
        list(ours.LanceDataset(whole, 64, sampler=sampler))
    assert random.getstate() == state


def test_set_epoch_of_a_dataset_without_a_sampler_does_nothing(whole):
    dataset = ours.LanceDataset(whole, 64)
    dataset.set_epoch(3)
    assert ids(dataset) == list(range(sum(SIZES)))


@pytest.mark.parametrize("granularity", [None, "fragment", "batch"])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("workers", [None, 2])
def test_ranks_and_workers_get_the_rows_that_pylance_gives_them(
    path, granularity, ranks, workers, monkeypatch
):
    seen = []
    for rank, number in itertools.product(range(ranks), range(workers or 1)):
        if workers is not None:
            info = worker.WorkerInfo(
                id=number, num_workers=workers, seed=0, dataset=None
            )
            monkeypatch.setattr(worker, "_worker_info", info)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
        wanted, found = both(path, 32, shard_granularity=granularity)
        assert_all_same(wanted, found)
        seen += ids(found)
    assert sorted(seen) == lance.dataset(path).to_table()["id"].to_pylist()


def test_samplers_of_torch_distributed(whole, monkeypatch):
    with pytest.raises(RuntimeError, match="init_process_group"):
        ours.ShardedBatchSampler.from_torch()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for name in ("ShardedFragmentSampler", "ShardedBatchSampler"):
        samplers = [
            getattr(library, name).from_torch(randomize=True, seed=5)
            for library in (theirs, ours)
        ]
        assert_all_same(
            theirs.LanceDataset(whole, 50, sampler=samplers[0]),
            ours.LanceDataset(whole, 50, sampler=samplers[1]),
        )
    fixed = [
        list(library.ShardedFixedBatchSampler.from_torch(3, 20, randomize=True))
        for library in (theirs, ours)
    ]
    assert fixed[0] == fixed[1]


def test_rank_and_world_size_are_deprecated(whole):
    found = []
    for library in (theirs, ours):
        with pytest.warns(DeprecationWarning, match="deprecated"):
            dataset = library.LanceDataset(whole, 50, rank=1, world_size=2)
        found.append(list(dataset))
    assert_all_same(*found)


def test_samplers_may_be_called(path):
    for name, arguments in (
        ("FullScanSampler", ()),
        ("ShardedFragmentSampler", (1, 2)),
        ("ShardedBatchSampler", (1, 2)),
    ):
        wanted, found = (
            list(getattr(library, name)(*arguments)(lance.dataset(path), batch_size=64))
            for library in (theirs, ours)
        )
        assert_all_same(wanted, found)
    options = {"columns": ["id"], "filter": "id < 40", "with_row_id": True}
    (batch,) = ours.FullScanSampler()(path, batch_size=64, **options)
    assert batch.schema.names == ["id", "_rowid"]
    assert max(batch["id"].to_pylist()) == 39


def backwards(cls):
    class Backwards(cls):
        def iter_fragments(self, ds, **options):
            assert isinstance(ds, lance.LanceDataset)
            yield from reversed(ds.get_fragments())

    return Backwards()


def test_fragments_of_a_users_sampler_are_read_by_the_core(path, monkeypatch):
    wanted = list(
        theirs.LanceDataset(path, 64, sampler=backwards(theirs.FragmentSampler))
    )
    monkeypatch.setattr(lance.LanceDataset, "scanner", None)
    for library in (theirs, ours):
        sampler = backwards(library.FragmentSampler)
        assert_all_same(wanted, ours.LanceDataset(path, 64, sampler=sampler))


def test_fragments_may_be_chosen_by_id(path):
    class First(ours.FragmentSampler):
        def iter_fragments(self, ds, **options):
            return [ds.get_fragments()[-1].fragment_id, 0]

    fragments = lance.dataset(path).get_fragments()
    wanted = [*fragments[-1].to_table()["id"].to_pylist()]
    wanted += fragments[0].to_table()["id"].to_pylist()
    assert ids(ours.LanceDataset(path, 64, sampler=First())) == wanted


@pytest.mark.parametrize("library", [theirs, ours])
def test_batches_of_a_users_sampler_are_its_own(path, library):
    class Heads(library.Sampler):
        def __call__(self, ds, *args, columns=None, **options):
            for _ in range(3):
                yield from ds.head(40, columns=columns).combine_chunks().to_batches()

    wanted = list(theirs.LanceDataset(path, 100, sampler=Heads()))
    assert [len(batch["id"]) for batch in wanted] == [80, 40]
    assert_all_same(wanted, ours.LanceDataset(path, 100, sampler=Heads()))


@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_fixed_batches_are_those_of_pylance(rank, randomize):
    samplers = [
        library.ShardedFixedBatchSampler(rank, 3, randomize, 5, 4, 100)
        for library in (theirs, ours)
    ]
    for epoch in (0, 2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        assert list(samplers[0]) == list(samplers[1])
        assert len(samplers[0]) == len(samplers[1]) == 9
    assert list(ours.ShardedFixedBatchSampler(0, 2)) == []


# Samples


@pytest.mark.parametrize("n", [1, 50, 300, 10_000])
@pytest.mark.parametrize("batch_size", [40, 1000])
def test_samples_are_those_of_pylance_after_the_same_seed(path, n, batch_size):
    found = []
    for library in (theirs, ours):
        np.random.seed(3)
        found.append(list(library.LanceDataset(path, batch_size, samples=n)))
    assert_all_same(*found)


@pytest.mark.parametrize(("n", "max_takes"), [(60, 20), (300, 7), (500, 499)])
def test_samples_of_many_rows_are_runs_of_neighbours(path, n, max_takes):
    found = []
    for library in (theirs, ours):
        np.random.seed(3)
        dataset = lance.dataset(path)
        found.append(list(library.maybe_sample(dataset, n, "id", 50, max_takes)))
    assert_all_same(*found)


def test_samples_of_filtered_rows(whole):
    """pylance raises NotImplementedError for this filter."""
    dataset = ours.LanceDataset(whole, 30, samples=70, filter="id % 4 = 0")
    np.random.seed(3)
    one, other = ids(dataset), ids(dataset)
    assert len(one) == len(set(one)) == 70
    assert all(row % 4 == 0 for row in one)
    assert one != other
    everything = ours.LanceDataset(whole, 30, samples=1000, filter="id % 4 = 0")
    assert ids(everything) == list(range(0, sum(SIZES), 4))


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


# Tables


def test_a_version_is_kept(tmp_path):
    path = write(tmp_path / "t.lance", [50])
    old = ours.LanceDataset(path, 100)
    lance.write_dataset(rows(50, 20), path, mode="append")
    lance.dataset(path).tags.create("second", 2)
    assert len(ids(old)) == 50
    assert old.dataset.version == 1
    assert len(ids(pickle.loads(pickle.dumps(old)))) == 50
    for version in (1, 2, "second"):
        assert_all_same(*both(path, 15, dataset_options={"version": version}))
    asof = {"asof": lance.dataset(path).versions()[1]["timestamp"]}
    assert_all_same(*both(path, 15, dataset_options=asof))
    session = {"session": lance.Session(), "version": 1}
    dataset = ours.LanceDataset(path, 15, dataset_options=session)
    assert len(ids(pickle.loads(pickle.dumps(dataset)))) == 50


def test_tables_of_all_libraries_are_read(tmp_path, whole):
    table = lancedb.connect(tmp_path).create_table("t", rows(0, 100))
    for dataset in (table, rows(0, 100), lance.dataset(tmp_path / "t.lance")):
        assert ids(ours.LanceDataset(dataset, 30)) == list(range(100))
    assert ours.LanceDataset(rows(0, 5), 5).dataset.count_rows() == 5
    assert ours.LanceDataset(table, 5).dataset.count_rows() == 100


def test_attributes(whole):
    wanted, found = (
        library.LanceDataset(whole, 7, columns=["id", "flag"], filter="id < 9")
        for library in (theirs, ours)
    )
    assert found.schema == wanted.schema
    assert found.dataset.count_rows() == wanted.dataset.count_rows()
    for name in (
        "columns",
        "batch_size",
        "filter",
        "samples",
        "with_row_id",
        "sampler",
    ):
        assert getattr(found, name) == getattr(wanted, name)
    assert re.fullmatch(
        r"<LanceDataset of \S+ at version \d+, batch_size=7>", repr(found)
    )


def test_an_empty_table_yields_nothing(tmp_path):
    lance.write_dataset(rows(0, 0), tmp_path / "t.lance")
    assert list(ours.LanceDataset(tmp_path / "t.lance", 7)) == []
    assert list(ours.LanceDataset(tmp_path / "t.lance", 7, samples=3)) == []


def test_credentials_reach_workers(whole):
    """As with pylance: a pickle of it holds the options."""
    options = {"storage_options": {"aws_secret_access_key": "secret"}}
    dataset = ours.LanceDataset(whole, 100, dataset_options=options)
    again = pickle.loads(pickle.dumps(dataset))
    assert again._table.source.storage_options == options["storage_options"]
    assert ids(again) == ids(dataset)
    rows = pickle.loads(
        pickle.dumps(ours.SafeLanceDataset(whole, dataset_options=options))
    )
    assert rows.dataset_options == options
    assert rows[3]["id"] == 3


# The cache


def test_a_cache_keeps_rows_in_a_folder(tmp_path):
    """pylance's keeps the order of the first epoch; ours keeps the rows."""
    sizes = [300_000, 200_000]
    path = write(tmp_path / "t.lance", sizes)
    sampler = ours.ShardedBatchSampler(0, 1, randomize=True)
    folder = tmp_path / "cache"
    dataset = ours.LanceDataset(
        path, 5000, sampler=sampler, cache=folder, columns=["id", "vector"]
    )
    first = list(dataset)
    packed = sum(file.stat().st_size for file in folder.rglob("*"))
    assert packed >= len(ids(first)) * (8 + 3 * 4)
    assert_all_same(first, dataset)
    dataset.set_epoch(1)
    assert ids(dataset) != ids(first)
    assert sorted(ids(dataset)) == list(range(sum(sizes)))


def test_a_cache_without_room_has_no_effect(whole, monkeypatch):
    monkeypatch.setenv("LANCELOADER_MEMORY_LIMIT", "1000")
    dataset = ours.LanceDataset(whole, 64, cache=True)
    with pytest.warns(UserWarning, match="`cache` has no effect"):
        found = list(dataset)
    assert_all_same(theirs.LanceDataset(whole, 64), found)


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": ["nope"]}, KeyError, "column `nope`.*the columns are `id`"),
        ({"filter": "nope > 3"}, ValueError, "column `nope` does not exist"),
        ({"shard_granularity": "row"}, ValueError, '"fragment", "batch", got .row'),
        ({"cache": 3}, TypeError, "`cache` must be true or the path"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"samples": -1}, ValueError, "`samples`"),
        ({"sampler": [1, 2]}, TypeError, "`sampler` must be a sampler of this module"),
        ({"dataset_options": {"version": 99}}, RuntimeError, "version 99"),
        ({"dataset_options": {"versoin": 1}}, TypeError, "versoin"),
        (
            {"shard_granularity": "batch", "auto_detect_rank": False},
            ValueError,
            "needs `rank` and `world_size` where `auto_detect_rank` is false",
        ),
    ],
    ids=repr,
)
def test_wrong_arguments_say_what_to_pass(whole, options, error, message):
    with pytest.raises(error, match=message):
        list(ours.LanceDataset(whole, **{"batch_size": 10} | options))


def test_no_table_at_a_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Lance table at"):
        ours.LanceDataset(tmp_path / "nowhere.lance", 10)


@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_wrong_ranks_are_refused(name):
    """pylance reads some rows twice, and others never."""
    sampler = getattr(ours, name)
    with pytest.raises(ValueError, match="`rank` must be below `world_size`"):
        sampler(2, 2)
    with pytest.raises(TypeError, match="`rank`"):
        sampler(None, None)


def test_arguments_that_there_are_not_are_named(whole):
    with pytest.warns(UserWarning, match="no arguments 3, with_rowid"):
        ours.LanceDataset(whole, 10, 3, with_rowid=True)


def test_a_fragment_that_there_is_not(whole):
    class Wrong(ours.FragmentSampler):
        def iter_fragments(self, ds, **options):
            yield 99

    with pytest.raises(ValueError, match="fragment 99, but the table has fragments 0"):
        list(ours.LanceDataset(whole, 10, sampler=Wrong()))


# Pickles and workers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"filter": "flag", "with_row_id": True},
        {"sampler": ours.ShardedFragmentSampler(1, 2, randomize=True, seed=9)},
        {"cache": True},
        {"to_tensor_fn": importable.listed},
    ],
    ids=repr,
)
def test_a_pickle_reads_the_same_batches(path, options):
    dataset = ours.LanceDataset(path, 64, **options)
    wanted = list(dataset)
    dataset.set_epoch(4)
    again = pickle.loads(pickle.dumps(dataset))
    assert_all_same(dataset, again)
    dataset.set_epoch(0)
    assert_all_same(wanted, dataset)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"shard_granularity": "batch"}, {"filter": "flag"}], ids=repr)  # fmt: skip
def test_workers_share_the_rows(path, workers, options):
    dataset = ours.LanceDataset(path, 32, **options)
    fork = "fork" if workers else None
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=fork
    )
    wanted = list(dataset)
    for _ in range(2):
        assert sorted(ids(loader)) == sorted(ids(wanted))


def test_workers_that_stay_hear_of_the_epoch(whole):
    sampler = ours.ShardedBatchSampler(0, 1, randomize=True, seed=2)
    dataset = ours.LanceDataset(whole, 50, sampler=sampler)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    for epoch in (0, 3, 1):
        sampler.set_epoch(epoch)
        assert ids(loader) == ids(dataset)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_yield_what_those_of_pylance_yield(deleted):
    found = []
    for library in (theirs, ours):
        options = {"batch_size": None, "num_workers": 2, "persistent_workers": False}
        dataset = library.LanceDataset(deleted, 32, with_row_id=True)
        found.append(list(library.get_safe_loader(dataset, **options)))
    assert_all_same(*found)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_that_stay_hear_of_the_epoch(whole):
    sampler = ours.ShardedFragmentSampler(0, 1, randomize=True, seed=2)
    dataset = ours.LanceDataset(whole, 50, sampler=sampler)
    loader = ours.get_safe_loader(dataset, batch_size=None, num_workers=1)
    orders = []
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        orders.append(ids(loader))
        assert orders[-1] == ids(dataset)
    assert orders[0] != orders[1]


# Rows by position


def test_rows_by_position_are_those_of_pylance(path):
    wanted, found = (library.SafeLanceDataset(path) for library in (theirs, ours))
    assert len(found) == len(wanted)
    for positions in ([5], [300, 2, 300], list(range(50))):
        rows = found.__getitems__(positions)
        assert isinstance(rows, list)
        assert rows == wanted.__getitems__(positions)
    assert found[7] == wanted[7]
    assert type(found[7]) is dict
    assert found[-1] == found[len(found) - 1]
    with pytest.raises(IndexError, match="out of range"):
        found[len(found)]


@pytest.mark.parametrize("columns", [None, importable.listed_rows])
def test_batches_of_positions_are_those_of_pylance(tmp_path, columns):
    path = write(tmp_path / "t.lance", make=lambda *at: rows(*at).drop(["maybe"]))
    found = []
    for library in (theirs, ours):
        loader = DataLoader(
            library.SafeLanceDataset(path), batch_size=64, shuffle=True,
            generator=torch.Generator().manual_seed(3), collate_fn=columns,
        )  # fmt: skip
        found.append(list(loader))
    assert_all_same(*found)


def test_fixed_batches_of_positions(whole):
    rows = ours.SafeLanceDataset(whole)
    sampler = ours.ShardedFixedBatchSampler(1, 2, True, 0, 40, len(rows))
    loader = DataLoader(rows, batch_sampler=sampler, collate_fn=importable.listed_rows)
    seen = [row["id"] for batch in loader for row in batch]
    assert sorted(seen) == list(range(428, 856))


def test_rows_by_position_keep_their_version(tmp_path):
    path = write(tmp_path / "t.lance", [50])
    old = ours.SafeLanceDataset(path)
    lance.write_dataset(rows(50, 20), path, mode="append")
    assert len(old) == len(pickle.loads(pickle.dumps(old))) == 50
    assert old.uri == path
    assert len(ours.SafeLanceDataset(path, dataset_options={"version": 1})) == 50
    assert re.fullmatch("<SafeLanceDataset of 50 rows of .* at version 1>", repr(old))


def test_a_safe_loader_without_workers(whole):
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(whole), num_workers=0, collate_fn=importable.listed_rows
    )
    assert loader.batch_size == 32
    assert [row["id"] for batch in loader for row in batch] == list(range(sum(SIZES)))


def test_a_safe_loader_may_fork(whole):
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(whole), 100, 2, multiprocessing_context="fork",
        persistent_workers=False, collate_fn=importable.listed_rows,
    )  # fmt: skip
    assert [row["id"] for batch in loader for row in batch] == list(range(sum(SIZES)))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_read_rows_by_position(tmp_path):
    path = write(tmp_path / "t.lance", make=lambda *at: rows(*at).drop(["maybe"]))
    options = {"batch_size": 64, "shuffle": True}
    wanted = DataLoader(
        theirs.SafeLanceDataset(path),
        generator=torch.Generator().manual_seed(3),
        **options,
    )
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(path),
        num_workers=2,
        generator=torch.Generator().manual_seed(3),
        **options,
    )
    assert_all_same(wanted, loader)
    assert loader.persistent_workers
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert ours.get_safe_loader(ours.SafeLanceDataset(path)).num_workers == 4
