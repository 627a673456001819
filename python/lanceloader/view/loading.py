"""Training: batches read ahead by Rust threads, how they are read, and what happened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from lanceloader.formats import is_format
from lanceloader.loading import Finish, Loader, Policy, Rows, Steps
from lanceloader.loading.budgeted import Budget, Budgeted
from lanceloader.loading.transforming import UNSET
from lanceloader.materialize import write_table
from lanceloader.numbers import count
from lanceloader.options import ReadOptions
from lanceloader.sources import open_source
from lanceloader.view.explaining import explanation
from lanceloader.view.sequences import SequenceVerbs
from lanceloader.view.warming import WarmReport, pack_now
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._permutation import Permutation
    from lanceloader._typing import (
        Format,
        LongRows,
        Nulls,
        Progress,
        Read,
        Size,
        StorageOptions,
        Tail,
    )
    from lanceloader.loading.served import Served
    from lanceloader.loading.transforming import OnError

__all__ = ["LoadVerbs"]


class LoadVerbs(SequenceVerbs):
    """Loading, and choosing how rows are read."""

    def with_read(
        self,
        read: Read | None = None,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> Self:
        """Choose how rows are read; without arguments, let the table decide again.

        Args:
            read: One of

                * ``"auto"``, the default: by the width and number of rows, the memory there is,
                  and how rows are asked for; ``explain()`` says what that comes to;
                * ``"resident"``: all rows are packed once, in the background, and kept in memory.
                  Workers, ranks and later runs on a machine share them through files in
                  ``cache_dir``;
                * ``"external"``: a ``loader`` shuffles by writing packed rows to scratch files
                  and reading them back in order, within ``memory_limit``;
                * ``"direct"``: rows are read from the table's files each time.
            memory_limit: Bytes of rows that may be held in memory, or a text like ``"4GiB"``;
                by default ``LANCELOADER_MEMORY_LIMIT``, or half of what is free, also under a
                limit of the control group. Rows take no more than this, 256 MiB, and three times
                the longest row of a batch. ``"resident"`` and ``"external"`` raise ``ValueError``
                on the first batch if they cannot do with it.
            cache_dir: Where packed rows are kept; by default ``LANCELOADER_CACHE_DIR``, or
                ``~/.cache/lanceloader/rows``. An empty text keeps them in memory of the process.
                It holds at most ``LANCELOADER_CACHE_LIMIT`` bytes, by default half of the disk's
                free space; what was not used for longest goes first.
            threads: Threads that read ahead, as far as there are batches for them, and threads
                that pack rows; by default one per core, of those that read at most four.

        Raises:
            ValueError: If there is no such strategy, or a size is none.
        """
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def explain(self) -> str:
        """Say where the rows come from, in which order, how they are read, why, and the cost.

        Looks at some hundred rows if their types do not say how long they are.
        """
        return explanation(self)

    def materialize(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: StorageOptions | None = None,
        progress: Progress = False,
    ) -> Permutation:
        """Write the rows, with these columns and in this order, as a new Lance table.

        All of it or nothing: a table that is interrupted leaves nothing behind, and one whose
        process is killed leaves a hidden folder that the next attempt removes. Memory is
        bounded, however many rows there are: see ``with_read``.

        Args:
            uri: Path or URI of the new table; ``"db/name.lance"`` is the table ``name`` of the
                LanceDB database ``db``.
            storage_options: Options of the object store of a URI.
            progress: Whether to show a bar; or a function, called with the number of rows
                written so far and in all.

        Returns:
            The new table, in storage order, with the format of this permutation.

        Raises:
            FileExistsError: If there is something at ``uri`` already.
            UnsupportedError: If neither pylance nor lancedb is installed.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> copy = perm.shuffle(seed=7).materialize(f"{folder}/shuffled.lance")
            >>> copy.head(2) == perm.shuffle(seed=7).head(2)
            True
        """
        uri = os.fspath(uri)
        batches = self._bulk("writing", progress=progress)
        write_table(self.schema, batches, uri, storage_options)
        source = open_source(uri, storage_options=storage_options)
        new = cast("Permutation", self._replace())
        new._assign(source, source.all_rows(), 0)
        new._base_table, new._permutation_table = uri, None
        new.batch_size, new.transform_fn = self.batch_size, self.transform_fn
        new._options = self._options
        return new

    def warm(
        self,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Progress = False,
    ) -> WarmReport:
        """Pack the rows of the table now, so that a first epoch does not have to.

        The selected columns of all rows of the table are packed, as ``read="resident"`` does it
        in the background, and this returns when the last row is packed. Filters and orders
        make no difference. Packed rows of 8 MiB and more are kept in the cache folder, for other
        processes and later runs, until others need the room; fewer are kept in memory while
        this permutation, or one made from it, is in use.

        Args:
            memory_limit: As for ``with_read``.
            cache_dir: As for ``with_read``.
            threads: As for ``with_read``; those that pack rows.
            progress: Whether to show a bar; or a function, called with the bytes packed so
                far and in all.

        Returns:
            What was packed, how long it took, and where it is kept.

        Raises:
            StorageError: If the rows cannot be written to the cache folder.
            UnsupportedError: If the native reader does not read these columns.
            ValueError: If the packed rows need more memory than ``memory_limit``.

        Example:
            >>> report = perm.warm()
            >>> report.rows, report.is_shared
            (10, False)
        """
        options = ReadOptions.of("resident", memory_limit, cache_dir, threads)
        view = self._replace(_options=self._options.merged(options))
        report = pack_now(view, progress)
        self._warm = view.reader
        return report

    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        *,
        global_batch_size: SupportsIndex | None = None,
        batch_tokens: SupportsIndex | None = None,
        length: str | None = None,
        padded: bool = True,
        bucket_rows: SupportsIndex = 8192,
        long: LongRows = "alone",
        drop_last: bool = False,
        shuffle: bool = False,
        seed: SupportsIndex | None = None,
        epochs: SupportsIndex | None = 1,
        rank: SupportsIndex | None = None,
        world_size: SupportsIndex | None = None,
        mesh: Any = None,
        tail: Tail = "pad",
        format: Format | None = None,  # noqa: A002
        nulls: Nulls | None = None,
        fill_value: Any = None,
        transform: Callable[[Any], Any] | None = None,
        transform_threads: SupportsIndex | None = None,
        transform_timeout: float | None = None,
        on_error: OnError = "raise",
        error_value: Any = UNSET,
        repair: Callable[[Exception, Any], Any] | None = None,
        collate: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        device: Any = None,
        in_process: bool = True,
        read: Read | None = None,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> Loader:
        """Load batches for training, without worker processes.

        Rust threads read ahead, a few batches at a time; batches come in order.

        Batch b of an epoch, of all ranks together, is the same set of rows for every number of
        ranks and workers, if the global batch size is. All ranks take the same number of steps.

        Args:
            batch_size: Rows of a batch of one rank; by default that of the permutation.
            global_batch_size: Instead, rows of a batch of all ranks together. It need not divide
                by their number.
            batch_tokens: Instead, tokens of a batch of one rank, at most: rows of like length share
                one, as many as fit, and every row is in one of them. Lengths are read once for a
                table, and each rank then plans the same batches. ``batch_size`` is then the most
                rows of one.
            length: With ``batch_tokens``, the column of lists whose lengths count, selected or
                not, or a column of numbers that says how long rows are, which is faster; by default
                the only column of lists.
            padded: With ``batch_tokens``, whether padding counts: the rows times the longest one.
                Otherwise the sum of lengths is within the budget.
            bucket_rows: With ``batch_tokens``, this many neighbours in the order are sorted by
                length, cut into batches, and these are served in the order of their first rows.
                More give less padding, and batches that are less random.
            long: With ``batch_tokens``, what becomes of a row of more tokens: ``"alone"`` makes it
                a batch of its own, ``"error"`` refuses it.
            drop_last: Whether to leave a short last batch out.
            shuffle: Whether to shuffle the rows, as ``shuffle(seed)`` does.
            seed: Chooses the order, with ``shuffle``; by default at random, but several ranks must
                agree on one.
            epochs: How many epochs one iteration gives, from that of ``set_epoch`` or 0 on;
                ``None`` never ends, unless a whole epoch had no batch, which is an error.
            rank: This process, in ``range(world_size)``; by default as ``torch.distributed``
                says, if it is in use and ``shard`` was not.
            world_size: Number of processes that train together. 1 gives everything to each.
            mesh: Instead of both, a ``DeviceMesh`` of one dimension, as in ``mesh["dp"]``, or a
                ``ProcessGroup``; ranks that differ only in other dimensions get the same rows.
            tail: What becomes of a short last batch whose rows do not divide among the ranks.
                ``"pad"`` fills it up with rows from the start of the epoch, ``"drop"`` leaves
                the rows over out, ``"uneven"`` gives some ranks one row less, which may be an
                empty batch.
            format: As for ``with_format``; by default that of the permutation.
            nulls: As for ``with_format``.
            fill_value: As for ``with_format``.
            transform: Called with each batch in its format, in threads; gives what is handed out.
            transform_threads: Threads that call it, by default one per core; 0 calls it in the
                thread that asks for batches. Without a transform, threads only convert.
            transform_timeout: Seconds for one batch, after which the iteration ends. Wants threads.
            on_error: What becomes of rows that the transform fails on, found by trying them one by
                one: ``"raise"``; ``"skip"``; ``"warn"``, which says so in the log; a function
                of the exception that says whether to skip; or ``"fill"``. Other than with
                ``"raise"`` the transform must give one output per row.
            error_value: With ``"fill"``, what the transform would have given for a batch of one
                such row.
            repair: With ``"fill"``, instead: called with the exception and the Arrow batch of one
                row, gives it. Of a batch without rows, which ranks may have, it gets that.
            collate: Called with what the transform gives.
            pin_memory: Whether tensors are put into pinned memory.
            device: Where tensors are copied to, one batch ahead.
            in_process: Whether threads of this process read and transform. ``False`` has one
                helper process do it, for trainers that must be left alone; it hands batches over
                in shared memory. It starts with each iteration, which takes as long as
                importing does, so let one give several ``epochs``. Functions must pickle, and
                a script needs ``if __name__ == "__main__"``. Linux only.
            read: As for ``with_read``; by default as it was chosen there.
            memory_limit: As for ``with_read``.
            cache_dir: As for ``with_read``.
            threads: As for ``with_read``.
            progress: Whether to show a bar for each epoch, on rank 0, with the rows per second and
                the share of the time that was waited.

        Raises:
            ValueError: If a size is 0, options exclude each other, or there is no such rank.

        Example:
            >>> loader = perm.loader(batch_size=4, shuffle=True, seed=7, format="numpy_dict")
            >>> for epoch in range(2):
            ...     for batch in loader.set_epoch(epoch):
            ...         print(len(batch["x"]), end=" ")
            4 4 2 4 4 2
            >>> state = loader.set_epoch(2).skip_batches(1).state_dict()
            >>> state["epoch"], state["position"]
            (2, 4)
        """
        if seed is not None and not shuffle:
            message = f"seed={seed!r} without shuffle: wanted shuffle=True"
            raise ValueError(message)
        view = self.shuffle(seed) if shuffle else self
        if format is not None:
            view = view.with_format(format, nulls=nulls, fill_value=fill_value)
        elif nulls is not None or fill_value is not None:
            raise ValueError(
                "nulls and fill_value are options of a format: wanted format= too"
            )
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        if options != ReadOptions():
            view = view._replace(_options=self._options.merged(options))
        world = World.of(rank, world_size, mesh)
        if world is None and view._is_shard:
            world = World()
        ranks = (world or World.found()).world_size
        if shuffle and seed is None and ranks > 1:
            message = (
                f"shuffle=True without a seed on {ranks} ranks: each would draw its own"
            )
            raise ValueError(message)
        budget = None
        if batch_tokens is not None:
            if global_batch_size is not None:
                raise ValueError(
                    "batch_tokens and global_batch_size: wanted one of them"
                )
            budget = Budget(
                count(batch_tokens, "batch_tokens"),
                view._length_column(length),
                padded,
                None if batch_size is None else count(batch_size, "batch_size"),
                count(bucket_rows, "bucket_rows"),
                long,
            )
            # Each rank takes whole batches.
            batch_size = 1
        else:
            _check_unused(
                length=(length, None),
                padded=(padded, True),
                bucket_rows=(bucket_rows, 8192),
                long=(long, "alone"),
            )
        if batch_size is None and global_batch_size is None:
            batch_size = self.batch_size
        steps = Steps.of(batch_size, global_batch_size, drop_last, tail, epochs, world)
        finish = Finish.of(
            transform,
            transform_threads,
            Policy(on_error, error_value, repair),
            transform_timeout,
            collate,
            pin_memory=pin_memory,
            device=device,
        )
        if finish.by_row and is_format(view.transform_fn, "torch_col"):
            message = f"on_error={on_error!r} with torch_col: wanted a format with a row per row"
            raise ValueError(message)
        served: Served
        if view._serve is not None:
            served = view._serve(view)
        elif budget is not None:
            served = Budgeted(view, budget, by_column=finish.by_row, progress=progress)
        else:
            served = Rows(view, by_column=finish.by_row)
        return Loader(served, steps, finish, progress=progress, in_process=in_process)


def _check_unused(**options: tuple[Any, Any]) -> None:
    """Refuse options of batches of so many tokens that are not at their defaults.

    Raises:
        ValueError: If one is not.
    """
    for name, (value, default) in options.items():
        if value != default:
            message = f"{name}={value!r} without batch_tokens: wanted both"
            raise ValueError(message)
