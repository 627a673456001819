"""``StreamingDataset``: the splits of a table, streamed one row of each in turn."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import IterableDataset

from lanceloader import streaming
from lanceloader.compat_lancedb.plan_table import PlanTable
from lanceloader.numbers import count
from lanceloader.options import bytes_of
from lanceloader.sources import pinned_source
from lanceloader.streaming import arguments
from lanceloader.streaming.arguments import (
    _EPOCH_PRIME,
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_READ_BATCH_SIZE,
    UNSET,
)
from lanceloader.streaming.interleaving import Interleaving
from lanceloader.streaming.packing import estimated_blocks
from lanceloader.streaming.reading import Reading
from lanceloader.streaming.travelling import Travelling, opened_once, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from lanceloader._typing import Size, Tail


class StreamingDataset(Reading, Travelling, IterableDataset[Any]):
    """A table as a stream of rows for training, for any number of ranks and workers.

    The rows are shuffled by ``shuffle_seed`` and ``epoch`` and cut into ``num_splits`` splits
    of equal length; what does not divide is left out, unless ``tail`` is given. Each rank has
    a contiguous part of the splits, each worker of a rank a contiguous part of those, and
    hands over one row of each split in turn. So a global batch of a multiple of
    ``num_splits`` rows is the same set of rows for any number of ranks and workers, and
    ``state_dict`` of one topology resumes in another.

    Threads read ahead, ``read_batch_size`` rows of a split at a time, and other threads
    transform. One iterator at a time may be live. Progress persists: another iterator goes on
    where the last one stopped; ``set_epoch`` and ``reset`` begin anew.

    Pickles, deep copies and workers of any start method are fine. In a pickle that does not
    go straight to a worker there are no credentials, as for ``Permutation``.

    Example:
        >>> from lanceloader.streaming import StreamingDataset
        >>> dataset = StreamingDataset(table, num_splits=2, shuffle=False)
        >>> [row["x"] for row in dataset]
        [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
        >>> dataset.set_epoch(1)
        >>> next(iter(dataset))
        {'x': 0}
    """

    def __init__(
        self,
        table: Any,
        *,
        num_splits: int | None = None,
        shuffle: bool = True,
        shuffle_seed: int | None = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        read_batch_size: int = DEFAULT_READ_BATCH_SIZE,
        io_queue_depth: int = DEFAULT_PREFETCH_BATCHES,
        columns: list[str] | None = None,
        shuffle_clump_size: int | None = None,
        filter: str | None = None,  # noqa: A002
        transform: Callable[[pa.RecordBatch], Any] | None = None,
        transform_parallelism: int | None = None,
        pack_sequences: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        blocks_per_epoch: int | Literal["auto"] | None = None,
        on_transform_error: str | Callable[[Exception], bool] = "raise",
        transform_queue_depth: int | None = None,
        connection_factory: Callable[[str], Any] | None = None,
        worker_info_override: Any = None,
        prefetch_batches: int | None = None,
        fill_value: Any = UNSET,
        repair: Callable[[Exception, pa.RecordBatch], Any] | None = None,
        max_buffered_bytes: Size | None = None,
        tail: Tail | None = None,
        strict: bool = False,
    ) -> None:
        """Choose the rows and their order; builds the permutation, and reads no data.

        The arguments from ``fill_value`` on are not LanceDB's.

        Args:
            table: A LanceDB table, or anything else that ``Permutation.identity`` takes.
                Pinned to the version it is at now. A query is asked once, a stream read once,
                and the rows are kept in memory.
            num_splits: The number of splits; by default ``world_size``. It must be divisible
                by ``world_size``, and by that times the number of workers, unless ``tail`` is
                given. A number with many divisors, as 48, leaves the choice of both open.
            shuffle: Whether to shuffle; otherwise splits are cut in storage order.
            shuffle_seed: Chooses the order together with ``epoch``; ``None`` draws one.
            epoch: The epoch.
            rank: This process, in ``range(world_size)``.
            world_size: The number of processes that train together.
            read_batch_size: Rows of one read.
            io_queue_depth: Reads of one split under way at once.
            columns: The columns to read; by default all.
            shuffle_clump_size: This many neighbours stay together in the shuffle, which
                makes reading cheaper and the order less random.
            filter: Rows to keep, as an SQL expression.
            transform: Called with each ``pyarrow.RecordBatch``, in threads, several at once;
                gives one output per row. By default rows are dicts.
            transform_parallelism: Transforms at once; by default the number of CPUs.
            pack_sequences: Tokens of a block. The one column must hold lists of tokens; they
                are joined, split by split, and cut into items
                ``{"input_ids", "doc_ids"}``, both int64 of shape ``(pack_sequences,)``.
                ``doc_ids`` numbers the documents of a block from 0.
            eos_id: Ends each document, empty ones too.
            pad_id: Fills the last blocks of a split; mask it, for its ``doc_ids`` are those of
                the document before.
            blocks_per_epoch: Blocks of all splits together, a multiple of ``num_splits``.
                Tokens beyond are left out, missing ones padded. ``"auto"`` estimates it from
                a sample.
            on_transform_error: What becomes of rows whose transform fails: ``"raise"``;
                ``"skip"`` leaves them out, ``"warn"`` does and logs it, a function of the
                exception does if it gives true; ``"fill"`` puts ``fill_value`` or
                ``repair`` in their place. Where rows are left out, ranks may end at
                different steps.
            transform_queue_depth: Batches of transformed rows of a split that may wait.
            connection_factory: Reopens the table where this is unpickled; see
                ``Permutation.with_connection_factory``.
            worker_info_override: Used in place of torch's ``get_worker_info()``.
            prefetch_batches: The old name of ``io_queue_depth``.
            fill_value: What a row is whose transform failed; each gets a deep copy.
            repair: Called with the exception and the batch of one row; gives the row.
            max_buffered_bytes: Bytes, or a text like ``"1GiB"``: Arrow data read and not yet
                handed over, by this process. One batch of each split is always allowed.
            tail: Lifts the rules of division: all rows are served, by any number of ranks and
                workers, each taking every n-th row of one sequence. At the end of the epoch
                ``"pad"`` evens readers up with rows from the beginning, ``"drop"`` leaves
                rows out, ``"uneven"`` does neither. Not for packing.
            strict: Whether state dicts say which rows stand where, and
                ``load_state_dict`` checks it.

        Raises:
            ValueError: If arguments do not fit each other or the table.
            TypeError: If ``io_queue_depth`` or ``read_batch_size`` is ``None``.
            RuntimeError: If ``table`` is no table.
            OverflowError: If seed or epoch are negative.
            KeyError: If the column to pack does not exist.
        """
        super().__init__()
        if prefetch_batches is not None:
            streaming.logger.warning(
                "prefetch_batches is deprecated and will be removed in a future version; "
                "use io_queue_depth instead"
            )
            io_queue_depth = prefetch_batches
        if num_splits is None:
            num_splits = world_size
        if shuffle_seed is None:
            shuffle_seed = streaming.random.randrange(2**32)
        arguments.check_topology(num_splits, rank, world_size, tail)
        arguments.check_required("io_queue_depth", io_queue_depth)
        arguments.check_required("read_batch_size", read_batch_size)
        arguments.check_positive("transform_parallelism", transform_parallelism)
        table = opened_once(table)
        arguments.check_packing(
            num_splits=num_splits,
            pack_sequences=pack_sequences,
            eos_id=eos_id,
            pad_id=pad_id,
            blocks_per_epoch=blocks_per_epoch,
            transform=transform,
            columns=columns,
            schema=lambda: schema_of(table),
        )
        filling = arguments.check_errors(on_transform_error, fill_value, repair)
        arguments.check_positive("transform_queue_depth", transform_queue_depth)
        arguments.check_tail(tail, on_transform_error, pack_sequences)
        max_bytes = None
        if max_buffered_bytes is not None:
            max_bytes = bytes_of(max_buffered_bytes, "max_buffered_bytes")
            arguments.check_positive("max_buffered_bytes", max_bytes)

        self._table = table
        self._num_splits = num_splits
        self._shuffle = shuffle
        self._shuffle_seed = shuffle_seed
        self._epoch = epoch
        self._rank = rank
        self._world_size = world_size
        self._read_batch_size = read_batch_size
        self._io_queue_depth = io_queue_depth
        self._columns = columns
        self._shuffle_clump_size = shuffle_clump_size
        self._filter = filter
        self._transform = transform
        self._transform_parallelism = transform_parallelism
        self._pack_sequences = pack_sequences
        self._eos_id = eos_id
        self._pad_id = pad_id
        self._blocks_asked_for = self._blocks_per_epoch = blocks_per_epoch
        self._on_transform_error = on_transform_error
        self._filling = filling
        self._transform_queue_depth = transform_queue_depth
        self._max_buffered_bytes = max_bytes
        self._tail = tail
        self._strict = strict
        self._connection_factory = connection_factory
        self._worker_info_override = worker_info_override

        # Set by workers of a plain loader, whose progress nobody sees.
        self._untracked_worker_iteration = streaming.RawArray(ctypes.c_int64, 1)
        self._start_leasing()
        self._start_progress()

        perm_table = self._built(table)
        plan = PlanTable.of(perm_table)
        self._pin = plan.base_version, plan.base_branch
        self._take_plan(perm_table)

        per_rank = num_splits // world_size
        first = rank * per_rank
        self._rank_splits = list(range(first, first + per_rank))
        self._start_counting(per_rank)

    def _built(self, table: Any) -> Any:
        """Build the permutation table of this epoch."""
        builder = streaming.permutation_builder(table)
        if self._filter is not None:
            builder = builder.filter(self._filter)
        # With a tail, rows are dealt out of one split.
        fixed = self._num_splits if self._tail is None else 1
        if not self._shuffle:
            return builder.split_sequential(fixed=fixed).execute()
        seed = count(
            self._shuffle_seed + self._epoch * _EPOCH_PRIME,
            f"shuffle_seed + epoch * {_EPOCH_PRIME}",
        )
        return builder.split_random(
            fixed=fixed, seed=seed, clump_size=self._shuffle_clump_size
        ).execute()

    def _take_plan(self, perm_table: Any) -> None:
        """Stream by this permutation table, which was built."""
        self._perm_table = self._built_table = perm_table
        source = pinned_source(self._table, *self._pin)
        self._opened = perm_table, source, PlanTable.of(perm_table)
        self._known_plan = None
        self._interleaving = None
        if self._tail is not None:
            num_rows = perm_table.count_rows()
            self._interleaving = Interleaving(num_rows, self._num_splits)
        if self._blocks_asked_for == "auto":
            self._blocks_per_epoch = self._estimate_blocks_per_epoch()

    def _estimate_blocks_per_epoch(self) -> int:
        """Estimate the blocks of the epoch.

        Raises:
            RuntimeError: If nothing is packed.
        """
        if self._pack_sequences is None or not self._columns:
            raise RuntimeError(
                "packing must be configured before estimating its budget"
            )
        return estimated_blocks(
            self._table,
            self._perm_table,
            column=self._columns[0],
            length=self._pack_sequences,
            num_splits=self._num_splits,
            seed=self._shuffle_seed,
            batch_size=self._read_batch_size,
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: what a new dataset with this epoch gives, over the same version.

        The epoch that it is at already keeps its progress, so a loop over epochs may begin
        with a state that was loaded. Workers that stay alive do not notice.

        Args:
            epoch: The epoch, counted from 0.

        Raises:
            RuntimeError: If an iterator is live.
            OverflowError: If it is negative.
        """
        if epoch == self._epoch:
            return
        token = self._acquire_consumer_iterator()
        before = self._epoch
        try:
            self._epoch = epoch
            if self._shuffle:
                self._take_plan(self._built(self._pinned_table()))
            self._start_again()
        except BaseException:
            self._epoch = before
            raise
        finally:
            self._release_consumer_iterator(token)

    def reset(self) -> None:
        """Begin this epoch anew; state dicts are valid again.

        Raises:
            RuntimeError: If an iterator is live.
        """
        token = self._acquire_consumer_iterator()
        try:
            self._start_again()
        finally:
            self._release_consumer_iterator(token)

    def _start_again(self) -> None:
        self._start_progress()
        self._untracked_worker_iteration[0] = 0

    def _pinned_table(self) -> Any:
        """Give the table at the version that the first permutation was built from."""
        return pinned_source(self._table, *self._pin)

    def __iter__(self) -> Iterator[Any]:
        """Give the rows of this reader that were not handed over yet.

        Raises:
            RuntimeError: At the first row, if another iterator is live.
            ValueError: At the first row, if splits do not divide among the workers.
        """
        return self._iter()
