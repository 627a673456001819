"""Mixtures of the rows of several permutations in exact proportions.

The core computes the source and the row at any position of a mixture in closed form.
"""

from lanceloader.mixing.mixture import Mixture, mix

__all__ = ["Mixture", "mix"]
