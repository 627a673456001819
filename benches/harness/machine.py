"""Where the figures were taken: machine and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "lancedb",
    "pylance",
    "pyarrow",
    "numpy",
    "datasets",
    "litdata",
    "grain",
    "webdataset",
    "lanceloader",
)


def machine() -> dict[str, Any]:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": pages * page_bytes,
        "kernel": f"{platform.system()} {platform.release()}",
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return models[0].strip() if models else platform.processor()


def versions() -> dict[str, str]:
    found = {
        name: importlib.metadata.version(name) for name in PACKAGES if is_there(name)
    }
    return {"python": platform.python_version()} | found


def is_there(name: str) -> bool:
    """Peers may be missing: their contenders are then told among what could not run."""
    return bool(list(importlib.metadata.distributions(name=name)))
