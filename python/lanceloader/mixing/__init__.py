"""Mixtures: rows of several permutations in exact proportions.

``mix`` makes one. Which row of which source stands where is arithmetic of the core, in closed form.
"""

from lanceloader.mixing.mixture import Mixture, mix

__all__ = ["Mixture", "mix"]
