"""Groups of small batches, which share one message of a worker."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["MOST_BATCHES", "groups_of", "prefetch_first"]

MOST_BATCHES = 16
"""The maximum number of batches in a message."""
MOST_BYTES = 4 << 20
"""The maximum number of bytes in a message of several batches."""
LONGEST_NS = 500_000
"""A batch that takes longer than this is slow, and ends its group."""

clock = time.perf_counter_ns


def groups_of(
    sized_batches: Iterator[tuple[Any, int]], most: int = MOST_BATCHES
) -> Generator[list[Any]]:
    """Group small batches that are ready, as a message costs the same for any number of batches.

    Groups grow from one batch. A batch never waits for more than one slow batch.

    Args:
        sized_batches: Batches, each with its number of bytes.
        most: The maximum number of batches in a group.
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
                batch, num_bytes = next(sized_batches)
            except StopIteration:
                has_ended = True
                break
            except Exception as raised:
                # The batches before the error must be yielded first.
                error, has_ended = raised, True
                break
            is_slow = clock() - start > LONGEST_NS
            group.append(batch)
            del batch
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
            # Keep no reference: the consumer may drop the group before the next one is made.
            made = [group]
            del group
            yield made.pop()
    if error is not None:
        try:
            raise error
        finally:
            # Its traceback refers to this frame.
            del error


def prefetch_first(items: Iterator[Any]) -> Iterator[Any]:
    """Fetch the first item now, and return an iterator over all items.

    An exception of the first item is raised by the first ``next``.
    """
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
