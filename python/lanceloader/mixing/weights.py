"""What a user gives as weights, as whole numbers for the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from lanceloader.numbers import count

__all__ = ["Schedule", "Stages", "Weights", "check_all", "stages_of"]

Weights: TypeAlias = Mapping[Any, float] | Sequence[float] | str
"""A number for each source by name or by place, ``"size"`` or ``"equal"``."""

Schedule: TypeAlias = Sequence[tuple[int, Weights]]
"""Weights, and the row of the training from which on they hold."""

Stages: TypeAlias = list[tuple[int, list[int]]]

MOST = 2**60
"""What the core takes as a sum of weights."""

SCALE = 2**40
"""What weights are scaled to if their exact ratios need larger numbers."""

DENOMINATOR = 10**6
"""A number this close to a fraction of such a denominator was meant as one, as 0.1 is."""


def stages_of(
    weights: Weights | None,
    schedule: Schedule | None,
    names: Sequence[Any],
    sizes: Sequence[int],
) -> Stages:
    """Give weights by the row that they hold from.

    Raises:
        ValueError: If they do not fit the sources, or rows do not ascend from 0 on.
        TypeError: If they are neither numbers nor a word.
    """
    if schedule is None:
        return [(0, whole_weights(weights, names, sizes))]
    if weights is not None:
        raise ValueError("weights and schedule: wanted one of them")
    stages = [
        (count(row, "schedule"), whole_weights(given, names, sizes))
        for row, given in schedule
    ]
    rows = [row for row, _ in stages]
    if not rows or rows[0] != 0 or rows != sorted(set(rows)):
        message = f"a schedule with weights from rows {rows} on: wanted rows that ascend from 0 on"
        raise ValueError(message)
    return stages


def check_all(stages: Stages, names: Sequence[Any]) -> None:
    """Refuse weights by which some source would not be served whole, once they are the last.

    Raises:
        ValueError: If there is one, naming it.
    """
    row, weights = stages[-1]
    for name, weight in zip(names, weights, strict=True):
        if weight == 0:
            message = (
                f"source {name!r} of weight 0 from row {row} on is never served whole: wanted a "
                'weight above 0 with stop="all"'
            )
            raise ValueError(message)


def whole_weights(
    weights: Weights | None, names: Sequence[Any], sizes: Sequence[int]
) -> list[int]:
    """Give the weight of each source, as whole numbers of the same ratios."""
    if weights is None or (isinstance(weights, str) and weights == "size"):
        numbers: Sequence[Any] = sizes
    elif isinstance(weights, str) and weights == "equal":
        numbers = [1] * len(names)
    elif isinstance(weights, str) or not isinstance(weights, Mapping | Sequence):
        message = (
            f'weights={weights!r}: wanted a number for each source, "size" or "equal"'
        )
        raise TypeError(message)
    elif isinstance(weights, Mapping):
        numbers = by_name(weights, names)
    else:
        numbers = weights
    if len(numbers) != len(names):
        message = (
            f"{len(numbers)} weights for {len(names)} sources: wanted one for each"
        )
        raise ValueError(message)
    fractions = [
        fraction_of(number, name) for number, name in zip(numbers, names, strict=True)
    ]
    if not any(fractions):
        raise ValueError("weights that are all 0: wanted one above 0")
    return whole(fractions)


def by_name(weights: Mapping[Any, float], names: Sequence[Any]) -> list[float]:
    """Give the weights in the order of the sources."""
    unknown = [name for name in weights if name not in names]
    missing = [name for name in names if name not in weights]
    if unknown or missing:
        what = "for" if unknown else "missing for"
        listed = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
        message = (
            f"a weight {what} {(unknown or missing)[0]!r}: wanted one for each source, "
            f"which are {listed}"
        )
        raise ValueError(message)
    return [weights[name] for name in names]


def fraction_of(number: Any, name: Any) -> Fraction:
    """Give a weight as the fraction that was meant."""
    if isinstance(number, int):
        exact = Fraction(number)
    else:
        try:
            # float() reads text too.
            if isinstance(number, str | bytes | bytearray):
                raise TypeError
            value = float(number)
        except (TypeError, ValueError):
            message = f"`weights` must be numbers, got {number!r} for source {name!r}"
            raise TypeError(message) from None
        if not math.isfinite(value):
            message = f"weight {number!r} of source {name!r}: wanted a finite number"
            raise ValueError(message)
        near = Fraction(value).limit_denominator(DENOMINATOR)
        exact = near if float(near) == value else Fraction(value)
    if exact < 0:
        message = f"weight {number!r} of source {name!r}: wanted 0 or more"
        raise ValueError(message)
    return exact


def whole(fractions: Sequence[Fraction]) -> list[int]:
    """Give whole numbers of the same ratios, to within 2**-40 of their sum."""
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*numbers)
    numbers = [number // divisor for number in numbers]
    total = sum(numbers)
    if total <= MOST:
        return numbers
    return [max(1, round(Fraction(n * SCALE, total))) if n else 0 for n in numbers]
