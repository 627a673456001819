"""``StreamingDataset`` and ``StreamingDataLoader``: drop-ins for ``lancedb.streaming``.

A table is cut into a fixed number of splits; each rank and each worker of torch's
``DataLoader`` streams some of them, one row of each in turn. For the same splits, seed and
epoch, the rows of a global step are the same for any number of ranks and workers, and a run
goes on from a state dict in any of them. Orders and state dicts are LanceDB's: a state of one
library resumes in the other.

Programs that replace a global of ``lancedb.streaming`` may replace it here: the modules of
this package look ``get_worker_info``, ``ThreadPoolExecutor``, ``Permutation``, ``os``,
``threading`` and the other imports below up in this one, when they use them.
"""

import logging
import os as os
import random as random
import threading as threading
import time as time
import warnings as warnings
from concurrent.futures import ThreadPoolExecutor as ThreadPoolExecutor
from multiprocessing import RawArray as RawArray

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
from lanceloader.streaming.arguments import (
    _EPOCH_PRIME,
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_READ_BATCH_SIZE,
)
from lanceloader.streaming.dataset import StreamingDataset
from lanceloader.streaming.lease import _ConsumerIteratorLease
from lanceloader.streaming.loader import (
    StreamingDataLoader,
    _CheckpointCollate,
    _ConsumerCommitIterator,
    _StreamingDatasetAdapter,
    _WorkerBatch,
    _WorkerSample,
)

__all__ = [
    "DEFAULT_PREFETCH_BATCHES",
    "DEFAULT_READ_BATCH_SIZE",
    "_EPOCH_PRIME",
    "StreamingDataLoader",
    "StreamingDataset",
    "_CheckpointCollate",
    "_ConsumerCommitIterator",
    "_ConsumerIteratorLease",
    "_StreamingDatasetAdapter",
    "_WorkerBatch",
    "_WorkerSample",
]

logger = logging.getLogger(__name__)
