"""Features beyond LanceDB's: ``set_epoch``, ``tail``, and pickles of datasets."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import cloudpickle
import importable
import lancedb
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from streaming_datasets import (
    Worker,
    few_examples,
    ids_of,
    next_rows,
    ours,
    outcome,
    readers,
    sets,
    steps,
    theirs,
)

IDS = {"transform": ids_of}

# torch warns on machines with few CPUs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(103))


# Epochs.


def test_an_epoch_is_that_of_a_new_dataset(shared):
    dataset = StreamingDataset(shared, num_splits=4, **IDS)
    for epoch in (0, 3, 1):
        dataset.set_epoch(epoch)
        other = theirs.StreamingDataset(shared, num_splits=4, epoch=epoch, **IDS)
        assert list(dataset) == list(other)
        assert dataset.state_dict() == other.state_dict()


def test_setting_the_current_epoch_keeps_its_progress(shared):
    dataset = StreamingDataset(shared, num_splits=4, epoch=2, **IDS)
    whole = list(StreamingDataset(shared, num_splits=4, epoch=2, **IDS))
    rows = next_rows(dataset, 9)
    dataset.set_epoch(2)
    assert rows + list(dataset) == whole
    dataset.reset()
    assert list(dataset) == whole


def test_all_epochs_read_one_version(db):
    table = db.create_table("t", tables.narrow(20))
    dataset = StreamingDataset(table, num_splits=2, **IDS)
    table.delete("id < 10")
    dataset.set_epoch(1)
    assert sorted(dataset) == list(range(20))


def test_an_epoch_does_not_start_during_an_iteration(shared):
    dataset = StreamingDataset(shared, num_splits=4, **IDS)
    iterator = iter(dataset)
    next(iterator)
    for call in (lambda: dataset.set_epoch(1), dataset.reset):
        with pytest.raises(RuntimeError, match="concurrent iteration"):
            call()
    iterator.close()
    assert issubclass(outcome(lambda: dataset.set_epoch(-1))[0], OverflowError)
    assert dataset.state_dict()["epoch"] == 0
    assert dataset.state_dict()["samples_consumed_per_split"] == [1, 0, 0, 0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_of_a_loader(shared, num_workers):
    dataset = StreamingDataset(shared, num_splits=2, **IDS)
    loader = StreamingDataLoader(
        dataset, batch_size=2, num_workers=num_workers, collate_fn=list
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        rows = sorted(itertools.chain(*loader))
        other = theirs.StreamingDataset(shared, num_splits=2, epoch=epoch, **IDS)
        assert rows == sorted(other)


# Any number of readers.


def order_of(table, num_splits, **options):
    """Return the sequence of an epoch: LanceDB's rows, then the rows that it leaves out."""
    rows = list(theirs.StreamingDataset(table, num_splits=num_splits, **IDS, **options))
    alone = list(theirs.StreamingDataset(table, **IDS, **options))
    return rows + [row for row in alone if row not in set(rows)]


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from(["pad", "drop", "uneven"]),
    st.sampled_from([None, 3]),
)
@few_examples
def test_steps_are_the_same_for_any_number_of_readers(
    shared, num_splits, world_size, num_workers, batch_size, tail, clump
):
    """A step is the next part of one sequence, for any number of readers."""
    options = {"num_splits": num_splits, "shuffle_clump_size": clump}
    made = readers(
        ours,
        shared,
        world_size=world_size,
        num_workers=num_workers,
        tail=tail,
        read_batch_size=5,
        **options,
        **IDS,
    )
    count = world_size * num_workers
    found = steps(made, batch_size)
    wanted = order_of(shared, num_splits, shuffle_clump_size=clump)
    length = {"pad": math.ceil, "drop": math.floor}.get(tail, lambda n: n)
    wanted = (wanted + wanted)[
        : int(length(103 / count) * count) if tail != "uneven" else 103
    ]
    size = batch_size * count
    assert sets(found) == [
        sorted(wanted[k : k + size]) for k in range(0, len(wanted), size)
    ]
    if tail != "uneven":
        assert len({len(batch) for batch in found[-1]}) == 1


