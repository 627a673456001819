"""The names of ``lanceloader.streaming`` that a program may replace.

Programs and tests written for LanceDB replace globals of ``lancedb.streaming``: the thread
pool, ``get_worker_info``, ``Permutation`` and others. ``lanceloader.streaming`` exports the
same names, defined here. The modules of the package use them through ``namespace``, which
looks each name up in the package at the time of use, so a replacement takes effect at once.
"""

from __future__ import annotations

import logging
import os as os
import random as random
import sys
import threading as threading
import time as time
import warnings as warnings
from concurrent.futures import ThreadPoolExecutor as ThreadPoolExecutor
from multiprocessing import RawArray as RawArray
from typing import Any

from lanceloader._extras import need

try:
    from torch.utils.data import get_worker_info as get_worker_info
except ModuleNotFoundError:
    need("torch", "lanceloader.streaming")
    raise

from lanceloader.permutation import Permutation as Permutation
from lanceloader.permutation import Transforms as Transforms
from lanceloader.permutation import _drop_base_version as _drop_base_version
from lanceloader.permutation import _table_from_pickle_state as _table_from_pickle_state
from lanceloader.permutation import _table_to_pickle_state as _table_to_pickle_state
from lanceloader.permutation import permutation_builder as permutation_builder

PACKAGE = "lanceloader.streaming"

logger = logging.getLogger(PACKAGE)


class _Namespace:
    """The globals of the package, looked up at the time of use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[PACKAGE], name)


namespace = _Namespace()


_submit = ThreadPoolExecutor.submit


def is_pool_replaced() -> bool:
    """Return whether a program has replaced the thread pool, or how it is called."""
    pool = namespace.ThreadPoolExecutor
    return pool is not ThreadPoolExecutor or pool.submit is not _submit


def is_replaced(*names: str) -> bool:
    """Return whether a program has replaced one of these names."""
    return any(getattr(namespace, name) is not globals()[name] for name in names)
