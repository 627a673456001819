"""The attributes of ``StreamingDataset`` that its base classes share.

Settings have the names that they have in LanceDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lanceloader._typing import Tail
    from lanceloader.compat_lancedb.plan_table import PlanTable
    from lanceloader.sources import Source
    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.iterator_lock import IteratorLock
    from lanceloader.streaming.progress import Progress
    from lanceloader.streaming.validation import RowErrorPolicy


class DatasetAttributes:
    """Declares the attributes that the base classes of ``StreamingDataset`` share."""

    _failure: Exception | None = None
    """Why the dataset could not be opened in the worker to which it was sent."""

    # Settings: the validated arguments.
    _table: Any
    _num_splits: int
    _shuffle: bool
    _shuffle_seed: int
    _epoch: int
    _rank: int
    _world_size: int
    _read_batch_size: int
    _io_queue_depth: int
    _columns: list[str] | None
    _shuffle_clump_size: int | None
    _filter: str | None
    _transform: Any
    _transform_parallelism: int | None
    _pack_sequences: int | None
    _eos_id: Any
    _pad_id: Any
    _blocks_per_epoch: Any
    _requested_blocks: Any
    """The argument ``blocks_per_epoch``, which may be "auto"."""
    _error_policy: RowErrorPolicy
    _transform_queue_depth: int | None
    _max_buffered_bytes: int | None
    _tail: Tail | None
    _strict: bool
    _connection_factory: Any
    _worker_info_override: Any

    # The rows of the epoch.
    _perm_table: Any
    """The permutation table. A program may replace it."""
    _perm_rows: Any
    """The permutation table, or the rows of one that nobody has asked for."""
    _built_table: Any
    """The permutation table as it was built; ``None`` if it was not built from the settings."""
    _opened: tuple[Any, Source, PlanTable]
    """A permutation table, and what reads it. A forked worker must not use LanceDB's handles."""
    _pin: tuple[int | None, str | None]
    """Version and branch of the table."""
    _rank_splits: list[int]
    _known_order: dict[str, Any] | None
    """The result of ``_order_fingerprint``."""

    # The state of the run.
    _progress: Progress
    _counters: Counters
    _iterator_lock: IteratorLock
    _checkpoint_invalid_reason: str | None
    _consumer_checkpoint_requires_uniform: bool
    """Whether the progress of several workers was taken over, so that states need a whole step."""
