"""``StreamingDataLoader``: exact states, with workers of every start method."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal

import lancedb
import pyarrow as pa
import pytest
import tables
import torch
from lanceloader import streaming
from lanceloader.formats.python import LazyRows, rows
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from streaming_datasets import (
    Worker,
    as_lists,
    ids_of,
    next_rows,
    ours,
    readers,
    theirs,
    tokens_table,
)
from torch.utils.data import DataLoader, IterableDataset

STARTS = [
    *(("fork", num_workers) for num_workers in range(4)),
    pytest.param("forkserver", 2, marks=pytest.mark.slow),
    pytest.param("spawn", 2, marks=pytest.mark.slow),
]
IDS = {"transform": ids_of}

# torch warns on machines with few CPUs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(96))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return tokens_table(database, [[100 * i] * (i % 7) for i in range(40)])


@pytest.fixture
def small(db):
    """A table of two splits: ids 1 to 4, and 10 to 40."""
    ids = (1, 2, 3, 4, 10, 20, 30, 40)
    return db.create_table("t", [{"id": i} for i in ids])


def of_small(small):
    return StreamingDataset(small, num_splits=2, shuffle=False, **IDS)


def loading(dataset, num_workers, start="fork", **options):
    if num_workers:
        options["multiprocessing_context"] = start
    options.setdefault("collate_fn", list)
    return StreamingDataLoader(dataset, num_workers=num_workers, **options)


def batches_of_workers(library, table, num_workers, batch_size, **options):
    """Return the batches that workers yield in turn, computed without workers."""
    rows = [
        list(dataset)
        for dataset in readers(library, table, num_workers=num_workers, **options)
    ]
    return [
        of_worker[k : k + batch_size]
        for k in range(0, len(rows[0]), batch_size)
        for of_worker in rows
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("start", "num_workers"), STARTS)
def test_batches_are_those_of_any_loader(shared, start, num_workers):
    options = {"num_splits": 6, "shuffle_seed": 3, **IDS}
    dataset = StreamingDataset(shared, **options)
    found = list(loading(dataset, num_workers, start, batch_size=6))
    wanted = batches_of_workers(theirs, shared, num_workers or 1, 6, **options)
    assert found == wanted
    assert dataset.state_dict()["samples_consumed_per_split"] == [16] * 6
    assert dataset.consumed_rows == 96
    assert dataset.unscanned_rows == 0
    again = StreamingDataset(shared, **options)
    plain_loader = DataLoader(
        again,
        batch_size=6,
        num_workers=num_workers,
        collate_fn=list,
        multiprocessing_context=start if num_workers else None,
    )
    assert list(plain_loader) == wanted
    assert again.bytes_loaded == dataset.bytes_loaded > 96 * 28


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_state_records_the_batches_that_the_trainer_received(
    shared, num_workers, steps
):
    """Read-ahead of the workers is not counted, and the state resumes in LanceDB."""
    options = {"num_splits": 6, **IDS}
    dataset = StreamingDataset(shared, **options)
    iterator = iter(loading(dataset, num_workers, batch_size=6, prefetch_factor=None))
    done = [next(iterator) for _ in range(steps * max(1, num_workers))]
    state = dataset.state_dict()
    iterator._shutdown_workers()
    assert dataset.state_dict() == state
    assert next(iterator, None) is None
    (resumed,) = readers(theirs, shared, state=state, **options)
    rows = [row for batch in done for row in batch]
    assert sorted(rows + list(resumed)) == list(range(96))
    left = list(loading(dataset, 0, batch_size=6))
    assert sorted(rows + [row for batch in left for row in batch]) == list(range(96))


def test_a_step_is_complete_after_a_batch_of_each_worker(small):
    dataset = of_small(small)
    iterator = iter(loading(dataset, 2, batch_size=2))
    assert next(iterator) == [1, 2]
    assert dataset._checkpoint_snapshot()["samples_consumed_per_split"] == [2, 0]
    with pytest.raises(RuntimeError, match="complete logical step boundary"):
        dataset.state_dict()
    assert next(iterator) == [10, 20]
    assert dataset.state_dict()["samples_consumed_per_split"] == [2, 2]
    assert list(iterator) == [[3, 4], [30, 40]]


def test_workers_do_not_start_from_an_uneven_state(small):
    dataset = of_small(small)
    next_rows(dataset, 1)
    with pytest.raises(RuntimeError, match="partial logical step"):
        iter(loading(dataset, 2, batch_size=2))
    assert not dataset._consumer_iterator_active
    assert list(loading(dataset, 1, batch_size=2)) == [[10, 2], [20, 3], [30, 4], [40]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_blocks(tokens, num_workers):
    options = {
        "pack_sequences": 5,
        "eos_id": -1,
        "pad_id": -2,
        "columns": ["tokens"],
        "blocks_per_epoch": 24,
        "num_splits": 4,
    }
    dataset = StreamingDataset(tokens, **options)
    iterator = iter(loading(dataset, num_workers, batch_size=2))
    done = [next(iterator) for _ in range(4)]
    state = dataset.state_dict()
    assert state["blocks_emitted_per_split"] == [2] * 4
    iterator._shutdown_workers()
    resumed = theirs.StreamingDataset(tokens, **options)
    resumed.load_state_dict(state)
    rest = list(map(as_lists, resumed))
    whole = list(map(as_lists, theirs.StreamingDataset(tokens, **options)))
    assert rest == whole[8:]
    assert sorted(map(str, (as_lists(block) for batch in done for block in batch))) == (
        sorted(map(str, whole[:8]))
    )


def test_a_loader_does_not_start_from_a_packed_state_within_a_step(tokens):
    options = {
        "pack_sequences": 5,
        "eos_id": -1,
        "pad_id": -2,
        "columns": ["tokens"],
        "blocks_per_epoch": 24,
        "num_splits": 4,
    }
    for library in (ours, theirs):
        dataset = library.StreamingDataset(tokens, **options)
        next_rows(dataset, 3)
        loader = library.StreamingDataLoader(dataset)
        text = "StreamingDataLoader cannot start from a partial packed logical step"
        with pytest.raises(RuntimeError, match=text):
            iter(loader)


# Errors.


class Own(StreamingDataset):
    def __iter__(self):
        return iter(())


def test_other_datasets_are_refused(shared):
    with pytest.raises(TypeError, match="requires a StreamingDataset"):
        StreamingDataLoader([1, 2])
    with pytest.raises(TypeError, match="override __iter__"):
        StreamingDataLoader(Own(shared))


@pytest.mark.parametrize(
    "options",
    [
        {"in_order": False},
        {"persistent_workers": True, "num_workers": 1},
        {"drop_last": True},
    ],
    ids=str,
)
def test_options_that_make_states_inexact_are_refused(shared, options):
    for library in (ours, theirs):
        dataset = library.StreamingDataset(shared)
        with pytest.raises(ValueError, match=f"{next(iter(options))}=True"):
            library.StreamingDataLoader(dataset, **options)


def test_one_owner_at_a_time(shared):
    """A loader acquires the dataset in ``iter``, a loop at its first row."""
    dataset = StreamingDataset(shared, **IDS)
    loader = loading(dataset, 0, batch_size=4)
    loop = iter(dataset)
    owner = iter(loader)
    for second in (lambda: iter(loader), lambda: next(loop)):
        with pytest.raises(RuntimeError, match="concurrent iteration"):
            second()
    owner._shutdown_workers()
    loop = iter(dataset)
    next(loop)
    with pytest.raises(RuntimeError, match="concurrent iteration"):
        iter(loader)
    loop.close()
    del owner
    rows = [row for batch in loader for row in batch]
    assert len(rows) == 95
    assert not dataset._consumer_iterator_active


@pytest.mark.parametrize("num_workers", [0, 2])
def test_deleting_a_loader_iterator_releases_the_dataset(shared, num_workers):
    dataset = StreamingDataset(shared, num_splits=2, **IDS)
    iterator = iter(loading(dataset, num_workers, batch_size=2))
    next(iterator)
    del iterator
    assert not dataset._consumer_iterator_active
    next(iter(dataset))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [ValueError, StopIteration, SystemExit])
def test_states_are_refused_after_a_lost_batch(shared, num_workers, error):
    """Later batches are still yielded, but a state cannot express the gap."""
    if error is SystemExit and num_workers:
        pytest.skip("SystemExit ends a worker")

    def collate(rows):
        if 1 in rows:
            raise error("no")
        return rows

    dataset = StreamingDataset(shared, num_splits=2, shuffle=False, **IDS)
    iterator = iter(loading(dataset, num_workers, batch_size=4, collate_fn=collate))
    wanted = RuntimeError if error is StopIteration else error
    fragment = "collate_fn raised StopIteration" if error is StopIteration else "no"
    with pytest.raises(wanted, match=fragment):
        next(iterator)
    assert len(next(iterator)) == 4
    iterator._shutdown_workers()
    state = StreamingDataset(shared, num_splits=2, shuffle=False).state_dict()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed before it was returned"):
            dataset.state_dict()
        dataset.load_state_dict(state)
    dataset.reset()
    assert dataset.state_dict() == state


def test_states_are_refused_after_a_plain_loader_with_workers(shared):
    dataset = StreamingDataset(shared, num_splits=2, **IDS)
    next(iter(DataLoader(dataset, batch_size=2)))
    assert dataset.state_dict()["samples_consumed_per_split"] == [1, 1]
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list))
    assert len(batches) == 48
    with pytest.raises(RuntimeError, match="Use StreamingDataLoader"):
        dataset.state_dict()


def test_splits_must_divide_among_workers(shared):
    dataset = StreamingDataset(shared, num_splits=3)
    iterator = iter(loading(dataset, 2))
    with pytest.raises(ValueError, match="must be divisible by num_workers"):
        next(iterator)
    iterator._shutdown_workers()


def failing(batch):
    if 40 in ids_of(batch):
        raise LookupError("row 40")
    return ids_of(batch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failing_transform_raises_in_the_trainer(shared, num_workers):
    dataset = StreamingDataset(shared, num_splits=2, transform=failing)
    iterator = iter(loading(dataset, num_workers, batch_size=4))
    with pytest.raises(LookupError, match="row 40"):
        list(iterator)
    iterator._shutdown_workers()
    with pytest.raises(RuntimeError, match="failed before it was returned"):
        dataset.state_dict()


def dying(batch):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_raises_in_the_trainer(shared):
    dataset = StreamingDataset(shared, num_splits=2, transform=dying)
    iterator = iter(loading(dataset, 2, batch_size=2))
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(iterator)
    iterator._shutdown_workers()
    assert not dataset._consumer_iterator_active
    with pytest.raises(RuntimeError, match="failed before it was returned"):
        dataset.state_dict()
    assert not multiprocessing.active_children()


# Attributes, batches and statistics.


def test_the_adapter_forwards_attributes_of_the_dataset(shared):
    dataset = StreamingDataset(shared, num_splits=4)
    loader = StreamingDataLoader(dataset, batch_size=4)
    assert isinstance(loader.dataset, streaming._StreamingDatasetAdapter)
    assert isinstance(loader.dataset, IterableDataset)
    assert loader.dataset._num_splits == 4
    assert loader.dataset.bytes_loaded == 0
    with pytest.raises(AttributeError):
        loader.dataset.nothing  # noqa: B018


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_batches(shared, num_workers):
    dataset = StreamingDataset(shared, num_splits=2, columns=["id"])
    rows = list(loading(dataset, num_workers, batch_size=None, collate_fn=None))
    assert sorted(row["id"] for row in rows) == list(range(96))
    assert dataset.state_dict()["samples_consumed_per_split"] == [48, 48]


def test_default_collate(shared):
    dataset = StreamingDataset(shared, columns=["id", "x", "name"])
    batch = next(iter(StreamingDataLoader(dataset, batch_size=8)))
    assert batch["id"].dtype == torch.int64
    assert batch["x"].dtype == torch.float64
    assert batch["name"] == [f"row {i}" for i in batch["id"]]


def skipping(batch):
    if any(i % 8 == 0 for i in ids_of(batch)):
        raise ValueError
    return ids_of(batch)


def as_they_are(rows):
    return rows


def looking(rows):
    """Return the list that it was called with, after a look at it."""
    assert len(rows) > 0
    return rows


class Changes:
    """Returns its list first, and something else later."""

    def __init__(self):
        self.calls = 0

    def __call__(self, rows):
        self.calls += 1
        if self.calls == 2:
            rows[0]["id"] = -1
        return rows if self.calls < 4 else tuple(rows)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("collate", [list, as_they_are, looking])
def test_rows_as_they_are(shared, num_workers, collate):
    options = {"num_splits": 2, "shuffle_seed": 3}
    dataset = StreamingDataset(shared, **options)
    loader = loading(dataset, num_workers, batch_size=6, collate_fn=collate)
    found = list(loader)
    assert all(type(batch) is list for batch in found)
    assert all(type(row) is dict for batch in found for row in batch)
    wanted = batches_of_workers(theirs, shared, num_workers or 1, 6, **options)
    assert found == wanted
    assert dataset.transform_time > 0


def test_a_collate_function_may_return_its_list_and_then_not(shared):
    options = {"num_splits": 1, "shuffle": False}
    rows = list(StreamingDataset(shared, **options))
    loader = loading(
        StreamingDataset(shared, **options), 1, batch_size=10, collate_fn=Changes()
    )
    found = list(loader)
    assert [type(batch) for batch in found] == [list] * 3 + [tuple] * 7
    rows[10]["id"] = -1
    assert [row for batch in found for row in batch] == rows


@pytest.mark.parametrize("collate", [list, as_they_are, looking])
def test_rows_leave_a_worker_as_columns_if_nobody_looks_at_them(collate):
    send = streaming._CheckpointCollate(collate)
    kinds = []
    for _ in range(3):
        lazy = LazyRows(pa.record_batch({"x": [1, 2]}), rows)
        kinds.append(type(send._collate_rows(lazy)).__name__)
    # The first batch shows what the function does.
    first = "_UnmadeRows" if collate is list else "list"
    rest = "list" if collate is looking else "_UnmadeRows"
    assert kinds == [first, rest, rest]


def test_statistics_of_workers_add_up(shared):
    options = {"num_splits": 4, "transform": skipping, "shuffle": False}
    alone = StreamingDataset(shared, on_transform_error="skip", **options)
    list(alone)
    dataset = StreamingDataset(shared, on_transform_error="skip", **options)
    list(loading(dataset, 2, batch_size=4))
    names = "bytes_loaded", "rows_skipped", "consumed_rows", "unscanned_rows"
    for name in names:
        assert getattr(dataset, name) == getattr(alone, name), name
    assert dataset.fetch_time > 0
    assert dataset.transform_time > 0
    assert dataset.prefetch_queue_depth == dataset.raw_queue_depth == 0
    filled = StreamingDataset(
        shared, on_transform_error="fill", fill_value=-1, **options
    )
    for _ in range(2):
        filled.reset()
        list(loading(filled, 2, batch_size=4))
    # Totals cover both iterations, gauges only the current one.
    assert filled.rows_filled == 24
    assert filled.bytes_loaded == 2 * alone.bytes_loaded
    assert filled.consumed_rows == 96


def test_the_adapter_needs_an_acquired_dataset(shared):
    dataset = StreamingDataset(shared, worker_info_override=Worker(0, 1))
    with pytest.raises(RuntimeError, match="StreamingDataLoader"):
        next(iter(streaming._StreamingDatasetAdapter(dataset)))


def test_names_and_arguments_are_lancedbs():
    """Including private names, which programs and tests use."""
    theirs_dataset, dataset = theirs.StreamingDataset, StreamingDataset
    assert set(dir(theirs_dataset)) <= set(dir(dataset))
    wanted = inspect.signature(theirs_dataset).parameters
    found = inspect.signature(dataset).parameters
    assert list(found)[: len(wanted)] == list(wanted)
    for name, argument in wanted.items():
        assert (found[name].kind, found[name].default) == (
            argument.kind,
            argument.default,
        )
    for name in (
        *("DEFAULT_READ_BATCH_SIZE", "DEFAULT_PREFETCH_BATCHES", "_EPOCH_PRIME"),
        *("logger", "os", "threading", "time", "random", "warnings", "RawArray"),
        *("ThreadPoolExecutor", "get_worker_info", "Permutation", "Transforms"),
        *("permutation_builder", "_CheckpointCollate", "_StreamingDatasetAdapter"),
    ):
        assert hasattr(theirs, name)
        assert hasattr(streaming, name)
    for name in ("DEFAULT_READ_BATCH_SIZE", "DEFAULT_PREFETCH_BATCHES", "_EPOCH_PRIME"):
        assert getattr(streaming, name) == getattr(theirs, name)
