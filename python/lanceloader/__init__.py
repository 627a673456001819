"""lanceloader: train from Lance and LanceDB tables as if they were already shuffled in memory.

Importing this imports no array library; each is loaded by the first thing that needs it.
"""

from lanceloader import errors
from lanceloader.builder import PermutationBuilder, permutation_builder
from lanceloader.permutation import (
    Permutation,
    Permutations,
    Transforms,
    open,  # noqa: A004
)
from lanceloader.splits import Fold, Splits

__all__ = [
    "Fold",
    "Permutation",
    "PermutationBuilder",
    "Permutations",
    "Splits",
    "Transforms",
    "errors",
    "open",
    "permutation_builder",
]