@given(
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 20),
    st.sampled_from(["pad", "drop", "uneven"]),
)
@few_examples
def test_a_run_resumes_with_other_ranks(shared, num_splits, before, after, rows, tail):
    options = {"num_splits": num_splits, "tail": tail, **IDS}
    started = readers(ours, shared, world_size=before, **options)
    done = [next_rows(dataset, rows) for dataset in started]
    states = [dataset.state_dict() for dataset in started]
    assert all(state == states[0] for state in states)
    whole = order_of(shared, num_splits)
    assert sorted(itertools.chain(*done)) == sorted(whole[: rows * before])
    resumed = readers(ours, shared, world_size=after, state=states[0], **options)
    left = set(itertools.chain(*map(list, resumed)))
    missing = set(whole[rows * before :]) - left
    assert len(missing) <= (after - 1 if tail == "drop" else 0)
    if tail != "pad":
        assert left <= set(whole[rows * before :])


def test_states_are_those_of_lancedb(shared):
    """States agree until the rows that do not divide, which are at the end."""
    for first, second in ((ours, theirs), (theirs, ours)):
        options = {ours: {"tail": "uneven"}, theirs: {}}
        started = first.StreamingDataset(shared, num_splits=4, **options[first], **IDS)
        rows = next_rows(started, 14)
        resumed = second.StreamingDataset(
            shared, num_splits=4, **options[second], **IDS
        )
        resumed.load_state_dict(started.state_dict())
        whole = order_of(shared, 4)
        assert rows + list(resumed) == whole[: 103 if second is ours else 100]


def test_states_that_are_not_of_a_beginning_are_refused(shared):
    dataset = StreamingDataset(shared, num_splits=3, tail="pad")
    state = dataset.state_dict()
    for counts in ([1, 2, 1], [40, 40, 40], [1, 1]):
        with pytest.raises(ValueError, match="is not the beginning of an epoch"):
            dataset.load_state_dict(state | {"samples_consumed_per_split": counts})
    counts = {"samples_consumed_per_split": [4, 4, 4]}
    for positions in ([6, 4, 4], [4, 4, 5]):
        skipped = {"positions_consumed_per_split": positions}
        with pytest.raises(ValueError, match="is not the beginning of an epoch"):
            dataset.load_state_dict(state | counts | skipped)
    dataset.load_state_dict(state | {"samples_consumed_per_split": 2})
    assert dataset.state_dict()["samples_consumed_per_split"] == [2, 2, 2]


@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_a_loader_with_any_number_of_workers(shared, num_workers, tail):
    options = {"num_splits": 5, "tail": tail, **IDS}
    dataset = StreamingDataset(shared, world_size=2, **options)
    count = max(1, num_workers)
    iterator = iter(
        StreamingDataLoader(
            dataset, batch_size=4, num_workers=num_workers, collate_fn=list
        )
    )
    done = list(itertools.chain(*itertools.islice(iterator, count)))
    assert dataset.state_dict()["samples_consumed_per_split"] == (
        dataset._progress.order.counts(2 * 4 * count)
    )
    done += next(iterator)
    if count > 1:
        with pytest.raises(RuntimeError, match="complete logical step boundary"):
            dataset.state_dict()
    done += itertools.chain(*iterator)
    made = readers(
        ours, shared, world_size=2, num_workers=num_workers or None, **options
    )
    assert sorted(done) == sorted(itertools.chain(*made[:count]))
    used = 103 - 103 % (2 * count) if tail == "drop" else 103
    assert sum(dataset.state_dict()["samples_consumed_per_split"]) == used


