"""An iteration: from the splits of this reader to the threads that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader import streaming
from lanceloader.streaming.counting import Counting
from lanceloader.streaming.lease import OneIterator
from lanceloader.streaming.packing import Documents
from lanceloader.streaming.pipeline import Limits, Pipeline, Stream
from lanceloader.streaming.state import Checkpoints
from lanceloader.streaming.transforming import Rows, Transforming
from lanceloader.streaming.turns import Blocks, Rounds, Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.streaming.transforming import Kind


class Reading(Counting, Checkpoints, OneIterator):
    """Reads what a reader has of the splits."""

    def _worker(self) -> Any:
        """Say which worker this is, as torch does or as it was told; ``None`` if none."""
        found = streaming.get_worker_info()
        told = self._worker_info_override
        if told is None:
            return found
        if found is not None:
            streaming.logger.warning(
                "worker_info_override is set, but this is a worker of torch's DataLoader too: "
                "the override is taken, and rows may come several times or never"
            )
        return told

    def _resolve_my_splits(self) -> list[int]:
        """Give the splits of this reader.

        Raises:
            ValueError: If they do not divide among the workers.
        """
        worker = self._worker()
        if worker is None:
            return self._rank_splits
        num_splits = len(self._rank_splits)
        if num_splits % worker.num_workers != 0:
            message = (
                f"Number of rank splits ({num_splits}) must be divisible by num_workers "
                f"({worker.num_workers})"
            )
            raise ValueError(message)
        each = num_splits // worker.num_workers
        return self._rank_splits[worker.id * each : (worker.id + 1) * each]

    def _iter(self, *, consumer_checkpoint_transport: bool = False) -> Iterator[Any]:
        """Iterate, under a lease of its own, or that of the loader that this is a part of."""
        if self._failure is not None:
            raise self._failure
        token = None
        before = self._consumer_iterator_lease
        if not consumer_checkpoint_transport:
            try:
                token = self._acquire_consumer_iterator()
            except BaseException:
                self._release_consumer_iterator_after_failed_acquire(before)
                raise
        elif not self._consumer_iterator_active:
            raise RuntimeError(
                "rows for a StreamingDataLoader: wanted the dataset reserved by its iterator"
            )
        try:
            yield from self._iter_owned(
                consumer_checkpoint_transport=consumer_checkpoint_transport
            )
        finally:
            if token is not None:
                self._release_consumer_iterator(token)

    def _iter_owned(self, *, consumer_checkpoint_transport: bool) -> Iterator[Any]:
        """Iterate, where nobody else does."""
        self._refuse_second_iterator(is_live=self._raw_batches_ref is not None)
        worker = streaming.get_worker_info()
        if worker is not None and not consumer_checkpoint_transport:
            self._untracked_worker_iteration[0] = 1
        turns = self._turns(is_worker=worker is not None)
        streams = turns.streams()
        if not streams:
            return
        told = self._worker_info_override
        self._begin_run(worker if told is None else told)
        with self._pipeline(streams) as pipeline:
            self._raw_batches_ref = pipeline.raw
            self._cooked_ref = pipeline.ready
            self._fetch_head_ref = pipeline.heads
            self._split_sizes_ref = pipeline.sizes
            self._local_consumed_ref = pipeline.consumed
            try:
                for i in range(len(streams)):
                    pipeline.fill(i)
                yield from turns.of(pipeline)
            finally:
                self._end_run(pipeline.gauges(is_over=True))

    def _turns(self, *, is_worker: bool) -> Rounds | Blocks | Sequence:
        """Say what is handed over, and in which turns."""
        if self._interleaving is not None:
            self._worker()  # which warns of an override
            found = streaming.get_worker_info()
            number, count = (0, 1) if found is None else (found.id, found.num_workers)
            reader = self._reader(number, count)
            self._begin_sequence({number: reader})
            return Sequence(self, reader, number)
        splits = self._resolve_my_splits()
        if self._pack_sequences is not None:
            return Blocks(self, splits)
        return Rounds(self, splits, is_worker=is_worker)

    def _pipeline(self, streams: list[Stream]) -> Pipeline:
        threads = self._transform_parallelism
        if threads is None:
            threads = streaming.os.cpu_count() or 1
        depth = self._transform_queue_depth
        limits = Limits(
            batch_size=self._read_batch_size,
            io_queue_depth=self._io_queue_depth,
            transform_threads=threads,
            max_ready_rows=None if depth is None else depth * self._read_batch_size,
            max_bytes=self._max_buffered_bytes,
        )
        transform = self._transform
        if transform is None:
            transform = streaming.Transforms.arrow2python
        kind: Kind = Rows(transform)
        if self._pack_sequences is not None:
            kind = Documents(self._eos_id)
        transforming = Transforming(kind, self._on_transform_error, self._filling, self)
        return Pipeline(streams, limits, transforming, kind.queue, self)

    def _permutation(self, split: int) -> Any:
        """Give a split, read as Arrow batches."""
        perm_table, source, plan = self._opened
        # Somebody may have put another permutation table in its place.
        is_ours = perm_table is self._perm_table
        table = source if is_ours else self._table
        rows = plan if is_ours else self._perm_table
        perm: Any = streaming.Permutation.from_tables(table, rows, split=split)
        if self._columns is not None:
            perm = perm.select_columns(self._columns)
        return perm.with_transform(streaming.Transforms.arrow2arrow)

    def _stream(self, split: int, position: int) -> Stream:
        """Give the rows of a split from a position on."""
        perm = self._permutation(split)
        if position > 0:
            perm = perm.with_skip(position)
        return Stream(
            perm, perm.num_rows, position, lambda start, stop: [*range(start, stop)]
        )
