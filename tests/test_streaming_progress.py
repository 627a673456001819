"""Progress of a streaming epoch: plain arithmetic, without tables."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.streaming.iterator_lock import IteratorLock
from lanceloader.streaming.progress import PackProgress, RowProgress, ShardProgress
from lanceloader.streaming.sharding import GlobalOrder

SIZES = st.integers(1, 40), st.integers(1, 12)


@given(*SIZES)
def test_a_global_order_has_each_row_once(num_rows, num_splits):
    order = GlobalOrder(num_rows, num_splits)
    offsets = order.offsets(np.arange(num_rows + 1)).tolist()
    assert sorted(offsets[:-1]) == list(range(num_rows))
    # Places past the end continue at the beginning.
    assert offsets[-1] == offsets[0]


@given(*SIZES)
def test_counts_of_splits_determine_the_rows_done(num_rows, num_splits):
    order = GlobalOrder(num_rows, num_splits)
    for done in range(num_rows + 1):
        counts = order.counts(done)
        assert len(counts) == num_splits
        assert order.done(counts) == done
    with pytest.raises(ValueError, match="merge_state_dicts"):
        order.done([0] * num_splits + [1])


@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.lists(
        st.tuples(
            st.integers(1, 4), st.lists(st.integers(0, 5), min_size=4, max_size=4)
        ),
        max_size=6,
    ),
)
def test_each_place_is_taken_once_wherever_readers_stop(num_rows, num_splits, runs):
    """Each run has a number of workers, and how many rows each of them takes.

    Within a step only one worker may continue.
    """
    progress = ShardProgress(GlobalOrder(num_rows, num_splits))
    taken = []
    for num_workers, counts in [*runs, (1, [num_rows])]:
        if not progress.is_at_step([]):
            num_workers = 1
        shards = {
            k: progress.shard("uneven", 0, 1, k, num_workers)
            for k in range(num_workers)
        }
        progress.begin(shards)
        for k, shard in shards.items():
            count = min(counts[k], shard.num_rows)
            if count:
                progress.commit({"workers": {k: count}})
            taken += [shard.place(row) for row in range(count)]
    assert sorted(taken) == list(range(num_rows))
    assert progress.done == num_rows
    assert progress.is_at_step([])


def test_a_shard_is_within_a_step_until_all_readers_took_equally_many():
    progress = ShardProgress(GlobalOrder(12, 3))
    progress.begin({k: progress.shard("pad", 0, 1, k, 2) for k in range(2)})
    for state, is_at_step in (({0: 2}, False), ({1: 1}, False), ({1: 2}, True)):
        progress.commit({"workers": state})
        assert progress.is_at_step([]) is is_at_step
    assert progress.counts()["samples_consumed_per_split"] == [2, 1, 1]


def test_progress_of_a_worker_never_moves_rows_back():
    progress = RowProgress(3)
    progress.commit(
        {
            "samples_consumed_per_split": [2, 1, 0],
            "positions_consumed_per_split": [4, 1, 0],
        }
    )
    progress.commit({"samples_consumed_per_split": [1, 1, 1]})
    assert progress.counts() == {
        "samples_consumed_per_split": [2, 1, 1],
        "positions_consumed_per_split": [4, 1, 1],
    }
    assert progress.offset == 1
    assert progress.is_at_step([1, 2])
    assert not progress.is_at_step([0, 1])


def test_progress_of_a_worker_never_moves_blocks_back():
    progress = PackProgress(2)
    tokens = {"tokens": [7], "starts": [0]}
    state = {
        "samples_consumed_per_split": [3, 0],
        "blocks_emitted_per_split": [1, 0],
        "pack_buffers": {"0": tokens},
    }
    progress.commit(state)
    progress.commit({**state, "blocks_emitted_per_split": [0, 0], "pack_buffers": {}})
    assert progress.counts() == {
        "samples_consumed_per_split": [3, 0],
        "blocks_emitted_per_split": [1, 0],
        "pack_buffers": {0: tokens},
    }
    with pytest.raises(ValueError, match="one entry per split"):
        progress.commit({**state, "blocks_emitted_per_split": [1]})


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))]
)
def test_a_copy_of_a_lock_is_free(way):
    lock = IteratorLock()
    token = lock.acquire(is_reading=False)
    with pytest.raises(RuntimeError, match="concurrent iteration"):
        lock.acquire(is_reading=False)
    other = way(lock)
    assert other.lease is None
    assert other.acquire(is_reading=False) == token + 1
    assert lock.owner == token
    lock.release(token + 1)
    assert lock.owner == token
    lock.release(token)
    assert lock.owner is None


def test_a_lock_is_not_acquired_during_an_iteration_without_a_lease():
    with pytest.raises(RuntimeError, match="concurrent iteration"):
        IteratorLock().acquire(is_reading=True)