def test_workers_do_not_start_within_a_step(shared):
    dataset = StreamingDataset(shared, num_splits=5, tail="pad", **IDS)
    iterator = iter(StreamingDataLoader(dataset, batch_size=4, num_workers=2))
    next(iterator)
    iterator._shutdown_workers()
    with pytest.raises(RuntimeError, match="partial logical step"):
        iter(StreamingDataLoader(dataset, batch_size=4, num_workers=2))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
def test_the_rest_of_an_unfinished_step_is_read_first(
    shared, tail, num_workers, world_size
):
    """Each row is yielded once, and states can be made again after it."""
    options = {"num_splits": 5, "tail": tail, "world_size": world_size, **IDS}
    dataset = StreamingDataset(shared, **options)
    step = num_workers * 4
    started = iter(
        StreamingDataLoader(
            dataset, batch_size=4, num_workers=num_workers, collate_fn=list
        )
    )
    done = list(itertools.chain(*itertools.islice(started, num_workers + 1)))
    started._shutdown_workers()
    # The missing rows of the second step, in two parts, and one row of the third.
    for count in (1, step - 5):
        with pytest.raises(RuntimeError, match="complete logical step boundary"):
            dataset.state_dict()
        done += next_rows(dataset, count)
    whole = order_of(shared, 5)
    assert sorted(done) == sorted(
        itertools.chain(
            *(
                whole[k : k + num_workers]
                for k in range(0, step * 2 * world_size, num_workers * world_size)
            )
        )
    )
    assert sum(dataset.state_dict()["samples_consumed_per_split"]) == (
        2 * step * world_size
    )
    done += next_rows(dataset, 1)
    assert sum(dataset.state_dict()["samples_consumed_per_split"]) == (
        (2 * step + 1) * world_size
    )
    done += dataset
    if world_size == 1:
        assert sorted(done) == list(range(103))
    else:
        assert len(done) - len(set(done)) <= (tail == "pad")
    assert list(dataset) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_reader_continues_within_a_step(shared, num_workers):
    dataset = StreamingDataset(shared, num_splits=5, tail="pad", **IDS)
    options = {"batch_size": 4, "collate_fn": list}
    started = iter(StreamingDataLoader(dataset, num_workers=2, **options))
    done = list(itertools.chain(*itertools.islice(started, 3)))
    started._shutdown_workers()
    loader = StreamingDataLoader(dataset, num_workers=num_workers, **options)
    resumed = iter(loader)
    done += next(resumed)
    assert sum(dataset.state_dict()["samples_consumed_per_split"]) == 16
    done += itertools.chain(*resumed)
    assert sorted(done) == list(range(103))


def test_a_state_with_a_tail_has_lancedbs_keys(shared):
    keys = set(theirs.StreamingDataset(shared).state_dict())
    dataset = StreamingDataset(shared, tail="pad", **IDS)
    next_rows(dataset, 7)
    assert set(dataset.state_dict()) == keys
    next(iter(StreamingDataLoader(dataset, batch_size=4, collate_fn=list)))
    assert set(dataset.state_dict()) == keys


def test_a_loader_of_a_dataset_with_a_worker_override(shared):
    dataset = StreamingDataset(
        shared, num_splits=2, tail="pad", worker_info_override=Worker(1, 2), **IDS
    )
    loader = StreamingDataLoader(dataset, batch_size=5, collate_fn=list)
    rows = next(iter(loader))
    assert rows == order_of(shared, 2)[1:11:2]
    assert dataset.state_dict()["samples_consumed_per_split"] == [5, 5]
    rows += itertools.chain(*loader)
    assert rows == [*order_of(shared, 2)[1::2], order_of(shared, 2)[0]]


@pytest.mark.parametrize("rank", [-1, 2, 5])
def test_a_rank_outside_of_the_world_is_refused(shared, rank):
    with pytest.raises(ValueError, match=f"rank {rank}: `rank` must be from 0 to 1"):
        StreamingDataset(shared, tail="uneven", rank=rank, world_size=2)


