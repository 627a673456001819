"""Small batches of workers that are ready share messages."""

from __future__ import annotations

from itertools import chain

import pytest
from lanceloader.transport import groups as messages
from lanceloader.transport.groups import groups_of, prefetch_first


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still unless a test moves it."""
    now = [0]
    monkeypatch.setattr(messages, "clock", lambda: now[0])
    return now


def sizes(slots):
    return [len(group) for group in groups_of(iter(slots))]


def test_groups_grow_and_hold_every_batch_in_order(clock):
    slots = [(number, 10) for number in range(100)]
    groups = list(groups_of(iter(slots)))
    assert [len(group) for group in groups] == [1, 2, 4, 8, 16, 16, 16, 16, 16, 5]
    assert [*chain.from_iterable(groups)] == list(range(100))
    assert sizes([]) == []


def test_groups_are_no_larger_than_so_many_bytes(clock):
    most = messages.MOST_BYTES
    assert sizes([(0, most)] * 4) == [1] * 4
    assert sizes([(0, most // 3)] * 9) == [1, 2, 3, 3]
    assert sizes([(0, most // 2 + 1)] * 3) == [1, 1, 1]


def test_batches_wait_for_one_slow_batch_at_most(clock):
    def slots():
        for number in range(30):
            if number in (10, 11, 12):
                clock[0] += 10 * messages.LONGEST_NS
            yield number, 10

    groups = list(groups_of(slots()))
    assert [*chain.from_iterable(groups)] == list(range(30))
    # The first slow one ends its group, and the others come alone.
    at = groups.index([7, 8, 9, 10])
    assert groups[at + 1 : at + 4] == [[11], [12], [*range(13, 21)]]


def test_batches_come_before_an_error():
    def slots():
        for number in range(6):
            yield number, 10
        raise KeyError("seventh")

    groups = groups_of(slots())
    assert next(groups) + next(groups) + next(groups) == list(range(6))
    with pytest.raises(KeyError, match="seventh"):
        next(groups)
    assert next(groups, None) is None


def test_the_first_item_is_made_before_it_is_asked_for():
    made = []

    def items():
        for number in range(3):
            made.append(number)
            yield number

    found = prefetch_first(items())
    assert made == [0]
    assert [*found] == made == [0, 1, 2]
    assert [*prefetch_first(iter(()))] == []


def test_an_error_of_the_first_item_is_raised_when_it_is_asked_for():
    def items():
        raise KeyError("first")
        yield

    found = prefetch_first(items())
    with pytest.raises(KeyError, match="first"):
        next(found)
    assert next(found, None) is None
