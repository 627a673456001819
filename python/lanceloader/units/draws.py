"""``Draw``: the positions that a sampler yields for one epoch, and what makes it yield them again."""

from __future__ import annotations

import hashlib
import operator
import reprlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from lanceloader.units.randomness import (
    read_globals,
    used_globals,
    with_globals,
)
from lanceloader.units.sampler_states import (
    generator_states,
    is_stateful,
    kept_states,
    merged,
    own_states,
    restore,
    states_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = ["Draw", "check_sampler", "draw", "finished", "length_of", "num_replicas_of"]

MOST_PARTS = 8
"""The most samplers that wrap each other."""

CHUNK = 1 << 16
"""The number of items to check at a time."""

MOST_BEYOND_LENGTH = 1 << 24
"""The most positions of a sampler that says no length, or a smaller one: it may be endless."""


@dataclass(frozen=True)
class Draw:
    """The positions of one epoch.

    Attributes:
        positions: Positions in the permutation, as int64.
        ends: The end of each batch, for a sampler of batches.
        record: What makes the sampler yield the same again, as plain values.
    """

    positions: np.ndarray[Any, Any]
    ends: np.ndarray[Any, Any] | None
    record: dict[str, Any]


def parts_of(sampler: Any) -> list[Any]:
    """Return a sampler and those that it wraps, from the outside in."""
    parts = [sampler]
    while len(parts) < MOST_PARTS:
        inner = getattr(parts[-1], "sampler", None)
        if inner is None:
            inner = getattr(parts[-1], "batch_sampler", None)
        if inner is None or any(inner is part for part in parts):
            break
        parts.append(inner)
    return parts


def num_replicas_of(sampler: Any) -> int:
    """Return the number of ranks among which a sampler divides rows, or 1."""
    numbers = [getattr(part, "num_replicas", None) for part in parts_of(sampler)]
    return max([1, *(number for number in numbers if isinstance(number, int))])


def length_of(sampler: Any) -> int | None:
    """Return the length of a sampler, or ``None`` if it has none."""
    try:
        return len(sampler)
    except (TypeError, NotImplementedError):
        return None


def check_sampler(sampler: Any, name: str) -> None:
    """Check that a sampler can be read once for each epoch.

    Raises:
        TypeError: If it is not iterable, or an iterator.
    """
    if isinstance(sampler, str) or not (
        hasattr(sampler, "__iter__") or hasattr(sampler, "__getitem__")
    ):
        message = (
            f"`{name}` must be a sampler or another iterable, not {reprlib.repr(sampler)} of "
            f"type {type(sampler).__name__}"
        )
        raise TypeError(message)
    if hasattr(sampler, "__next__"):
        message = (
            f"`{name}` must be readable once for each epoch, but a {type(sampler).__name__} can "
            "be read only once: pass a list of it, or an object whose `__iter__` begins anew"
        )
        raise TypeError(message)


def draw(
    sampler: Any,
    name: str,
    num_rows: int,
    epoch: int | None,
    record: dict[str, Any] | None,
) -> Draw:
    """Read a sampler for one epoch.

    Args:
        sampler: The sampler. ``set_epoch`` is called on it if the epoch has a number.
        name: ``"sampler"``, or ``"batch_sampler"`` for one that yields lists of positions.
        num_rows: The number of rows that positions refer to.
        epoch: The epoch.
        record: The record of an earlier draw, which is repeated; or only the states of the
            sampler before its next one.

    Raises:
        IndexError: If a position is out of range.
        TypeError: If an item is not a position, or not a list of them.
        ValueError: If the sampler yields other rows than those of the record, a batch is empty,
            or the sampler does not end.
    """
    parts = parts_of(sampler)
    record = record or {}
    check_replicas(sampler, record)
    if epoch is not None:
        for part in parts:
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(epoch)
    restore(parts, record)
    if record.get("is_finished") and any(map(is_stateful, parts)):
        deque(sampler, maxlen=0)
    generators = states_of(parts, generator_states)
    with with_globals(record.get("random")):
        before = read_globals()
        items = iter(sampler)
        is_repeated = "first" in record
        head = [record["first"]] if is_repeated else list(islice(items, 1))
        # A state of a sampler is a place in a pass, so it is taken in this one.
        states = kept_states(record) if is_repeated else states_of(parts, own_states)
        items = chain(head, items)
        length = length_of(sampler)
        positions, ends = positions_of(items, length, name, num_rows)
        random = used_globals(before)
    found = {
        "rows": len(positions),
        "fingerprint": fingerprint_of(positions, ends),
        "rank": next(
            (int(part.rank) for part in parts if hasattr(part, "num_replicas")), 0
        ),
        "num_replicas": num_replicas_of(sampler),
    }
    check_same(found, record, name)
    whole = {**found, "states": merged(generators, states), "random": random}
    if states is not None and head:
        (first,) = head
        whole["first"] = int(first) if ends is None else [int(item) for item in first]
    return Draw(
        positions,
        ends,
        {key: value for key, value in whole.items() if value is not None},
    )


def check_replicas(sampler: Any, record: dict[str, Any]) -> None:
    """Check that a sampler divides rows among as many ranks as when a state was taken.

    Raises:
        ValueError: If it does not.
    """
    there, here = record.get("num_replicas"), num_replicas_of(sampler)
    if there is not None and there != here:
        message = (
            f"the state is of a sampler for {there} ranks, but this one is for {here}: a sampler "
            "that divides rows by itself must have the same number; loader(rank=, world_size=) "
            "without a sampler may have another one"
        )
        raise ValueError(message)


def check_same(found: dict[str, Any], record: dict[str, Any], name: str) -> None:
    """Check that a draw is the one of a record. Other ranks have other rows.

    Raises:
        ValueError: If it is not.
    """
    if "fingerprint" not in record or record.get("rank") != found["rank"]:
        return
    if record["fingerprint"] != found["fingerprint"]:
        message = (
            f"`{name}` yields other rows than when the state was taken ({record['rows']:,} there, "
            f"{found['rows']:,} here): make it with the same arguments and the same seed, or give "
            "it `state_dict` and `load_state_dict`"
        )
        raise ValueError(message)


def fingerprint_of(positions: Any, ends: Any) -> str:
    """Return a hash of the rows of a draw, and of its batches."""
    found = hashlib.blake2b(positions.tobytes(), digest_size=8)
    if ends is not None:
        found.update(ends.tobytes())
    return found.hexdigest()


def finished(sampler: Any) -> dict[str, Any] | None:
    """Return the record with which a sampler whose pass has ended yields the next one."""
    parts = parts_of(sampler)
    generators = states_of(parts, generator_states)
    states = merged(generators, states_of(parts, own_states))
    return None if states is None else {"states": states, "is_finished": True}


def positions_of(
    items: Iterator[Any], length: int | None, name: str, num_rows: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Return the positions that a sampler yields, and the ends of its batches if it yields batches."""
    import numpy as np

    most = max(length or 0, MOST_BEYOND_LENGTH)
    if name == "sampler":
        parts = list(checked_chunks(items, name, num_rows, most))
        return np.concatenate([np.zeros(0, np.int64), *parts]), None
    parts, ends, end = [], [], 0
    for number, batch in enumerate(items):
        what = f"batch {number} of `{name}`"
        if not hasattr(batch, "__iter__") and not hasattr(batch, "__getitem__"):
            message = (
                f"`{name}` must yield lists of positions, but yielded {reprlib.repr(batch)}: pass "
                "it as `sampler` instead"
            )
            raise TypeError(message)
        found = list(checked_chunks(iter(batch), what, num_rows, most - end))
        if not found:
            message = f"{what} is empty: leave it out"
            raise ValueError(message)
        parts += found
        end += sum(map(len, found))
        ends.append(end)
    return np.concatenate([np.zeros(0, np.int64), *parts]), np.array(ends, np.int64)


def checked_chunks(
    items: Iterator[Any], what: str, num_rows: int, most: int
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield positions as arrays, and check them.

    Raises:
        IndexError: If one is out of range.
        TypeError: If an item is not a position.
        ValueError: If there are more than ``most``.
    """
    import numpy as np

    num_read = 0
    while chunk := list(islice(items, CHUNK)):
        if not set(map(type, chunk)) <= {int}:
            chunk = [
                position_of(item, what, num_read + at) for at, item in enumerate(chunk)
            ]
        found = None
        with suppress(OverflowError):
            found = np.array(chunk, np.int64)
        if found is None or found.min() < 0 or found.max() >= num_rows:
            at = next(at for at, item in enumerate(chunk) if not 0 <= item < num_rows)
            quoted = what if "`" in what else f"`{what}`"
            message = (
                f"{quoted} yielded {chunk[at]} as item {num_read + at}, but positions must be in "
                f"range({num_rows:,}), the rows of the permutation"
            )
            raise IndexError(message)
        num_read += len(chunk)
        if num_read > most:
            message = (
                f"`{what}` yielded more than {most:,} positions and did not end: a sampler is "
                "read for a whole epoch before its first batch. Pass one that ends, with "
                "epochs=None for an iteration that does not, or give it a `__len__`"
            )
            raise ValueError(message)
        yield found


def position_of(item: Any, what: str, at: int) -> int:
    """Return an item of a sampler as an integer.

    Raises:
        TypeError: If it is not an integer.
    """
    is_flag = isinstance(item, bool) or "bool" in str(getattr(item, "dtype", ""))
    with suppress(TypeError):
        if not is_flag:
            return operator.index(item)
    quoted = what if "`" in what else f"`{what}`"
    message = (
        f"{quoted} yielded {reprlib.repr(item)} of type {type(item).__name__} as item {at}, but "
        "must yield positions, which are integers"
    )
    if isinstance(item, list | tuple) and what == "sampler":
        message += ": pass a sampler of batches as `batch_sampler`"
    raise TypeError(message)
