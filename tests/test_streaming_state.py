"""State dicts have LanceDB's format, and resume in either library with any topology."""

from __future__ import annotations

import json
from functools import partial

import lancedb
import pytest
import tables
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.streaming import StreamingDataset
from streaming_datasets import (
    LIBRARIES,
    as_lists,
    few_examples,
    ids_of,
    next_rows,
    ours,
    outcome,
    readers,
    sets,
    steps,
    theirs,
    tokens_table,
)

SIZES = 1, 2, 3, 4, 6, 12


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(120))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A table of documents of 0 to 12 tokens, some longer than a block of 6."""
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    documents = [[100 * i + k for k in range(i % 13)] for i in range(60)]
    return tokens_table(database, documents)


def packing(**options):
    return {
        "pack_sequences": 6,
        "eos_id": -1,
        "pad_id": -2,
        "blocks_per_epoch": 72,
        "columns": ["tokens"],
        "num_splits": 12,
        **options,
    }


def test_keys_and_values(shared):
    dataset = StreamingDataset(shared, num_splits=4, shuffle_seed=3, epoch=2)
    next_rows(dataset, 6)
    state = dataset.state_dict()
    assert state == {
        "shuffle_seed": 3,
        "num_splits": 4,
        "epoch": 2,
        "samples_consumed_per_split": [2, 2, 1, 1],
        "positions_consumed_per_split": [2, 2, 1, 1],
    }
    assert json.loads(json.dumps(state)) == state


def test_states_load_with_weights_only(shared, tokens, tmp_path):
    packed = StreamingDataset(tokens, **packing())
    next_rows(packed, 12)
    rows = StreamingDataset(shared)
    next_rows(rows, 3)
    for dataset in (rows, packed):
        torch.save(dataset.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert state == dataset.state_dict()


@given(
    st.sampled_from(["ours", "theirs"]),
    st.sampled_from(SIZES),
    st.sampled_from(SIZES),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(0, 10),
)
@few_examples
def test_rows_resume_in_the_other_library(
    shared, first, before, after, num_workers, cycles
):
    """A run that stops at a step resumes in the other library with other ranks."""
    if num_workers and 12 // after % num_workers:
        num_workers = None
    second = "theirs" if first == "ours" else "ours"
    options = {"num_splits": 12, "shuffle_seed": 5, "transform": ids_of}
    started = readers(LIBRARIES[first], shared, world_size=before, **options)
    done = [next_rows(dataset, cycles * 12 // before) for dataset in started]
    states = [dataset.state_dict() for dataset in started]
    assert all(state == states[0] for state in states)
    state = json.loads(json.dumps(states[0]))
    resumed = readers(
        LIBRARIES[second],
        shared,
        world_size=after,
        num_workers=num_workers,
        state=state,
        **options,
    )
    left = sets(steps(resumed, 12 // len(resumed)))
    whole = sets(steps(readers(theirs, shared, **options), 12))
    assert sorted(sum(done, [])) == sorted(sum(whole[:cycles], []))  # noqa: RUF017
    assert left == whole[cycles:]


@given(st.sampled_from([1, 2, 3, 4]), st.integers(0, 119), st.integers(0, 119))
@few_examples
def test_a_run_may_stop_at_any_row(shared, num_splits, first, second):
    """Within a round too: the split that is furthest behind continues first."""
    options = {"num_splits": num_splits, "transform": ids_of}
    whole = list(theirs.StreamingDataset(shared, **options))
    dataset = StreamingDataset(shared, **options)
    their = theirs.StreamingDataset(shared, **options)
    rows = next_rows(dataset, first)
    next_rows(their, first)
    assert dataset.state_dict() == their.state_dict()
    resumed = theirs.StreamingDataset(shared, **options)
    resumed.load_state_dict(dataset.state_dict())
    more = min(second, 120 - first)
    rows += next_rows(resumed, more)
    again = StreamingDataset(shared, **options)
    again.load_state_dict(resumed.state_dict())
    rows += list(again)
    assert rows == whole


@given(
    st.lists(st.integers(0, 24), min_size=5, max_size=5),
    st.lists(st.integers(0, 5), min_size=5, max_size=5),
)
@few_examples
def test_uneven_counts_resume_as_in_lancedb(shared, samples, skipped):
    positions = [min(24, n + k) for n, k in zip(samples, skipped, strict=True)]
    state = {
        "shuffle_seed": 0,
        "num_splits": 5,
        "epoch": 0,
        "samples_consumed_per_split": samples,
        "positions_consumed_per_split": positions,
    }
    found, wanted = (
        readers(library, shared, num_splits=5, state=state, transform=ids_of)[0]
        for library in (ours, theirs)
    )
    assert list(found) == list(wanted)
    assert found.state_dict() == wanted.state_dict()


def test_laggards_catch_up_first(db):
    table = db.create_table("t", [{"id": i} for i in (1, 2, 10, 20)])
    dataset = StreamingDataset(table, num_splits=2, shuffle=False, transform=ids_of)
    assert next_rows(dataset, 1) == [1]
    resumed = StreamingDataset(table, num_splits=2, shuffle=False, transform=ids_of)
    resumed.load_state_dict(dataset.state_dict())
    assert list(resumed) == [10, 2, 20]


@given(
    st.sampled_from(["ours", "theirs"]),
    st.sampled_from(SIZES),
    st.sampled_from(SIZES),
    st.integers(0, 6),
)
@few_examples
def test_blocks_resume_in_the_other_library(tokens, first, before, after, cycles):
    second = "theirs" if first == "ours" else "ours"
    started = readers(LIBRARIES[first], tokens, world_size=before, **packing())
    for dataset in started:
        next_rows(dataset, cycles * 12 // before)
    states = [json.loads(json.dumps(dataset.state_dict())) for dataset in started]
    state = LIBRARIES[second].StreamingDataset.merge_state_dicts(states)
    assert state == LIBRARIES[first].StreamingDataset.merge_state_dicts(states)
    resumed = readers(
        LIBRARIES[second], tokens, world_size=after, state=state, **packing()
    )
    left = [list(map(as_lists, dataset)) for dataset in resumed]
    wanted = readers(theirs, tokens, world_size=after, **packing())
    per_rank = cycles * 12 // after
    assert left == [list(map(as_lists, dataset))[per_rank:] for dataset in wanted]


def test_packed_states_are_those_of_lancedb(tokens):
    made = [library.StreamingDataset(tokens, **packing()) for library in (ours, theirs)]
    for _ in range(6):
        for dataset in made:
            next_rows(dataset, 12)
        assert made[0].state_dict() == made[1].state_dict()
        assert made[0]._pack_buffers == made[1]._pack_buffers
        assert made[0]._checkpoint_snapshot() == made[1]._checkpoint_snapshot()


def test_tokens_between_blocks_may_be_set(tokens):
    for library in (ours, theirs):
        dataset = library.StreamingDataset(tokens, **packing())
        dataset._pack_buffers = {0: {"tokens": [7, 8], "starts": [0]}}
        assert next(iter(dataset))["input_ids"][:2].tolist() == [7, 8]


def test_a_packed_state_within_a_step_is_refused(tokens):
    for library in (ours, theirs):
        dataset = library.StreamingDataset(tokens, **packing())
        next_rows(dataset, 5)
        with pytest.raises(RuntimeError, match="complete logical step boundary"):
            dataset.state_dict()


def test_unaligned_packed_states_do_not_resume(tokens):
    dataset = StreamingDataset(tokens, **packing())
    next_rows(dataset, 12)
    state = dataset.state_dict()
    state["blocks_emitted_per_split"][3] = 0
    resumed = StreamingDataset(tokens, **packing())
    resumed.load_state_dict(state)
    with pytest.raises(ValueError, match="merge_state_dicts"):
        next(iter(resumed))


STATE = {
    "shuffle_seed": 0,
    "num_splits": 2,
    "epoch": 0,
    "samples_consumed_per_split": [3, 3],
    "positions_consumed_per_split": [4, 3],
}
PACKED = {
    "shuffle_seed": 0,
    "num_splits": 2,
    "epoch": 0,
    "pack_sequences": 6,
    "eos_id": -1,
    "pad_id": -2,
    "blocks_per_epoch": 4,
    "samples_consumed_per_split": [2, 1],
    "blocks_emitted_per_split": [1, 1],
    "pack_buffers": {0: {"tokens": [7, -1], "starts": [0]}},
}
CHANGES = [
    {},
    {"num_splits": 3},
    {"shuffle_seed": 1},
    {"epoch": 1},
    {"samples_consumed_per_split": 3, "positions_consumed_per_split": None},
    {"samples_consumed_per_split": []},
    {"positions_consumed_per_split": None},
    {"pad_id": 0},
    {"eos_id": 0},
    {"pack_sequences": 5},
    {"blocks_per_epoch": 6},
    {"blocks_emitted_per_split": [2, 1]},
    {
        "pack_buffers": {
            "0": {"tokens": [7], "starts": []},
            "1": PACKED["pack_buffers"][0],
        }
    },
]
LOSSES = [
    *("shuffle_seed", "num_splits", "samples_consumed_per_split", "epoch", "pad_id"),
    *("positions_consumed_per_split", "blocks_emitted_per_split"),
]


def changed(state):
    yield from (state | change for change in CHANGES)
    for key in LOSSES:
        yield {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize("mode", ["rows", "packed"])
def test_loading_is_that_of_lancedb(shared, tokens, mode):
    """Both libraries refuse the same states, and continue the others at the same rows."""
    table, options = shared, {"num_splits": 2, "transform": ids_of}
    if mode == "packed":
        table, options = tokens, packing(num_splits=2, blocks_per_epoch=4)
    for state in [*changed(STATE), *changed(PACKED)]:
        results = []
        for library in (ours, theirs):
            dataset = library.StreamingDataset(table, **options)
            failure = outcome(partial(dataset.load_state_dict, state))
            after = outcome(dataset.state_dict)
            if failure is not None:
                failure = failure[0], failure[1].partition(":")[0]
            if not isinstance(after, dict):
                after = after[0]
            results.append((failure, after))
        assert results[0] == results[1], state


def test_merging_is_that_of_lancedb():
    for state in (STATE, PACKED):
        for other in [*changed(STATE), *changed(PACKED)]:
            found, wanted = (
                outcome(
                    partial(library.StreamingDataset.merge_state_dicts, [state, other])
                )
                for library in (ours, theirs)
            )
            if isinstance(wanted, tuple):
                assert found[0] is wanted[0], other
                for part in ("mismatch across state dicts", "cannot merge packed"):
                    assert (part in found[1]) == (part in wanted[1])
            else:
                assert found == wanted
    with pytest.raises(ValueError, match="at least one"):
        StreamingDataset.merge_state_dicts([])


def test_merging_does_not_change_its_arguments():
    before = json.dumps(PACKED)
    merged = StreamingDataset.merge_state_dicts([PACKED])
    merged["pack_buffers"][0]["tokens"].append(0)
    merged["samples_consumed_per_split"].append(0)
    assert json.dumps(PACKED) == before


def test_a_state_is_a_copy(shared, tokens):
    for table, options in ((shared, {"num_splits": 12}), (tokens, packing())):
        dataset = StreamingDataset(table, **options)
        next_rows(dataset, 12)
        before = json.dumps(dataset.state_dict())
        for value in dataset.state_dict().values():
            if isinstance(value, list | dict):
                value.clear()
        assert json.dumps(dataset.state_dict()) == before


# Strict loading.


def plan(**options):
    return {"num_splits": 4, "strict": True, **options}


def test_strict_states_resume_in_both_libraries(shared):
    dataset = StreamingDataset(shared, **plan(transform=ids_of))
    rows = next_rows(dataset, 9)
    state = json.loads(json.dumps(dataset.state_dict()))
    whole = list(theirs.StreamingDataset(shared, num_splits=4, transform=ids_of))
    for library, options in ((ours, {"strict": True}), (theirs, {})):
        resumed = library.StreamingDataset(
            shared, num_splits=4, transform=ids_of, **options
        )
        resumed.load_state_dict(state)
        assert rows + list(resumed) == whole
    merged = theirs.StreamingDataset.merge_state_dicts([state, state])
    StreamingDataset(shared, **plan()).load_state_dict(merged)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epoch": 1}, "epoch mismatch"),
        ({"filter": "id >= 0"}, "filter mismatch"),
        ({"shuffle": False}, "shuffle mismatch"),
        ({"shuffle_clump_size": 2}, "shuffle_clump_size mismatch"),
    ],
)
def test_strict_loading_refuses_other_orders(shared, options, named):
    dataset = StreamingDataset(shared, **plan())
    next_rows(dataset, 4)
    state = dataset.state_dict()
    other = StreamingDataset(shared, **plan(**options))
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(state)
    assert other.state_dict()["samples_consumed_per_split"] == [0] * 4
    other.load_state_dict(state, strict=False)
    assert other.state_dict()["samples_consumed_per_split"] == [1] * 4


def test_strict_loading_refuses_other_versions_and_rows(db):
    table = db.create_table("t", tables.narrow(40))
    state = StreamingDataset(table, **plan()).state_dict()
    table.add(tables.narrow(4))
    with pytest.raises(ValueError, match="table_version mismatch: checkpoint has 1"):
        StreamingDataset(table, **plan()).load_state_dict(state)
    state["plan"]["table_version"] = 2
    with pytest.raises(ValueError, match="rows mismatch"):
        StreamingDataset(table, **plan()).load_state_dict(state)
    other = {**state, "plan": None, "samples_consumed_per_split": [1, 1]}
    with pytest.raises(ValueError, match="2 counts"):
        StreamingDataset(table, **plan()).load_state_dict(other)


def test_strict_loading_of_a_state_without_a_plan(shared):
    """The epoch of a state of LanceDB is checked."""
    dataset = theirs.StreamingDataset(shared, num_splits=4, epoch=1)
    next_rows(dataset, 4)
    state = dataset.state_dict()
    StreamingDataset(shared, **plan(epoch=1)).load_state_dict(state)
    with pytest.raises(ValueError, match="epoch mismatch"):
        StreamingDataset(shared, num_splits=4).load_state_dict(state, strict=True)
