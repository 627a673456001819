"""Ray: the rows of a permutation on many machines, in the same order.

Ray itself is imported by the first call.
"""

from lanceloader.ray.cleaning import clean
from lanceloader.ray.materializing import materialize
from lanceloader.ray.reading import read
from lanceloader.ray.warming import warm

__all__ = ["clean", "materialize", "read", "warm"]
