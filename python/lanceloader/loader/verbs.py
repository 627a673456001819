"""``Permutation.loader``: training, with batches read ahead by threads of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from lanceloader.loader.making import make_loader
from lanceloader.loader.options import DEFAULTS
from lanceloader.loader.packing import PackVerbs
from lanceloader.numbers import count
from lanceloader.stages.transform import UNSET
from lanceloader.units.bucketed import BucketedUnits, TokenBudget
from lanceloader.units.rows import RowUnits

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from lanceloader._typing import Format, LongRows, Nulls, Read, Size, Tail
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions
    from lanceloader.stages.transform import OnError
    from lanceloader.units.base import Units

__all__ = ["LoadVerbs"]


class LoadVerbs(PackVerbs):
    """Load batches."""

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
    ) -> Loader[Self]:
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
        # Only the arguments are local names here.
        given = {name: value for name, value in locals().items() if name in DEFAULTS}
        return make_loader(self, cast("LoaderOptions", given))

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> Units:
        """Return the rows that a loader batches, or batches of them under a token budget.

        Raises:
            ValueError: If options of a token budget are given without ``batch_tokens``.
        """
        if options["batch_tokens"] is None:
            _check_unused(options)
            return RowUnits(self, by_column=by_column)
        most_rows = options["batch_size"]
        budget = TokenBudget(
            count(options["batch_tokens"], "batch_tokens"),
            self.length_column(options["length"]),
            options["padded"],
            None if most_rows is None else count(most_rows, "batch_size"),
            count(options["bucket_rows"], "bucket_rows"),
            options["long"],
        )
        return BucketedUnits(
            self, budget, by_column=by_column, progress=options["progress"]
        )


def _check_unused(options: LoaderOptions) -> None:
    """Check that options of a token budget have their defaults.

    Raises:
        ValueError: If one has not.
    """
    for name in ("length", "padded", "bucket_rows", "long"):
        value: Any = options[name]
        if value != DEFAULTS[name]:
            message = f"`{name}`={value!r} is an option of a token budget: pass `batch_tokens`, too"
            raise ValueError(message)
