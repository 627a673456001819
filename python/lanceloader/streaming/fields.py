"""What a dataset holds: the parts of ``StreamingDataset`` share these attributes.

Those that LanceDB's has, too, have its names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import deque

    from lanceloader._typing import Tail
    from lanceloader.compat_lancedb.plan_table import PlanTable
    from lanceloader.sources import Source
    from lanceloader.streaming.arguments import Filling
    from lanceloader.streaming.interleaving import Interleaving, Reader
    from lanceloader.streaming.lease import _ConsumerIteratorLease
    from lanceloader.streaming.packing import Buffer


class Fields:
    """The attributes of a dataset, by what they are of."""

    _failure: Exception | None = None
    """Why it could not be opened in the worker that it travelled to."""

    # The arguments, checked.
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
    _blocks_asked_for: Any
    _on_transform_error: Any
    _filling: Filling
    _transform_queue_depth: int | None
    _max_buffered_bytes: int | None
    _tail: Tail | None
    _strict: bool
    _connection_factory: Any
    _worker_info_override: Any

    # The rows of the epoch.
    _perm_table: Any
    _built_table: Any
    """The permutation table as it was built: another may have been put in its place."""
    _opened: tuple[Any, Source, PlanTable]
    """A permutation table, and what is read by it: a forked worker must not touch LanceDB's
    handles, which are dead there."""
    _pin: tuple[int | None, str | None]
    """Version and branch of the table."""
    _rank_splits: list[int]
    _interleaving: Interleaving | None
    _known_plan: dict[str, Any] | None

    # Progress: rows handed over of splits that this process has advanced; the others stand at
    # least at the offset. Positions are further on where rows were skipped.
    _resume_offset: int
    _resume_samples: dict[int, int]
    _resume_positions: dict[int, int]
    # Of packing: documents taken, blocks handed over, tokens in between.
    _pack_consumed: list[int]
    _pack_blocks_emitted: list[int]
    _packs: dict[int, Buffer]
    # With a tail: rows of the sequence that are done, but for the places that were missed; and
    # rows that the reader in each worker has taken since.
    _resume_done: int
    _missed: tuple[int, ...]
    _readers: dict[int, Reader]
    _worker_rows: dict[int, int]
    # Whether progress may be told.
    _checkpoint_invalid_reason: str | None
    _consumer_checkpoint_requires_uniform: bool
    _untracked_worker_iteration: Any

    # The live iterator.
    _consumer_iterator_lock: Any
    _consumer_iterator_generation: int
    _consumer_iterator_lease: _ConsumerIteratorLease | None
    _raw_batches_ref: list[deque[Any]] | None
    _cooked_ref: list[Any] | None
    _fetch_head_ref: list[int] | None
    _split_sizes_ref: list[int] | None
    _local_consumed_ref: list[int] | None

    # What was counted.
    _worker_stats: Any
    _stats_lock: Any
    _stats_slot: int
    _stats_home: int
    _bytes_loaded: int
    _fetch_time: float
    _transform_time: float
    _rows_skipped: int
    _rows_filled: int