@pytest.mark.parametrize(
    "options",
    [
        {"tail": "all"},
        {"tail": "pad", "on_transform_error": "skip"},
        {"tail": "pad", "on_transform_error": bool},
    ],
    ids=str,
)
def test_options_that_tail_does_not_support(shared, options):
    with pytest.raises(ValueError, match="tail"):
        StreamingDataset(shared, **options)


def test_more_splits_than_rows(db):
    table = db.create_table("t", tables.narrow(3))
    dataset = StreamingDataset(table, num_splits=7, tail="uneven", **IDS)
    assert sorted(dataset) == [0, 1, 2]
    assert list(dataset) == []


# Pickles and copies.


WAYS = {
    "pickle": lambda dataset: pickle.loads(pickle.dumps(dataset)),
    "cloudpickle": lambda dataset: pickle.loads(cloudpickle.dumps(dataset)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def source_of(kind, folder):
    if kind == "arrow":
        return tables.narrow(40)
    if kind == "path":
        lancedb.connect(folder).create_table("t", tables.narrow(40))
        return f"{folder}/t.lance"
    uri = "memory://" if kind == "memory" else folder
    table = lancedb.connect(uri).create_table("t", tables.narrow(30))
    table.add(tables.narrow(50).slice(30))
    table.delete("id >= 10 and id < 20")
    return table


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["disk", "memory", "arrow", "path"])
@pytest.mark.parametrize("filter", [None, "id % 2 = 0"])
def test_copies_of_a_dataset_are_independent(tmp_path, way, kind, filter):
    """A copy has the progress and the version; the original continues on its own."""
    table = source_of(kind, tmp_path / "db")
    options = {"num_splits": 4, "rank": 1, "world_size": 2, "filter": filter}
    dataset = StreamingDataset(table, strict=True, **options, **IDS)
    whole = list(StreamingDataset(table, **options, **IDS))
    rows = next_rows(dataset, 4)
    other = WAYS[way](dataset)
    if kind == "disk":
        table.delete("id < 30")
    assert other.state_dict() == dataset.state_dict()
    assert rows + list(other) == rows + list(dataset) == whole
    assert other.bytes_loaded == dataset.bytes_loaded > 0
    again = WAYS[way](other)
    again.reset()
    assert list(again) == whole
    again.set_epoch(1)
    if kind != "memory":
        dataset.set_epoch(1)
        assert list(again) == list(dataset)


def test_a_copy_does_not_include_the_live_iterator(shared):
    dataset = StreamingDataset(shared, num_splits=2, **IDS)
    iterator = iter(dataset)
    rows = [next(iterator), next(iterator)]
    for way in WAYS.values():
        assert rows + list(way(dataset)) == rows + list(way(dataset))
    assert len(list(iterator)) == 100


def test_a_pickle_of_a_plain_epoch_is_a_recipe(tmp_path):
    table = lancedb.connect(tmp_path).create_table("t", tables.narrow(20_000))
    assert len(pickle.dumps(StreamingDataset(table, num_splits=4))) < 20_000
    chosen = StreamingDataset(table, num_splits=4, world_size=4, filter="id >= 0")
    assert len(pickle.dumps(chosen)) < 20_000 * 16 / 4 + 20_000


def test_a_replaced_permutation_table_is_copied(shared):
    """Programs may replace the permutation table."""
    dataset = StreamingDataset(shared, num_splits=2, **IDS)
    other = StreamingDataset(shared, num_splits=2, shuffle_seed=9, **IDS)
    dataset._perm_table = other._perm_table
    whole = list(other)
    assert list(pickle.loads(pickle.dumps(dataset))) == whole
    assert list(copy.deepcopy(dataset)) == list(dataset) == whole


def test_a_connection_factory_reopens_the_table(opened, table):
    dataset = StreamingDataset(
        table, num_splits=2, connection_factory=importable.open_from_environment, **IDS
    )
    state = dataset.__getstate__()
    assert state["_table"] is None
    assert state["_table_name"] == "t"
    assert list(pickle.loads(pickle.dumps(dataset))) == list(dataset)
    assert opened == ["t"]
