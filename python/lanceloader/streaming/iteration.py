"""Iteration: from the splits of a reader to the rows that it yields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from lanceloader.formats.python import rows
from lanceloader.streaming.attributes import DatasetAttributes
from lanceloader.streaming.block_rounds import BlockRounds
from lanceloader.streaming.core_pipeline import CorePipeline
from lanceloader.streaming.iterator_lock import refuse_second_iterator
from lanceloader.streaming.ordered_rows import OrderedRows, is_ordinary
from lanceloader.streaming.packing import DocumentMapper
from lanceloader.streaming.prefetch import PrefetchPipeline
from lanceloader.streaming.replaceable import namespace
from lanceloader.streaming.round_robin import RowRounds
from lanceloader.streaming.row_stream import RowStream
from lanceloader.streaming.shard_rounds import ShardRounds
from lanceloader.streaming.transform_stage import RowMapper, TransformStage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from lanceloader.streaming.counters import Gauges
    from lanceloader.streaming.iterator_lock import _ConsumerIteratorLease
    from lanceloader.streaming.progress import (
        PackProgress,
        RowProgress,
        ShardProgress,
    )
    from lanceloader.streaming.round_robin import Pipeline, Rounds
    from lanceloader.streaming.sharding import StridedShard
    from lanceloader.streaming.transform_stage import Mapper


class DatasetIteration(DatasetAttributes):
    """Reads the splits of this reader."""

    @property
    def _consumer_iterator_active(self) -> bool:
        return self._iterator_lock.lease is not None

    @property
    def _consumer_iterator_owner(self) -> int | None:
        return self._iterator_lock.owner

    @property
    def _consumer_iterator_owner_thread(self) -> int | None:
        return self._iterator_lock.owner_thread

    def _acquire_consumer_iterator(self) -> int:
        return self._iterator_lock.acquire(is_reading=self._counters.is_live)

    def _release_consumer_iterator(self, owner_token: int) -> None:
        self._iterator_lock.release(owner_token)

    def _release_consumer_iterator_after_failed_acquire(
        self, previous_lease: _ConsumerIteratorLease | None
    ) -> None:
        self._iterator_lock.release_after_failed_acquire(previous_lease)

    def _worker(self) -> Any:
        """Return the torch worker that this is, or the override; ``None`` if there is neither."""
        found = namespace.get_worker_info()
        override = self._worker_info_override
        if override is None:
            return found
        if found is not None:
            namespace.logger.warning(
                "worker_info_override is used although this is a worker of torch's DataLoader: "
                "rows may be repeated or missing. Pass worker_info_override outside of workers "
                "only"
            )
        return override

    def _resolve_my_splits(self) -> list[int]:
        """Return the splits of this reader.

        Raises:
            ValueError: If the splits of the rank do not divide among the workers.
        """
        worker = self._worker()
        if worker is None:
            return self._rank_splits
        num_splits = len(self._rank_splits)
        if num_splits % worker.num_workers != 0:
            message = (
                f"Number of rank splits ({num_splits}) must be divisible by num_workers "
                f"({worker.num_workers}). Pass another num_workers, or `tail`"
            )
            raise ValueError(message)
        each = num_splits // worker.num_workers
        return self._rank_splits[worker.id * each : (worker.id + 1) * each]

    def _iter(
        self,
        *,
        consumer_checkpoint_transport: bool = False,
        batch_size: int | None = None,
    ) -> Generator[Any]:
        """Iterate under a lease.

        Args:
            consumer_checkpoint_transport: Whether a ``StreamingDataLoader`` holds the lease.
                Otherwise this iterator acquires one.
            batch_size: The number of rows of the lists to yield, in place of single rows.
        """
        if self._failure is not None:
            raise self._failure
        token = None
        before = self._iterator_lock.lease
        if not consumer_checkpoint_transport:
            try:
                token = self._acquire_consumer_iterator()
            except BaseException:
                self._release_consumer_iterator_after_failed_acquire(before)
                raise
        elif not self._consumer_iterator_active:
            raise RuntimeError(
                "rows for a StreamingDataLoader can be read only while its iterator holds the "
                "dataset. Iterate over the StreamingDataLoader, or over the dataset itself"
            )
        try:
            yield from self._iter_owned(
                batch_size, consumer_checkpoint_transport=consumer_checkpoint_transport
            )
        finally:
            if token is not None:
                self._release_consumer_iterator(token)

    def _iter_owned(
        self, batch_size: int | None, *, consumer_checkpoint_transport: bool
    ) -> Iterator[Any]:
        """Iterate; the caller holds the lease."""
        refuse_second_iterator(is_live=self._counters.is_live)
        worker = namespace.get_worker_info()
        if worker is not None and not consumer_checkpoint_transport:
            self._counters.is_untracked = True
        rounds = self._rounds(is_worker=worker is not None)
        streams = rounds.streams()
        if not streams:
            return
        override = self._worker_info_override
        self._counters.begin_run(worker if override is None else override)
        plan = rounds.row_order(streams) if self._is_ordered(streams) else None
        if plan is not None:
            is_watched = worker is not None or self._counters.is_foreign
            ordered = OrderedRows(
                plan, self._read_batch_size, self._counters, is_watched=is_watched
            )
            yield from self._counted(ordered.gauges, ordered.items(batch_size))
            return
        pipeline = self._pipeline(streams, rounds.samples)
        yield from self._counted(
            pipeline.gauges, items_of(rounds, pipeline, batch_size)
        )

    def _counted(
        self, gauges: Callable[..., Gauges], items: Iterator[Any]
    ) -> Iterator[Any]:
        """Yield rows or batches, whose progress the counters follow."""
        self._counters.follow(gauges)
        try:
            yield from items
        finally:
            self._counters.end_run(gauges(is_over=True))

    def _is_ordered(self, streams: list[RowStream]) -> bool:
        """Return whether the core may read the rows in the order in which they are yielded."""
        return (
            self._transform is None
            and self._error_policy.on_error == "raise"
            and namespace.Transforms.arrow2python is rows
            and self._is_read_by_core(streams)
        )

    def _is_read_by_core(self, streams: list[RowStream]) -> bool:
        """Return whether the core may read the rows.

        It reads all streams at one pace, so no rows may be left out of a stream.
        """
        return (
            self._pack_sequences is None
            and self._max_buffered_bytes is None
            and self._error_policy.keeps_rows
            and is_ordinary(streams[0].perm)
        )

    def _rounds(self, *, is_worker: bool) -> Rounds:
        """Return what this reader yields, in which order."""
        if self._tail is not None:
            self._worker()  # Warns about an override.
            found = namespace.get_worker_info()
            number, count = (0, 1) if found is None else (found.id, found.num_workers)
            shards = cast("ShardProgress", self._progress)
            shard = self._shard(number, count)
            shards.begin({number: shard})
            return ShardRounds(
                shards, shard, number, self._counters, lambda: self._permutation(0)
            )
        splits = self._resolve_my_splits()
        if self._pack_sequences is not None:
            return BlockRounds(
                cast("PackProgress", self._progress),
                splits,
                self._stream,
                self._counters,
                length=self._pack_sequences,
                pad_id=self._pad_id,
                blocks_per_split=self._blocks_per_epoch // self._num_splits,
            )
        return RowRounds(
            cast("RowProgress", self._progress),
            splits,
            self._stream,
            self._counters,
            is_worker=is_worker,
        )

    def _shard(self, worker: int, num_workers: int) -> StridedShard:
        """Return the rows left for a worker of this rank; only with ``tail``."""
        assert self._tail is not None
        override = self._worker_info_override
        if override is not None:
            worker, num_workers = override.id, override.num_workers
        progress = cast("ShardProgress", self._progress)
        return progress.shard(
            self._tail, self._rank, self._world_size, worker, num_workers
        )

    def _pipeline(self, streams: list[RowStream], samples: list[int]) -> Pipeline:
        """Return what reads and transforms the rows of the streams."""
        threads = self._transform_parallelism
        if threads is None:
            threads = namespace.os.cpu_count() or 1
        depth, size = self._transform_queue_depth, self._read_batch_size
        limits: dict[str, Any] = {
            "batch_size": size,
            "num_threads": threads,
            "max_ready_rows": None if depth is None else depth * size,
        }
        transform = self._transform
        if transform is None:
            transform = namespace.Transforms.arrow2python
        mapper: Mapper = RowMapper(transform)
        if self._pack_sequences is not None:
            mapper = DocumentMapper(self._eos_id)
        stage = TransformStage(
            mapper, self._error_policy, self._counters, self._shuffle_seed, self._epoch
        )
        common = stage, mapper.new_queue, self._counters
        has_rows = any(stream.num_rows for stream in streams)
        if has_rows and self._is_read_by_core(streams):
            needs_threads = self._transform_parallelism is not None
            return CorePipeline(
                streams, samples, *common, **limits, needs_threads=needs_threads
            )
        return PrefetchPipeline(
            streams,
            *common,
            **limits,
            io_queue_depth=self._io_queue_depth,
            max_bytes=self._max_buffered_bytes,
        )

    def _permutation(self, split: int) -> Any:
        """Return a split, read as Arrow batches."""
        perm_table, source, plan = self._opened
        # A program may have replaced the permutation table.
        is_ours = perm_table is self._perm_rows
        table = source if is_ours else self._table
        rows = plan if is_ours else self._perm_rows
        perm: Any = namespace.Permutation.from_tables(table, rows, split=split)
        if self._columns is not None:
            perm = perm.select_columns(self._columns)
        return perm.with_transform(namespace.Transforms.arrow2arrow)

    def _stream(self, split: int, position: int) -> RowStream:
        """Return the rows of a split from a position on."""
        import numpy as np

        perm = self._permutation(split)
        if position > 0:
            perm = perm.with_skip(position)
        return RowStream(perm, perm.num_rows, position, np.arange)


def items_of(
    rounds: Rounds, pipeline: Pipeline, batch_size: int | None
) -> Iterator[Any]:
    """Yield rows, or batches of some size, as long as the pipeline is open."""
    with pipeline:
        if batch_size is None:
            yield from rounds.items(pipeline)
        else:
            yield from rounds.batches(pipeline, batch_size)
