"""The libraries, the machine and the settings that a report names."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING

from lanceloader import _native

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["environment"]

_LIBRARIES = (
    *("pyarrow", "numpy", "torch", "lancedb", "pylance", "polars", "pandas"),
    "matplotlib",
)

_HIDDEN = ("LANCELOADER_STORAGE_OPTIONS",)
"""Settings that hold credentials."""


def environment() -> Iterator[tuple[str, str]]:
    """Yield what a report says about the process: names and texts."""
    yield "lanceloader", _native.__version__
    yield "Python", platform.python_version()
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    affinity = getattr(os, "sched_getaffinity", None)
    usable = os.cpu_count() if affinity is None else len(affinity(0))
    yield "cores", f"{usable:,} of {os.cpu_count():,}"
    for name in _LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, value in sorted(os.environ.items()):
        if name.startswith("LANCELOADER_"):
            yield name, "***" if name in _HIDDEN else value
