"""Sources: tables at one version, from which permutations read.

``open_source`` turns a LanceDB table, a ``lance`` dataset, a path or URI, or Arrow data into a
``Source``. A source is pinned to the version it was opened at and opens lazily in every process.
Its pickle holds no handles, and no rows unless they exist only in memory.
"""

from lanceloader.sources.base import RowReader, Source
from lanceloader.sources.computed import ComputedSource, computed
from lanceloader.sources.engine_source import EngineSource
from lanceloader.sources.native import LanceSource, MemorySource
from lanceloader.sources.opening import open_source, pinned_source
from lanceloader.sources.unopened import Unopened
from lanceloader.sources.windows import Windows, WindowSource

__all__ = [
    "ComputedSource",
    "EngineSource",
    "LanceSource",
    "MemorySource",
    "RowReader",
    "Source",
    "Unopened",
    "WindowSource",
    "Windows",
    "computed",
    "open_source",
    "pinned_source",
]
