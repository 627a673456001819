"""The inverse of the normal distribution, with the same bits on every machine.

This is algorithm AS 241 (M. Wichura, 1988), as in ``statistics.NormalDist``. It only adds, multiplies,
divides and takes square roots, whose results IEEE 754 defines to the last bit. The same holds for its own
logarithm, but not for those of C libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Floats = np.ndarray[Any, Any]

__all__ = ["inverse_normal"]

CENTRE = (
    (
        *(2.50908092873012267e3, 3.34305755835881281e4, 6.72657709270087009e4),
        *(4.59219539315498715e4, 1.37316937655094611e4, 1.97159095030655144e3),
        *(1.33141667891784377e2, 3.387132872796366608e0),
    ),
    (
        *(5.22649527885285456e3, 2.87290857357219427e4, 3.93078958000927106e4),
        *(2.12137943015865959e4, 5.39419602142475111e3, 6.87187007492057908e2),
        *(4.23133307016009113e1, 1.0),
    ),
)
SHOULDER = (
    (
        *(7.74545014278341407e-4, 2.27238449892691846e-2, 2.41780725177450612e-1),
        *(1.27045825245236838e0, 3.64784832476320461e0, 5.7694972214606914e0),
        *(4.63033784615654530e0, 1.42343711074968358e0),
    ),
    (
        *(1.05075007164441684e-9, 5.47593808499534495e-4, 1.51986665636164572e-2),
        *(1.48103976427480075e-1, 6.89767334985100005e-1, 1.67638483018380385e0),
        *(2.05319162663775882e0, 1.0),
    ),
)
TAIL = (
    (
        *(2.01033439929228813e-7, 2.71155556874348758e-5, 1.24266094738807844e-3),
        *(2.65321895265761230e-2, 2.96560571828504891e-1, 1.7848265399172913e0),
        *(5.46378491116411437e0, 6.65790464350110378e0),
    ),
    (
        *(2.04426310338993979e-15, 1.42151175831644589e-7, 1.84631831751005468e-5),
        *(7.86869131145613259e-4, 1.48753612908506149e-2, 1.36929880922735805e-1),
        *(5.99832206555887938e-1, 1.0),
    ),
)
"""Coefficients of numerators and denominators."""


def inverse_normal(uniform: Floats) -> Floats:
    """Return the normal quantiles of probabilities strictly between 0 and 1."""
    offset = uniform - 0.5
    found = offset * fraction(CENTRE, 0.180625 - offset * offset)
    far = np.abs(offset) > 0.425
    if far.any():
        below = offset[far] < 0
        depth = np.sqrt(
            negative_logarithm(np.where(below, uniform[far], 1.0 - uniform[far]))
        )
        size = np.where(
            depth <= 5.0, fraction(SHOULDER, depth - 1.6), fraction(TAIL, depth - 5.0)
        )
        found[far] = np.where(below, -size, size)
    return found


def fraction(coefficients: tuple[Any, Any], at: Floats) -> Floats:
    """Return the quotient of two polynomials."""
    return polynomial(coefficients[0], at) / polynomial(coefficients[1], at)


def polynomial(coefficients: tuple[float, ...], at: Floats) -> Floats:
    """Return the value of a polynomial by Horner's rule."""
    found = np.full_like(at, coefficients[0])
    for coefficient in coefficients[1:]:
        found = found * at + coefficient
    return found


def negative_logarithm(number: Floats) -> Floats:
    """Return the negative of the logarithm of numbers below 1, as in ``docs/determinism.md``."""
    fractions, powers = np.frexp(number)
    is_low = fractions < 0.75
    fractions = np.where(is_low, fractions * 2.0, fractions)
    halvings: Floats = (is_low - powers).astype(np.float64)
    s = (fractions - 1.0) / (fractions + 1.0)
    total = np.zeros_like(s)
    for odd in range(25, 0, -2):
        total = total * (s * s) + 1.0 / odd
    return halvings * 0.6931471805599453 - 2.0 * s * total
