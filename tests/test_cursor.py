"""The cursor of a loader, event by event, without any rows."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.loader.checkpoint import Checkpoint, EpochProgress
from lanceloader.loader.cursor import Cursor
from lanceloader.units.share import share_of
from lanceloader.world import World

ROWS, BATCH = 40, 4


def progress_of(start: Checkpoint) -> EpochProgress:
    left = ROWS - start.position
    share = share_of(ROWS, start.position, BATCH, World(), tail="pad", drop_last=True)
    assert share.num_batches == left // BATCH
    return EpochProgress(start, ROWS, BATCH, share, 0, None)


def begun(cursor: Cursor) -> tuple[int, EpochProgress]:
    """Request an iteration and its first batch."""
    number, requested = cursor.request()
    return number, progress_of(cursor.start(number, requested))


def test_a_new_cursor_stands_at_the_start():
    assert Cursor(1).checkpoint == Cursor(1).next_start == Checkpoint(None, 0)
    assert Cursor(None).checkpoint == Checkpoint(None, 0)
    assert Cursor(3).checkpoint == Checkpoint(None, 0, first=0)


def test_the_cursor_moves_with_the_leading_iteration_only():
    cursor = Cursor(1)
    first, progress = begun(cursor)
    cursor.advance(first, progress, 2)
    assert cursor.checkpoint == Checkpoint(None, 8)
    second, again = begun(cursor)
    assert cursor.checkpoint == Checkpoint(None, 0)
    cursor.advance(first, progress, 5)
    cursor.finish(first, progress.end())
    assert cursor.checkpoint == Checkpoint(None, 0)
    cursor.advance(second, again, 1)
    assert cursor.checkpoint == Checkpoint(None, 4)


def test_a_jump_ends_the_lead():
    cursor = Cursor(1)
    number, progress = begun(cursor)
    cursor.jump(Checkpoint(None, 12))
    cursor.advance(number, progress, 3)
    cursor.finish(number, progress.end())
    assert cursor.checkpoint == cursor.next_start == Checkpoint(None, 12)
    assert cursor.request()[1] == Checkpoint(None, 12)
    assert cursor.next_start == Checkpoint(None, 0), "taken once"


@pytest.mark.parametrize(
    ("num_epochs", "state", "epoch", "start"),
    [
        (1, Checkpoint(5, 12), 5, Checkpoint(5, 12)),
        # A state of several epochs in a loader of one: it continues with the epoch it stands in.
        (1, Checkpoint(5, 12, first=3), 5, Checkpoint(5, 12)),
        (3, Checkpoint(5, 12, first=4), 4, Checkpoint(5, 12, first=4)),
        (3, Checkpoint(5, 12), 2, Checkpoint(5, 12)),
        (None, Checkpoint(5, 12, first=4), 4, Checkpoint(5, 12)),
    ],
)
def test_a_state_restores_the_epoch_and_the_start(num_epochs, state, epoch, start):
    cursor = Cursor(num_epochs)
    cursor.set_epoch(2)
    number, progress = begun(cursor)
    cursor.resume(state)
    cursor.advance(number, progress, 3)
    assert (cursor.epoch, cursor.next_start) == (epoch, start)
    assert cursor.request()[1] == start


def test_the_epoch_may_be_set_between_iter_and_next():
    cursor = Cursor(1)
    number, requested = cursor.request()
    cursor.set_epoch(3)
    assert cursor.start(number, requested) == Checkpoint(3, 0)


def test_an_iteration_that_started_keeps_its_epoch():
    cursor = Cursor(1)
    cursor.set_epoch(0)
    number, progress = begun(cursor)
    cursor.set_epoch(1)
    assert cursor.checkpoint == Checkpoint(1, 0)
    cursor.advance(number, progress, 1)
    assert cursor.checkpoint == Checkpoint(0, 4), "its batches still count"
    cursor.finish(number, progress.end())
    assert cursor.checkpoint == Checkpoint(1, 0), "and the epoch that was set follows"


def test_a_place_in_the_epoch_that_is_set_is_kept():
    cursor = Cursor(1)
    cursor.renumber(5)
    cursor.jump(Checkpoint(5, 12))
    cursor.set_epoch(5)
    assert cursor.next_start == cursor.checkpoint == Checkpoint(5, 12)
    cursor.set_epoch(6)
    assert cursor.next_start == cursor.checkpoint == Checkpoint(6, 0)


def test_a_place_in_one_of_several_epochs_is_kept():
    cursor = Cursor(3)
    cursor.set_epoch(2)
    cursor.jump(Checkpoint(3, 8, first=2))
    cursor.set_epoch(1)
    assert cursor.next_start == Checkpoint(3, 8, first=1)
    cursor.set_epoch(4)
    assert cursor.next_start == Checkpoint(4, 0, first=4)


@pytest.mark.parametrize(
    ("num_epochs", "covered"),
    [(1, {2}), (3, {2, 3, 4}), (None, {2, 3, 4, 5, 6})],
)
def test_which_epochs_an_iteration_covers(num_epochs, covered):
    cursor = Cursor(num_epochs)
    cursor.set_epoch(2)
    assert {epoch for epoch in range(7) if cursor.covers(epoch)} == covered
    assert not cursor.covers(None)


def test_which_epoch_follows():
    cursor = Cursor(1)
    assert cursor.following(None) is None
    cursor.set_epoch(0)
    assert cursor.following(0) is None, "nobody knows what the trainer will set"
    cursor.set_epoch(1)
    assert cursor.following(1) == 2, "it counts up"
    cursor.set_epoch(7)
    assert cursor.following(7) is None
    several = Cursor(3)
    assert [several.following(epoch) for epoch in (0, 1, 2)] == [1, 2, None]
    assert Cursor(None).following(9) == 10


def test_an_older_request_that_starts_late_does_not_lead():
    cursor = Cursor(1)
    older, requested = cursor.request()
    newer, progress = begun(cursor)
    late = progress_of(cursor.start(older, requested))
    cursor.advance(older, late, 4)
    assert cursor.checkpoint == Checkpoint(None, 0)
    cursor.advance(newer, progress, 1)
    assert cursor.checkpoint == Checkpoint(None, 4)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("epoch"), st.integers(0, 4)),
            st.tuples(st.just("jump"), st.integers(0, 9)),
            st.tuples(st.just("iter"), st.just(0)),
            st.tuples(st.just("next"), st.integers(1, 3)),
        ),
        max_size=30,
    ),
    st.sampled_from([1, 3, None]),
)
def test_the_cursor_agrees_with_a_simple_model_of_training(events, num_epochs):
    """Whatever happens, resuming takes up behind the last batch of the leading iteration."""
    cursor = Cursor(num_epochs)
    live = None
    for event, value in events:
        if event == "epoch":
            cursor.set_epoch(value)
        elif event == "jump":
            epoch = cursor.epoch if num_epochs == 1 else cursor.first_epoch
            first = cursor.first_epoch if cursor.has_numbered_epochs else None
            cursor.jump(Checkpoint(epoch, value * BATCH, first=first))
            live = None
            assert cursor.next_start.position == value * BATCH
        elif event == "iter":
            number, progress = begun(cursor)
            live = [number, progress, 0]
        elif live is not None and live[2] < live[1].num_batches:
            live[2] = min(live[1].num_batches, live[2] + value)
            cursor.advance(*live)
            position = live[1].start.position + live[2] * BATCH
            assert cursor.checkpoint == Checkpoint(
                live[1].start.epoch, position, first=live[1].start.first
            )
        assert cursor.covers(cursor.next_start.epoch) or num_epochs != 1
    again = pickle.loads(pickle.dumps(cursor))
    assert again.checkpoint == copy.copy(cursor).checkpoint == cursor.checkpoint


def test_looking_at_the_checkpoint_changes_nothing():
    """Another thread may take a state while batches go on."""
    cursor = Cursor(1)
    number, progress = begun(cursor)
    cursor.advance(number, progress, 1)
    place = cursor._place
    assert cursor.checkpoint == Checkpoint(None, 4)
    assert cursor._place is place


@pytest.mark.parametrize("num_epochs", [1, 2, 3, None])
def test_a_lower_epoch_is_an_epoch_too(num_epochs):
    cursor = Cursor(num_epochs)
    cursor.set_epoch(1)
    cursor.set_epoch(0)
    assert (cursor.next_start.epoch, cursor.checkpoint.epoch) == (0, 0)
    number, progress = begun(cursor)
    cursor.finish(number, progress.end())
    cursor.set_epoch(5)
    begun(cursor)
    cursor.set_epoch(3)
    assert cursor.next_start.epoch == 3
