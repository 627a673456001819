"""Weights and schedules of a mixture, converted to the integers of the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from lanceloader.numbers import count

__all__ = ["Stages", "WeightSchedule", "Weights", "check_all", "stages_of"]

Weights: TypeAlias = Mapping[Any, float] | Sequence[float] | str
"""A number for each source, as a dict by name or a sequence; ``"size"`` or ``"equal"``."""

WeightSchedule: TypeAlias = Sequence[tuple[int, Weights]]
"""Pairs of a row of the training and the weights from this row on."""

Stages: TypeAlias = list[tuple[int, list[int]]]

MOST = 2**60
"""The largest sum of weights that the core supports."""

SCALE = 2**40
"""The sum that weights are scaled to if their exact ratios exceed ``MOST``."""

DENOMINATOR = 10**6
"""Floats are replaced by the nearest fraction of a denominator up to this, if it is the same float."""


def stages_of(
    weights: Weights | None,
    schedule: WeightSchedule | None,
    names: Sequence[Any],
    sizes: Sequence[int],
) -> Stages:
    """Return pairs of a row of the training and the weights from this row on, as integers.

    Raises:
        ValueError: If weights do not fit the sources, or rows do not increase from 0 on.
        TypeError: If weights are neither numbers nor ``"size"`` or ``"equal"``.
    """
    if schedule is None:
        return [(0, integer_weights(weights, names, sizes))]
    if weights is not None:
        raise ValueError(
            "`weights` and `schedule` are mutually exclusive: pass one of them"
        )
    stages = [
        (count(row, "schedule"), integer_weights(changed, names, sizes))
        for row, changed in schedule
    ]
    rows = [row for row, _ in stages]
    if not rows or rows[0] != 0 or rows != sorted(set(rows)):
        message = f"the rows of `schedule` must increase from 0 on, got {rows}"
        raise ValueError(message)
    return stages


def check_all(stages: Stages, names: Sequence[Any]) -> None:
    """Check that the last weight of each source is above 0, so that an epoch of ``stop="all"`` ends.

    Raises:
        ValueError: If a weight is 0; the message names the source.
    """
    row, weights = stages[-1]
    for name, weight in zip(names, weights, strict=True):
        if weight == 0:
            message = (
                f'source {name!r} has weight 0 from row {row} on, so an epoch of stop="all" would '
                "never end: pass a weight above 0, or another `stop`"
            )
            raise ValueError(message)


def integer_weights(
    weights: Weights | None, names: Sequence[Any], sizes: Sequence[int]
) -> list[int]:
    """Return the weight of each source, as integers of the same ratios."""
    if weights is None or (isinstance(weights, str) and weights == "size"):
        numbers: Sequence[Any] = sizes
    elif isinstance(weights, str) and weights == "equal":
        numbers = [1] * len(names)
    elif isinstance(weights, str) or not isinstance(weights, Mapping | Sequence):
        message = f'`weights` must be a number for each source, "size" or "equal", got {weights!r}'
        raise TypeError(message)
    elif isinstance(weights, Mapping):
        numbers = by_name(weights, names)
    else:
        numbers = weights
    if len(numbers) != len(names):
        message = f"`weights` has {len(numbers)} numbers for {len(names)} sources: pass one for each"
        raise ValueError(message)
    fractions = [
        fraction_of(number, name) for number, name in zip(numbers, names, strict=True)
    ]
    if not any(fractions):
        raise ValueError("`weights` are all 0: pass at least one above 0")
    return integers_of(fractions)


def by_name(weights: Mapping[Any, float], names: Sequence[Any]) -> list[float]:
    """Return the weights in the order of the sources.

    Raises:
        ValueError: If a name is unknown or missing.
    """
    unknown = [name for name in weights if name not in names]
    missing = [name for name in names if name not in weights]
    if unknown or missing:
        problem = (
            f"has a weight for {unknown[0]!r}, which is not a source"
            if unknown
            else f"has no weight for {missing[0]!r}"
        )
        known = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
        message = f"`weights` {problem}: pass one for each source, which are {known}"
        raise ValueError(message)
    return [weights[name] for name in names]


def fraction_of(number: Any, name: Any) -> Fraction:
    """Return a weight as an exact fraction, such as 1/10 for 0.1.

    Raises:
        TypeError: If the weight is not a number.
        ValueError: If the weight is negative or not finite.
    """
    if isinstance(number, int):
        exact = Fraction(number)
    else:
        try:
            # float() also accepts strings.
            if isinstance(number, str | bytes | bytearray):
                raise TypeError
            value = float(number)
        except (TypeError, ValueError):
            message = f"`weights` must be numbers, got {number!r} for source {name!r}"
            raise TypeError(message) from None
        if not math.isfinite(value):
            message = f"the weight of source {name!r} must be finite, got {number!r}"
            raise ValueError(message)
        near = Fraction(value).limit_denominator(DENOMINATOR)
        exact = near if float(near) == value else Fraction(value)
    if exact < 0:
        message = f"the weight of source {name!r} must not be negative, got {number!r}"
        raise ValueError(message)
    return exact


def integers_of(fractions: Sequence[Fraction]) -> list[int]:
    """Return integers of the same ratios, to within 2**-40 of their sum."""
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*numbers)
    numbers = [number // divisor for number in numbers]
    total = sum(numbers)
    if total <= MOST:
        return numbers
    return [max(1, round(Fraction(n * SCALE, total))) if n else 0 for n in numbers]
