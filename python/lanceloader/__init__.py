"""lanceloader: train from Lance and LanceDB tables as if they were already shuffled in memory.

Importing this package imports no array library; each one is imported on first use.
"""

from typing import TYPE_CHECKING, Any

from lanceloader import _moved, cache, errors
from lanceloader._native import __version__
from lanceloader._permutation import (
    Permutation,
    Permutations,
    open,  # noqa: A004
)
from lanceloader._table_info import ColumnInfo, IndexInfo, TableInfo, table_info
from lanceloader.blob_files import BlobFile
from lanceloader.compat_lancedb.builder import PermutationBuilder, permutation_builder
from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.formats.ragged import Ragged
from lanceloader.images import ImageOptions, image
from lanceloader.loader.groups import ErrorOptions, RankOptions
from lanceloader.loader.loader import Loader
from lanceloader.mixing import Mixture, mix
from lanceloader.monitor.stats import Stats
from lanceloader.options import ReadOptions
from lanceloader.splits import Fold, Splits
from lanceloader.verbs.warming import WarmReport

_moved.register()

if TYPE_CHECKING:
    from lanceloader import plots as plots
    from lanceloader.drawing.rng import BatchGenerator as BatchGenerator


def install() -> None:
    """Make LanceDB's own tables work as fast datasets of torch's ``DataLoader``.

    The same as ``lanceloader.torch.install``, which says what is patched.

    Raises:
        ImportError: If torch is not installed.
    """
    from lanceloader import torch

    torch.install()


def __getattr__(name: str) -> Any:
    # Imported on first use: they need matplotlib and NumPy, which not all programs do.
    if name == "plots":
        import importlib

        return importlib.import_module("lanceloader.plots")
    if name == "BatchGenerator":
        from lanceloader.drawing.rng import BatchGenerator

        return BatchGenerator
    message = f"module 'lanceloader' has no attribute {name!r}"
    raise AttributeError(message)


__all__ = [
    "BatchGenerator",
    "BlobFile",
    "ColumnInfo",
    "ErrorOptions",
    "Fold",
    "ImageOptions",
    "IndexInfo",
    "Loader",
    "Mixture",
    "Permutation",
    "PermutationBuilder",
    "Permutations",
    "Ragged",
    "RankOptions",
    "ReadOptions",
    "Splits",
    "Stats",
    "TableInfo",
    "Transforms",
    "WarmReport",
    "__version__",
    "cache",
    "errors",
    "image",
    "install",
    "mix",
    "open",
    "permutation_builder",
    "plots",
    "table_info",
]
