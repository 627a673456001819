"""``StreamingDataset``: the splits of a table, streamed one row of each in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import IterableDataset

from lanceloader.choices import check_flag
from lanceloader.compat_lancedb.plan_table import PlanTable
from lanceloader.numbers import count
from lanceloader.options import bytes_of
from lanceloader.sources import pinned_source
from lanceloader.stages.transform import UNSET
from lanceloader.streaming import validation
from lanceloader.streaming.checkpointing import DatasetCheckpoints
from lanceloader.streaming.counters import Counters
from lanceloader.streaming.iterator_lock import IteratorLock
from lanceloader.streaming.pickling import DatasetPickling, opened_once, schema_of
from lanceloader.streaming.progress import PackProgress, RowProgress, ShardProgress
from lanceloader.streaming.replaceable import namespace
from lanceloader.streaming.sharding import GlobalOrder
from lanceloader.streaming.statistics import DatasetStatistics
from lanceloader.streaming.validation import (
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_READ_BATCH_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from lanceloader._typing import Size, Tail


class StreamingDataset(
    DatasetCheckpoints,
    DatasetStatistics,
    DatasetPickling,
    IterableDataset[Any],
):
    """A table as a stream of rows for training, for any number of ranks and workers.

    The rows are shuffled by ``shuffle_seed`` and ``epoch`` and cut into ``num_splits`` splits
    of equal length. Rows that do not divide among the splits are left out, unless ``tail`` is
    given. Each rank has a contiguous range of the splits and each worker of a rank a contiguous
    range of those, from which it yields one row of each split in turn. Therefore a global batch
    of a multiple of ``num_splits`` rows is the same set of rows for any number of ranks and
    workers, and a ``state_dict`` of one topology resumes in another.

    Rows are read ahead, and threads transform ``read_batch_size`` rows of a split at a time.
    Without a transform, ``StreamingDataLoader`` makes tensors from columns, if its
    ``collate_fn`` is torch's default. Only one iterator may be live at a time. Progress persists: the next iterator
    continues where the last one stopped, and ``set_epoch`` and ``reset`` start again.

    Datasets can be pickled, deep-copied and sent to workers of any start method. A pickle that
    does not go straight to a worker has no credentials, as for ``Permutation``.

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
        error_value: Any = UNSET,
        repair: Callable[[Exception, pa.RecordBatch], Any] | None = None,
        max_buffered_bytes: Size | None = None,
        tail: Tail | None = None,
        strict: bool = False,
        fill_value: Any = UNSET,
    ) -> None:
        """Build the permutation of the epoch; no data is read.

        The arguments from ``error_value`` on are not in LanceDB 0.40.

        Args:
            table: A LanceDB table, or anything else that ``Permutation.identity`` takes. It is
                pinned to its current version. A query is executed once and a stream read once,
                and their rows are kept in memory.
            num_splits: The number of splits; by default ``world_size``. It must be divisible
                by ``world_size``, and by ``world_size`` times the number of workers, unless
                ``tail`` is given. A number with many divisors, such as 48, fits many topologies.
            shuffle: Whether to shuffle. Otherwise splits are cut in storage order.
            shuffle_seed: The seed of the order, together with ``epoch``; ``None`` draws one.
            epoch: The epoch.
            rank: The rank of this process, in ``range(world_size)``.
            world_size: The number of processes that train together.
            read_batch_size: The number of rows per read.
            io_queue_depth: The number of concurrent reads per split, where the core does not read
                ahead itself: of tables that only their own library reads, where rows may be left
                out, with packing, and with ``max_buffered_bytes``.
            columns: The columns to read; by default all.
            shuffle_clump_size: The number of neighbouring rows that stay together in the
                shuffle. A higher number makes reads cheaper and the order less random.
            filter: An SQL expression that selects rows.
            transform: Called with each ``pyarrow.RecordBatch``, in several threads at once;
                returns one output per row. By default rows are dicts. The result may also be a
                tensor, an array, a ``pyarrow.RecordBatch``, or a dict of tensors and arrays, with
                as many rows: ``StreamingDataLoader`` then joins whole columns, if its
                ``collate_fn`` is torch's default. If it has a parameter ``rng``, it is passed a
                ``BatchGenerator``, as by ``Permutation.loader``.
            transform_parallelism: The number of concurrent transforms; by default the number of
                CPUs, and transforms that take less than 50 µs are called by the consumer's thread.
            pack_sequences: The number of tokens per block. The only column must hold lists of
                tokens. Within each split they are concatenated and cut into items
                ``{"input_ids", "doc_ids"}``, both int64 of shape ``(pack_sequences,)``.
                ``doc_ids`` numbers the documents of a block from 0.
            eos_id: The token that ends each document, including empty ones.
            pad_id: The token that fills up the last blocks of a split. Mask it: its ``doc_ids``
                are those of the document before.
            blocks_per_epoch: The number of blocks of all splits together, a multiple of
                ``num_splits``. Further tokens are left out, missing tokens are padded.
                ``"auto"`` estimates the number from a sample.
            on_transform_error: What to do with rows for which the transform fails. ``"raise"``
                raises. ``"skip"`` leaves the rows out, ``"warn"`` also logs a warning, and a
                function leaves them out if it returns true for the exception. ``"fill"``
                replaces them by ``error_value`` or the result of ``repair``. If rows are left
                out, ranks may end at different steps.
            transform_queue_depth: The number of batches of transformed rows per split that may
                wait.
            connection_factory: Opens the table again where the dataset is unpickled; see
                ``Permutation.with_connection_factory``.
            worker_info_override: Used instead of torch's ``get_worker_info()``.
            prefetch_batches: Deprecated name of ``io_queue_depth``.
            error_value: With ``"fill"``, replaces rows for which the transform fails; each gets
                a deep copy.
            repair: With ``"fill"``, in place of ``error_value``: called with the exception and a
                batch of one row; returns the row to yield.
            max_buffered_bytes: The limit of Arrow data that this process has read and not yet
                yielded, in bytes or as a text such as ``"1GiB"``. One batch of each split is
                always allowed. By default it is 256 MiB where the core does not read ahead
                itself.
            tail: Yields all rows for any number of ranks and workers, without the rules of
                division: each of ``n`` readers takes every ``n``-th row of one sequence. At the
                end of the epoch, ``"pad"`` repeats rows from the beginning so that all readers
                have equally many, ``"drop"`` leaves rows out instead, and ``"uneven"`` does
                neither. Not supported with packing.
            strict: Whether state dicts record which row is at which position, and
                ``load_state_dict`` checks it.
            fill_value: LanceDB's name of ``error_value``, in its releases after 0.40.

        Raises:
            ValueError: If arguments do not fit each other or the table.
            TypeError: If ``io_queue_depth`` or ``read_batch_size`` is ``None``.
            RuntimeError: If ``table`` is not a table.
            OverflowError: If ``shuffle_seed`` or ``epoch`` is negative.
            KeyError: If the column to pack does not exist.
        """
        super().__init__()
        if prefetch_batches is not None:
            namespace.logger.warning(
                "prefetch_batches is deprecated and will be removed in a future version; "
                "use io_queue_depth instead"
            )
            io_queue_depth = prefetch_batches
        if num_splits is None:
            num_splits = world_size
        if shuffle_seed is None:
            shuffle_seed = namespace.random.randrange(2**32)
        if isinstance(shuffle, str):
            check_flag("shuffle", shuffle, "; a seed is `shuffle_seed`")
        validation.check_topology(num_splits, rank, world_size, tail)
        validation.check_required("io_queue_depth", io_queue_depth)
        validation.check_required("read_batch_size", read_batch_size)
        validation.check_positive("transform_parallelism", transform_parallelism)
        table = opened_once(table)
        validation.check_packing(
            num_splits=num_splits,
            pack_sequences=pack_sequences,
            eos_id=eos_id,
            pad_id=pad_id,
            blocks_per_epoch=blocks_per_epoch,
            transform=transform,
            columns=columns,
            schema=lambda: schema_of(table),
        )
        policy = validation.RowErrorPolicy(
            on_transform_error,
            validation.one_of_names(error_value, fill_value),
            repair,
        )
        validation.check_positive("transform_queue_depth", transform_queue_depth)
        validation.check_tail(tail, policy, pack_sequences)
        max_bytes = None
        if max_buffered_bytes is not None:
            max_bytes = bytes_of(max_buffered_bytes, "max_buffered_bytes")
            validation.check_positive("max_buffered_bytes", max_bytes)

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
        self._requested_blocks = self._blocks_per_epoch = blocks_per_epoch
        self._error_policy = policy
        self._transform_queue_depth = transform_queue_depth
        self._max_buffered_bytes = max_bytes
        self._tail = tail
        self._strict = strict
        self._connection_factory = connection_factory
        self._worker_info_override = worker_info_override

        perm_table = self._build_permutation(table)
        plan = PlanTable.of(perm_table)
        self._pin = plan.base_version, plan.base_branch
        self._use_permutation(perm_table)

        per_rank = num_splits // world_size
        first = rank * per_rank
        self._rank_splits = list(range(first, first + per_rank))
        self._iterator_lock = IteratorLock()
        self._counters = Counters(per_rank)
        self._start_again()

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch, as a new dataset with this epoch and the same version of the table.

        Setting the current epoch keeps its progress, so that a loop over epochs may begin with a
        loaded state. Workers that are already running do not notice the change.

        Args:
            epoch: The epoch, counted from 0.

        Raises:
            RuntimeError: If an iterator is live.
            OverflowError: If ``epoch`` is negative.
        """
        epoch = count(epoch, "epoch")
        if epoch == self._epoch:
            return
        token = self._acquire_consumer_iterator()
        before = self._epoch
        try:
            self._epoch = epoch
            if self._shuffle:
                source = pinned_source(self._table, *self._pin)
                self._use_permutation(self._build_permutation(source))
            self._start_again()
        except BaseException:
            self._epoch = before
            raise
        finally:
            self._release_consumer_iterator(token)

    def reset(self) -> None:
        """Start the current epoch again, and make state dicts valid again.

        Raises:
            RuntimeError: If an iterator is live.
        """
        token = self._acquire_consumer_iterator()
        try:
            self._start_again()
        finally:
            self._release_consumer_iterator(token)

    def _start_again(self) -> None:
        """Move to the beginning of the epoch."""
        if self._pack_sequences is not None:
            self._progress = PackProgress(self._num_splits)
        elif self._tail is not None:
            order = GlobalOrder(
                PlanTable.of(self._perm_rows).num_rows, self._num_splits
            )
            self._progress = ShardProgress(order)
        else:
            self._progress = RowProgress(self._num_splits)
        self._checkpoint_invalid_reason = None
        self._consumer_checkpoint_requires_uniform = False
        self._counters.is_untracked = False

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows of this reader that were not yielded yet.

        Raises:
            RuntimeError: At the first row, if another iterator is live.
            ValueError: At the first row, if splits do not divide among the workers.
        """
        return self._iter()
