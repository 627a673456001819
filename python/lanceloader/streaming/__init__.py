"""``StreamingDataset`` and ``StreamingDataLoader``: drop-ins for ``lancedb.streaming``.

A table is cut into a fixed number of splits. Each rank, and each worker of torch's
``DataLoader``, streams some of the splits, one row of each in turn. For the same splits, seed
and epoch, a global step has the same rows for any number of ranks and workers, and a state
dict resumes on any of them. Orders and state dicts are LanceDB's: a state of one library
resumes in the other.

Programs that replace a global of ``lancedb.streaming`` may replace it here; see
``lanceloader.streaming.replaceable``.
"""

# First: this import says which extra is missing where torch is not installed.
from lanceloader.streaming.replaceable import (  # isort: skip
    Permutation,
    RawArray,
    ThreadPoolExecutor,
    Transforms,
    _drop_base_version,
    _table_from_pickle_state,
    _table_to_pickle_state,
    get_worker_info,
    logger,
    os,
    permutation_builder,
    random,
    threading,
    time,
    warnings,
)
from lanceloader.streaming.collating import (
    _CheckpointCollate,
    _WorkerBatch,
    _WorkerSample,
)
from lanceloader.streaming.dataset import StreamingDataset
from lanceloader.streaming.iterator_lock import _ConsumerIteratorLease
from lanceloader.streaming.loader import (
    StreamingDataLoader,
    _ConsumerCommitIterator,
    _StreamingDatasetAdapter,
)
from lanceloader.streaming.validation import (
    _EPOCH_PRIME,
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_READ_BATCH_SIZE,
)

__all__ = [
    "DEFAULT_PREFETCH_BATCHES",
    "DEFAULT_READ_BATCH_SIZE",
    "_EPOCH_PRIME",
    "Permutation",
    "RawArray",
    "StreamingDataLoader",
    "StreamingDataset",
    "ThreadPoolExecutor",
    "Transforms",
    "_CheckpointCollate",
    "_ConsumerCommitIterator",
    "_ConsumerIteratorLease",
    "_StreamingDatasetAdapter",
    "_WorkerBatch",
    "_WorkerSample",
    "_drop_base_version",
    "_table_from_pickle_state",
    "_table_to_pickle_state",
    "get_worker_info",
    "logger",
    "os",
    "permutation_builder",
    "random",
    "threading",
    "time",
    "warnings",
]
