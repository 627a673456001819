"""A target, and what a run found of it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

AT_LEAST, AT_MOST = "≥", "≤"


@dataclass(frozen=True)
class Verdict:
    target: str
    what: str
    found: float | None
    """Nothing if it was not measured."""
    relation: str
    wanted: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        compare = operator.ge if self.relation == AT_LEAST else operator.le
        return self.found is not None and compare(self.found, self.wanted)

    @property
    def word(self) -> str:
        if self.found is None:
            return "not measured"
        return "met" if self.is_met else "**missed**"


def times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def total(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) if len(found) == len(values) else None
