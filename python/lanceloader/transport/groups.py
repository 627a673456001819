"""Groups of small batches, which share one message of a worker."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["MOST_BATCHES", "begun", "groups_of"]

MOST_BATCHES = 16
"""The most batches in a message."""
MOST_BYTES = 4 << 20
"""The most bytes in a message of several batches."""
LONGEST_NS = 500_000
"""The time that the next batch may take for a batch to wait for it."""

clock = time.perf_counter_ns


def groups_of(
    slots: Iterator[tuple[Any, int]], most: int = MOST_BATCHES
) -> Generator[list[Any]]:
    """Yield small batches that are ready in groups, as a message costs the same for any number of them.

    Groups grow from one batch. A batch never waits for more than one that is slow to come.

    Args:
        slots: Batches, each with its bytes.
        most: The most batches of a group.
    """
    limit = 1
    error: Exception | None = None
    has_ended = False
    while not has_ended:
        group: list[Any] = []
        total = 0
        while len(group) < limit:
            start = clock()
            try:
                slot, num_bytes = next(slots)
            except StopIteration:
                has_ended = True
                break
            except Exception as raised:
                # What was made before is yielded first.
                error, has_ended = raised, True
                break
            is_slow = clock() - start > LONGEST_NS
            group.append(slot)
            del slot
            total += num_bytes
            if is_slow:
                # The following ones may be ready by now.
                break
            if total + num_bytes > MOST_BYTES:
                limit = len(group)
                break
        else:
            limit = min(most, 2 * limit)
        if group:
            # Who takes them may drop them before the next ones are made.
            made = [group]
            del group
            yield made.pop()
    if error is not None:
        try:
            raise error
        finally:
            # Its traceback refers to this frame.
            del error


def begun(items: Iterator[Any]) -> Iterator[Any]:
    """Return an iterator over items whose first one is made now, before it is asked for."""
    found: list[Any] = []
    error: Exception | None = None
    try:
        found.extend(itertools.islice(items, 1))
    except Exception as raised:
        error = raised

    def rest(error: Exception | None) -> Iterator[Any]:
        if error is not None:
            try:
                raise error
            finally:
                del error
        while found:
            yield found.pop()
        yield from items

    return rest(error)
