"""States of a loader at any step, loaded anywhere."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
import shutil

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
import tables
import torch
from hypothesis import given
from hypothesis import strategies as st
from lance_features import without_file_sizes
from vector_tables import STRATEGIES

ROWS, BATCH = 1003, 100


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=300)
    return str(path)


@pytest.fixture(scope="module")
def perm(path):
    return ll.open(path).select_columns(["id"])


def loader_of(perm, batch_size=BATCH, **options):
    options = {"shuffle": True, "seed": 5, "format": "arrow"} | options
    return perm.loader(batch_size, **options)


def ids(batches):
    return [row for batch in batches for row in batch["id"].to_pylist()]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def wanted(perm, epoch=0, seed=5):
    return perm.shuffle(seed, epoch=epoch).to_arrow()["id"].to_pylist()


def travelled(state):
    """A state as it is in a checkpoint."""
    file = io.BytesIO()
    torch.save({"loader": state}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["loader"]
    assert json.loads(json.dumps(loaded)) == loaded == state
    return loaded


def resumed(perm, state, **options):
    loader = loader_of(perm, **options)
    loader.load_state_dict(travelled(state))
    return loader


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("epoch", [None, 0, 3])
def test_a_state_of_any_step_resumes_there(perm, read, epoch):
    loader = loader_of(perm, read=read)
    if epoch is not None:
        loader.set_epoch(epoch)
    order = wanted(perm, epoch or 0)
    states = [loader.state_dict()]
    for batch in loader:
        assert batch.num_rows
        states.append(loader.state_dict())
    assert len(states) == 12
    for step, state in enumerate(states):
        again = resumed(perm, state, read=read)
        assert ids(again) == order[step * BATCH :], step
        # The next epoch is whole.
        again.set_epoch((epoch or 0) + 1)
        assert ids(again) == wanted(perm, (epoch or 0) + 1)


def test_a_state_is_small_and_plain_at_any_size(perm):
    view = perm.with_repeat(10**12).with_format("arrow")
    loader = view.loader(7, shuffle=True, seed=1, world_size=4, rank=2)
    loader.skip_batches(10**13)
    state = travelled(loader.state_dict())
    assert state["position"] == 7 * 4 * 10**13
    assert len(json.dumps(state)) < 500
    again = view.loader(7, shuffle=True, seed=1, world_size=4, rank=2)
    again.load_state_dict(state)
    positions = range(28 * 10**13 + 14, 28 * 10**13 + 21)
    assert next(iter(again)).equals(view.shuffle(1).take_offsets(positions))


def test_a_state_loads_with_other_batch_sizes_columns_formats_and_strategies(path):
    view = ll.open(path)
    loader = loader_of(view)
    state = [loader.state_dict() for _ in itertools.islice(loader, 3)][-1]
    rest = wanted(view)[300:]
    again = loader_of(view.select_columns(["id", "x"]), 7, format="numpy_dict")
    again.load_state_dict(state)
    assert [row for batch in again for row in batch["id"].tolist()] == rest
    assert ids(resumed(view, state, batch_size=64, read="external")) == rest


@pytest.mark.parametrize("is_last", [False, True])
def test_after_the_last_batch_an_epoch_is_neither_dropped_nor_repeated(perm, is_last):
    """In the loop over batches the epoch goes on, with nothing; behind the loop the next begins."""
    loader = loader_of(perm)
    for _ in loader:
        state = loader.state_dict()
    if is_last:
        state = loader.state_dict()
    again = resumed(perm, state)
    assert ids(again) == (wanted(perm) if is_last else [])
    assert ids(again) == wanted(perm)


@pytest.mark.parametrize("is_last", [False, True])
def test_after_the_last_batch_of_a_numbered_epoch_its_number_decides(perm, is_last):
    loader = loader_of(perm).set_epoch(4)
    for _ in loader:
        state = loader.state_dict()
    if is_last:
        state = loader.state_dict()
    assert ids(resumed(perm, state)) == []
    assert ids(resumed(perm, state).set_epoch(4)) == []
    assert ids(resumed(perm, state).set_epoch(5)) == wanted(perm, 5)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_training_loop_that_is_cut_anywhere(perm, drop_last):
    """Over three epochs, with a state at every step, as a trainer would keep it."""

    def train(state, stop):
        loader = loader_of(perm, 300, drop_last=drop_last)
        first = 0
        if state is not None:
            loader.load_state_dict(travelled(state))
            first = state["epoch"]
        seen = []
        for epoch in range(first, 3):
            for batch in loader.set_epoch(epoch):
                seen.append(ids([batch]))
                if len(seen) == stop:
                    return seen, loader.state_dict()
        return seen, loader.state_dict()

    whole, _ = train(None, None)
    assert len(whole) == (9 if drop_last else 12)
    for cut in range(1, len(whole) + 1):
        seen, state = train(None, cut)
        for again in (1, 2):
            more, state = train(state, again)
            seen += more
        rest, _ = train(state, None)
        assert seen + rest == whole, cut


@pytest.mark.parametrize("epochs", [3, None])
def test_several_epochs_in_one_iteration(perm, epochs):
    loader = loader_of(perm, epochs=epochs).set_epoch(2)
    number = 3 * 11
    states, batches = [], []
    for batch in itertools.islice(loader, number):
        batches.append(ids([batch]))
        states.append(loader.state_dict())
    assert joined(batches[11:22]) == wanted(perm, 3)
    for step in (0, 5, 9, 10, 11, 21, 22, 32):
        again = loader_of(perm, epochs=epochs).set_epoch(2)
        again.load_state_dict(travelled(states[step]))
        rest = [ids([batch]) for batch in itertools.islice(again, number - step - 1)]
        assert rest == batches[step + 1 :], step


def test_an_iteration_of_several_epochs_keeps_them_when_another_is_set(perm):
    loader = loader_of(perm, epochs=2)
    batches = iter(loader)
    first = ids([next(batches)])
    loader.set_epoch(7)
    assert first + ids(batches) == wanted(perm, 0) + wanted(perm, 1)
    assert ids(loader) == wanted(perm, 7) + wanted(perm, 8)


def test_the_same_epoch_set_again_keeps_the_place_and_another_does_not(perm):
    loader = loader_of(perm).set_epoch(2).skip_batches(3)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (2, 300)
    assert ids(resumed(perm, state).set_epoch(2)) == wanted(perm, 2)[300:]
    assert ids(resumed(perm, state).set_epoch(3)) == wanted(perm, 3)
    assert ids(resumed(perm, state).set_epoch(3).set_epoch(2)) == wanted(perm, 2)
    assert ids(resumed(perm, state).skip_batches(2)) == wanted(perm, 2)[500:]
    assert ids(resumed(perm, state).skip_batches(0)) == wanted(perm, 2)[300:]
    assert ids(resumed(perm, state).skip_batches(2**60)) == []


def test_a_loader_loads_a_state_and_an_earlier_one(perm):
    loader = loader_of(perm)
    begun = iter(loader)
    first = ids([next(begun)])
    state = loader.state_dict()
    more = ids([next(begun)])
    loader.load_state_dict(state)
    # The iteration from before says no longer where training stands.
    next(begun)
    assert loader.state_dict() == state
    assert first + ids(loader) == wanted(perm)
    assert more == wanted(perm)[100:200]


def test_the_iteration_that_was_begun_last_says_where_training_stands(perm):
    loader = loader_of(perm)
    one = iter(loader)
    for _ in range(5):
        next(one)
    assert loader.state_dict()["position"] == 500
    other = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(one)
    assert loader.state_dict()["position"] == 0
    next(other)
    assert loader.state_dict()["position"] == 100


def test_an_epoch_or_a_place_set_before_the_first_batch_counts(perm):
    """Lightning asks for an iterator, sets the epoch, and then asks for batches."""
    loader = loader_of(perm)
    batches = iter(loader)
    loader.set_epoch(0)
    next(batches)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 100)
    loader.set_epoch(1)
    assert ids(batches) == wanted(perm, 0)[100:]
    batches = iter(loader)
    loader.set_epoch(2).skip_batches(9)
    assert ids(batches) == wanted(perm, 2)[900:]
    # Where another is asked for, each begins where it was told.
    one = iter(loader.set_epoch(1).skip_batches(3))
    other = iter(loader.set_epoch(2).skip_batches(5))
    assert ids(one) == wanted(perm, 1)[300:]
    assert loader.state_dict()["position"] == 500
    assert ids(other) == wanted(perm, 2)[500:]
    # One that nobody takes from takes nothing.
    iter(loader)
    loader.skip_batches(7)
    assert ids(loader) == wanted(perm, 2)[700:]
    assert ids(loader) == wanted(perm, 2)


@pytest.mark.parametrize(
    "ahead",
    [
        {"transform": lambda batch: batch, "transform_threads": 3},
        {"device": "cpu", "format": "torch_dict"},
        {"device": "meta", "format": "torch_dict", "transform_threads": 2},
    ],
)
def test_prefetched_batches_do_not_count(perm, ahead):
    loader = loader_of(perm, **ahead)
    for step, _ in enumerate(loader, 1):
        assert loader.state_dict()["position"] == min(ROWS, step * BATCH)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_batches_that_a_transform_fails_on_count(perm, threads):
    order = wanted(perm)
    bad = set(order[100:200]) | set(order[700:900]) | {order[350]}

    def fussy(batch):
        found = batch["id"].to_pylist()
        if bad.intersection(found):
            raise ValueError(found)
        return found

    def of(state=None):
        loader = loader_of(
            perm, transform=fussy, on_error="skip", transform_threads=threads
        )
        if state is not None:
            loader.load_state_dict(state)
        return loader

    loader, seen = of(), []
    for rows in loader:
        seen += rows
        rest = joined(of(loader.state_dict()))
        assert seen + rest == [row for row in order if row not in bad]
        assert loader.stats().rows >= len(seen)


def test_a_pickled_loader_keeps_its_place(perm):
    loader = loader_of(perm).set_epoch(3).skip_batches(4)
    for again in (pickle.loads(pickle.dumps(loader)), copy.copy(loader)):
        assert again.state_dict() == loader.state_dict()
        assert ids(again) == wanted(perm, 3)[400:]


def test_an_unnumbered_epoch_is_that_of_the_permutation(perm):
    fifth = perm.shuffle(5, epoch=5)
    loader = fifth.loader(BATCH, format="arrow")
    next(iter(loader))
    state = loader.state_dict()
    assert state["epoch"] is None
    again = fifth.loader(BATCH, format="arrow")
    again.load_state_dict(state)
    assert ids(again) == wanted(perm, 5)[100:]
    other = perm.shuffle(5, epoch=6).loader(BATCH)
    with pytest.raises(ValueError, match="another epoch of the permutation"):
        other.load_state_dict(state)
    several = fifth.loader(BATCH, epochs=2)
    with pytest.raises(ValueError, match=r"without a number.*set_epoch"):
        several.load_state_dict(state)
    # A number takes its place.
    numbered = loader.set_epoch(2).skip_batches(1).state_dict()
    other.load_state_dict(numbered)
    assert other.epoch == 2
    zeroth = loader_of(perm).skip_batches(2).state_dict()
    several = loader_of(perm, epochs=2)
    several.load_state_dict(zeroth)
    assert ids(several) == wanted(perm, 0)[200:] + wanted(perm, 1)


def test_the_table_may_be_moved_and_must_be_the_same(path, tmp_path):
    state = loader_of(ll.open(path)).skip_batches(1).state_dict()
    moved = tmp_path / "moved.lance"
    shutil.copytree(path, moved)
    assert ids(resumed(ll.open(str(moved)), state)) == wanted(ll.open(path))[100:]
    lance.write_dataset(tables.narrow(7), moved, mode="append")
    with pytest.raises(
        ValueError,
        match=r"another table: version 1 there, version 2 here.*number of rows: 1,003 there, 1,010",
    ):
        resumed(ll.open(str(moved)), state)
    resumed(ll.open(str(moved), version=lance.dataset(path).version), state)
    same_rows = tmp_path / "again.lance"
    lance.write_dataset(tables.narrow(ROWS), same_rows)
    with pytest.raises(ValueError, match=r"another table: its files are other ones"):
        resumed(ll.open(str(same_rows)), state)


@pytest.mark.parametrize("read", STRATEGIES)
def test_reading_does_not_change_the_fingerprint_of_a_table(tmp_path, read):
    """Lance looks up the sizes of files that a manifest does not tell."""
    path = str(tmp_path / "t.lance")
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=300)
    without_file_sizes(path)

    def states():
        perm = ll.open(path).select_columns(["id"])
        loader = loader_of(perm, read=read)
        yield loader.state_dict()
        batches = iter(loader)
        for _ in range(2):
            next(batches)
            yield loader.state_dict()
        perm.to_arrow()
        yield loader_of(perm, read=read).state_dict()

    plans = [state["plan"] for state in (*states(), *states())]
    assert plans == [plans[0]] * len(plans)
    state = list(states())[1]
    read_before = ll.open(path).select_columns(["id"])
    rows = wanted(read_before)
    for perm in (read_before, ll.open(path).select_columns(["id"])):
        assert ids(resumed(perm, state)) == rows[BATCH:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda perm: perm.shuffle(6),
            "for another order: seed 5 there, seed 6 here\\.",
        ),
        (
            lambda perm: perm,
            "another order: shuffled by seed 5 .* there, not shuffled here",
        ),
        (
            lambda perm: perm.filter("id > 3").shuffle(5),
            "another number of rows: 1,003 there, 999 here",
        ),
        (lambda perm: perm.split([0.5, 0.5], seed=1)[0].shuffle(5), "number of rows"),
        (lambda perm: perm.shuffle(5, block_size=10), "another order: "),
        (lambda perm: perm.shuffle(2).shuffle(5), "another order: "),
    ],
)
def test_states_of_another_plan_are_refused_saying_what_differs(perm, change, words):
    state = loader_of(perm).skip_batches(1).state_dict()
    loader = change(perm).loader(BATCH, format="arrow").set_epoch(1).skip_batches(2)
    before = loader.state_dict()
    with pytest.raises(ValueError, match=words):
        loader.load_state_dict(state)
    # It is as it was.
    assert loader.state_dict() == before
    assert sum(batch.num_rows for batch in loader) == loader.num_rows - 200


DAMAGED = [
    ({"lanceloader": 2}, "layout 2, but this version reads layout 1"),
    ({"epoch": -1}, "'epoch' must be .* got -1"),
    ({"epoch": True}, "'epoch' must be .* got True"),
    ({"epoch": 1.0}, "'epoch' must be .* got 1.0"),
    ({"epoch": 2**64}, "'epoch' must be .* got 18446744073709551616"),
    ({"position": -1}, "'position' must be .* got -1"),
    ({"position": None}, "'position' must be .* got None"),
    ({"position": "7"}, "'position' must be .* got '7'"),
    ({"position": ROWS + 1}, "position 1,004, but the epoch has 1,003 rows"),
    ({"plan": None}, "'plan' must be .* got None"),
    ({"plan": {}}, "another table: nothing there"),
    ({"worker": 3}, "'worker' must be .* got 3"),
    ({"worker": [2, 2]}, "'worker' must be .* got .2, 2."),
]


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_damaged_states_are_refused(perm, change, words):
    loader = loader_of(perm)
    with pytest.raises(ValueError, match=words):
        loader.load_state_dict(loader.state_dict() | change)
    assert ids(loader) == wanted(perm)


@pytest.mark.parametrize(
    ("foreign", "error", "words"),
    [
        (None, TypeError, r"`state` must be the dict of state_dict\(\), not NoneType"),
        ([1], TypeError, "list"),
        ({}, ValueError, "`state` has no keys"),
        ({"_snapshot": {}, "_steps_since_snapshot": 0}, ValueError, "'_snapshot'"),
        ({1: 2, "epoch": 3}, ValueError, "lanceloader, plan, position"),
    ],
)
def test_foreign_states_are_refused(perm, foreign, error, words):
    with pytest.raises(error, match=words):
        loader_of(perm).load_state_dict(foreign)


values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    *(st.lists(st.integers(), max_size=3), st.dictionaries(st.text(), st.integers())),
)
KEYS = ("lanceloader", "plan", "epoch", "position", "worker", "other")


@given(change=st.dictionaries(st.sampled_from(KEYS), values, min_size=1))
def test_any_damage_is_refused_or_harmless(path, change):
    view = ll.open(path).select_columns(["id"])
    loader = loader_of(view)
    state = loader.state_dict() | change
    try:
        loader.load_state_dict(state)
    except ValueError:
        assert loader.state_dict() == loader_of(view).state_dict()
    else:
        assert loader.state_dict()["position"] == state["position"] <= ROWS
        if state.get("worker") is None:
            assert ids(loader) == wanted(view, state["epoch"] or 0)[state["position"] :]


def test_data_in_memory_are_known_by_their_columns_and_rows():
    """They have no files: the same numbers of rows alone are not the same rows."""
    data = tables.narrow(10)
    state = ll.open(data).loader(4).skip_batches(1).state_dict()
    in_parts = pa.Table.from_batches(data.to_batches(max_chunksize=3))
    loader = ll.open(in_parts).select_columns(["x"]).loader(3)
    loader.load_state_dict(state)
    assert len(list(loader)) == 2
    others = [
        data.rename_columns(["other", *data.column_names[1:]]),
        data.select(["id", "x"]),
        data.set_column(0, "id", data["id"].cast(pa.int32())),
        tables.narrow(20),
    ]
    for other in others:
        loader = ll.open(other).with_take(10).loader(4)
        with pytest.raises(ValueError, match=r"another table: data of .* here"):
            loader.load_state_dict(state)
    wide = pa.table({f"a column of some length {k}": [1] for k in range(999)})
    state = travelled(ll.open(wide).loader(1).state_dict())
    assert len(json.dumps(state)) < 800
    ll.open(wide).loader(1).load_state_dict(state)
