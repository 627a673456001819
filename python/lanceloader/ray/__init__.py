"""Ray: the rows of a permutation on many machines, in the same order.

Ray itself is imported by the first call.
"""

from lanceloader.ray.reading import read

__all__ = ["read"]
