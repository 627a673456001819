"""What a permutation reads from: a table at one version, in a form that pickles small.

``open_source`` turns what users hold (a LanceDB table, a ``lance`` dataset, a path or URI,
Arrow data) into a ``Source``. A source is pinned to the version it was opened at, opens
lazily in every process, and never carries handles or data in its pickle, except for data
that exists only in memory.
"""

from lanceloader.sources.base import Reader, Source
from lanceloader.sources.by_engine import EngineSource
from lanceloader.sources.native import LanceSource, MemorySource
from lanceloader.sources.opening import open_source, pinned_source
from lanceloader.sources.unopened import Unopened

__all__ = [
    "EngineSource",
    "LanceSource",
    "MemorySource",
    "Reader",
    "Source",
    "Unopened",
    "open_source",
    "pinned_source",
]
