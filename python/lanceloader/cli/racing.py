"""Timing ways of reading by turns."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lanceloader.cli.failures import line_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from lanceloader.cli.arms import Arm

__all__ = ["Result", "by_turns"]

_SHARE_OF_OPENING = 0.6
"""No arm is opened once this part of the limit is over."""
_UNTIMED = 0.25
"""The part of a turn that is not timed, in which batches made ahead are used up."""
_MOST_SECONDS_OF_PACKING = 2.0


@dataclass
class Result:
    """The measurements of one arm.

    Attributes:
        name: The name of the arm.
        first_batch_seconds: Seconds from opening to the first batch.
        turns: Rows per second of each turn.
    """

    name: str
    first_batch_seconds: float
    turns: list[float] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        """The median of the turns."""
        return statistics.median(self.turns)


def by_turns(
    arms: list[Arm], *, seconds: float, rounds: int, limit: float
) -> tuple[list[Result], dict[str, str]]:
    """Time every arm in every round.

    Args:
        arms: The arms to time. The first one must not fail.
        seconds: Total measured seconds.
        rounds: Turns of each arm.
        limit: About how many seconds everything may take; later arms and rounds are left out.

    Returns:
        The results, and for each arm left out the reason.
    """
    begin = time.perf_counter()
    turn = seconds / (rounds * len(arms))
    left_out: dict[str, str] = {}
    opened: list[tuple[Result, Generator[int]]] = []
    with contextlib.ExitStack() as stack:
        for arm in arms:
            so_far = time.perf_counter() - begin
            if opened and so_far > _SHARE_OF_OPENING * limit:
                left_out[arm.name] = (
                    f"{so_far:.1f} s had passed already; raise --limit to include it"
                )
                continue
            try:
                batches = stack.enter_context(contextlib.closing(arm.open(arm)))
                start = time.perf_counter()
                next(batches)
            except Exception as error:
                if arm is arms[0]:
                    raise
                left_out[arm.name] = line_of(error)
                continue
            opened.append((Result(arm.name, time.perf_counter() - start), batches))
            if arm is arms[0]:
                # Packing continues in the background, and would otherwise be timed.
                packing = time.perf_counter() + _MOST_SECONDS_OF_PACKING
                while arm.is_packing() and time.perf_counter() < packing:
                    next(batches)
        for number in range(rounds):
            if number and time.perf_counter() - begin > limit:
                break
            for at in range(len(opened)):
                result, batches = opened[(at + number) % len(opened)]
                run_for(batches, turn * _UNTIMED)
                rows, took = run_for(batches, turn * (1 - _UNTIMED))
                result.turns.append(rows / took)
    return [result for result, _ in opened], left_out


def run_for(batches: Generator[int], seconds: float) -> tuple[int, float]:
    """Take batches for some seconds, at least one; return their rows and the seconds."""
    rows = 0
    start = time.perf_counter()
    while True:
        rows += next(batches)
        took = time.perf_counter() - start
        if took >= seconds:
            return rows, took
