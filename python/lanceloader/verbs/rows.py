"""The methods that choose and order rows. Each returns a new permutation.

Only ``filter`` reads values.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader import _native
from lanceloader.choices import check_flag
from lanceloader.drawing.functions import drawing
from lanceloader.formats import inputs_of
from lanceloader.formats.functions import Mask, Step
from lanceloader.monitor.progress import progress_over, requested, waiting
from lanceloader.numbers import count, numpy_of
from lanceloader.verbs.columns import expanded
from lanceloader.verbs.reading import FUNCTION_ROWS, ReadVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from lanceloader._native import Order
    from lanceloader._typing import ArrayLike, Tail

__all__ = ["RowVerbs"]

WINDOW_BLOCKS = 64
"""The default number of blocks in a window: enough to mix a batch of a few hundred rows well."""


class RowVerbs(ReadVerbs):
    """Methods that choose and order rows."""

    def with_skip(self, skip: int | None) -> Self:
        """Return a permutation without the first ``skip`` rows.

        Args:
            skip: The number of rows to skip, in place of that of an earlier call; ``None`` skips
                none.

        Raises:
            ValueError: If there are fewer rows than ``skip`` and the limit of ``with_take``
                together.

        Example:
            >>> len(perm.with_skip(4)), len(perm.with_skip(4).with_skip(None))
            (6, 10)
        """
        if skip is not None:
            skip = count(skip, "skip")
        return self._replace(offset=skip, order=self.sliced_order(skip, self.limit))

    def with_take(self, limit: int | None) -> Self:
        """Return a permutation of the first ``limit`` rows, after those that ``with_skip`` skips.

        Args:
            limit: The number of rows to keep, in place of that of an earlier call; ``None`` keeps
                all.

        Raises:
            ValueError: If there are fewer rows.

        Example:
            >>> perm.with_skip(4).with_take(2).head()
            [{'x': 4}, {'x': 5}]
        """
        if limit is not None:
            limit = count(limit, "limit")
        return self._replace(limit=limit, order=self.sliced_order(self.offset, limit))

    def with_repeat(self, times: int) -> Self:
        """Return a permutation of the rows repeated ``times`` times, each time in the same order."""
        return self.with_rows(self.order.repeat(count(times, "times")))

    def skip(self, skip: int) -> Self:
        """Return a permutation without the first ``skip`` rows of this one.

        Unlike ``with_skip``, calls add up: ``perm.take(5).skip(2)`` has 3 rows.

        Raises:
            ValueError: If there are fewer rows.

        Example:
            >>> perm.skip(4).skip(4).head()
            [{'x': 8}, {'x': 9}]
        """
        start = count(skip, "skip")
        self._check_available(start, "skip")
        return self.with_rows(self.order.slice(start, self.num_rows - start))

    def take(self, limit: int) -> Self:
        """Return a permutation of the first ``limit`` rows of this one.

        Raises:
            ValueError: If there are fewer rows.

        Example:
            >>> perm.take(5).skip(3).head()
            [{'x': 3}, {'x': 4}]
        """
        rows = count(limit, "limit")
        self._check_available(rows, "limit")
        return self.with_rows(self.order.slice(0, rows))

    def repeat(self, times: int) -> Self:
        """Return a permutation of the rows repeated ``times`` times, as ``with_repeat`` does."""
        return self.with_repeat(times)

    def _check_available(self, rows: int, argument: str) -> None:
        """Check that there are as many rows.

        Raises:
            ValueError: If there are fewer.
        """
        if rows > self.num_rows:
            message = f"`{argument}`={rows} exceeds the number of rows, {self.num_rows}"
            raise ValueError(message)

    def sliced_order(self, offset: int | None, limit: int | None) -> Order:
        """Return the rows after skipping ``offset`` and keeping ``limit`` of them."""
        available = len(self.unsliced_order)
        start = offset or 0
        stop = available if limit is None else start + limit
        if start > available:
            message = (
                f"Invalid input, Offset is greater than the number of rows in the permutation "
                f"table: {start} of {available}"
            )
            raise ValueError(message)
        if stop > available:
            message = (
                f"Invalid input, Limit is greater than the number of rows in the permutation "
                f"table: {start} skipped and {limit} kept of {available}"
            )
            raise ValueError(message)
        return self.unsliced_order.slice(start, stop - start)

    def filter(
        self,
        predicate: str | Sequence[bool] | ArrayLike | Callable[[Any], Any],
        *,
        batched: bool = False,
        progress: bool | None = None,
    ) -> Self:
        """Return a permutation of the rows for which ``predicate`` is true, in the same order.

        The result is stored as a bitmap, of at most one bit per row of the table.

        Args:
            predicate: An SQL expression over the columns of the table and computed ones, which lancedb or pylance
                evaluates, with scalar indexes if there are any; rows for which it is null are
                dropped. Or a boolean array of shape (num_rows,). Or a function of a row, which is
                called now for all rows, as ``map`` would call it, and returns whether to keep the
                row; SQL is many times faster.
            batched: Whether a function takes a batch of rows, and returns a boolean for each.
            progress: Whether to show a progress bar while a function is called, or how long an SQL
                expression takes, after a second; by default as ``LANCELOADER_PROGRESS`` says.

        Raises:
            ValueError: If the expression cannot be parsed or names an unknown column, or the
                array is not boolean, has nulls or has another length; or if ``batched`` is
                passed without a function.
            UnsupportedError: If an SQL expression needs lancedb or pylance and neither is
                installed.

        Example:
            >>> perm.filter("x >= 8").head()
            [{'x': 8}, {'x': 9}]
            >>> perm.filter(lambda row: row["x"] % 5 == 0).head()
            [{'x': 0}, {'x': 5}]
        """
        check_flag("batched", batched)
        if callable(predicate) and not hasattr(predicate, "__array__"):
            predicate = self._mask_of(predicate, batched=batched, progress=progress)
        elif batched:
            raise ValueError(
                "`batched` is an option of a function: pass it with a function as `predicate`"
            )
        if isinstance(predicate, str):
            predicate = expanded(self, predicate)
            with requested(progress), waiting("filtering"):
                source, rows = self.source.matching(predicate, self.order)
            return self.with_rows(rows, source)
        import numpy as np

        nulls = count_nulls(predicate)
        if nulls:
            message = (
                f"`predicate` has {nulls} nulls, but must be true or false for each row: "
                "replace them, as with pyarrow.compute.fill_null(mask, False)"
            )
            raise ValueError(message)
        mask = numpy_of(predicate)
        if mask.dtype != np.bool_ or mask.shape != (self.num_rows,):
            message = (
                "`predicate` must be an SQL string, a function or a boolean array of shape "
                f"({self.num_rows},), "
            )
            message += (
                f"not an array of dtype {mask.dtype} and shape {mask.shape}"
                if mask.shape
                else f"not {predicate!r} of type {type(predicate).__name__}"
            )
            if mask.shape == (self.num_rows,) and mask.dtype.kind in "iu":
                message += ": call filter(mask.astype(bool)), or select(positions) for positions"
            raise ValueError(message)
        kept = _native.Order.set(np.flatnonzero(mask))
        return self.with_rows(self.order.pick(kept))

    def _mask_of(
        self,
        function: Callable[[Any], Any],
        *,
        batched: bool,
        progress: bool | None,
    ) -> np.ndarray[Any, Any]:
        """Return whether a function is true, for each row.

        Raises:
            TypeError: If it returns something else than booleans.
            ValueError: If it returns another number of them than there are rows.
        """
        import numpy as np

        inputs = inputs_of(self.transform_fn, by_row=not batched)
        step = Step(drawing(function, "filter"), inputs, by_row=not batched)
        view = self.with_transform(Mask(step))
        batches = view._batches(FUNCTION_ROWS, skip_last_batch=False, progress=False)
        masks = progress_over(
            batches, self.num_rows, "filtering", enabled=progress, rows_of=len
        )
        return np.concatenate([np.zeros(0, np.bool_), *masks])

    def shuffle(
        self,
        seed: SupportsIndex | None = None,
        *,
        epoch: SupportsIndex = 0,
        clump_size: SupportsIndex = 1,
        block_size: SupportsIndex | None = None,
        window_blocks: SupportsIndex | None = None,
    ) -> Self:
        """Return a permutation of the rows in random order.

        The shuffle is exact, unless ``clump_size`` or ``block_size`` is passed;
        ``docs/performance.md`` measures how random the other shuffles are. The order is computed
        in constant time and memory, at any number of rows. The same arguments return the same
        order on all machines and in all releases; see ``docs/determinism.md``.

        Args:
            seed: The seed of the order, in ``range(2**64)``; random by default.
            epoch: The epoch; the same seed has another order in each epoch.
            clump_size: The number of neighbouring rows that stay together, in their order.
            block_size: The number of rows in a block. Blocks of neighbouring rows are shuffled,
                and then the rows within each window of ``window_blocks`` blocks. Each window
                reads whole blocks, and rows of different windows do not mix.
            window_blocks: The number of blocks in a window, 64 by default.

        Raises:
            ValueError: If a size is 0, both ``block_size`` and ``clump_size`` are passed, or
                ``window_blocks`` is passed without ``block_size``.

        Example:
            >>> perm.shuffle(seed=7).head(2)
            [{'x': 6}, {'x': 3}]
        """
        seed = secrets.randbits(64) if seed is None else count(seed, "seed")
        epoch = count(epoch, "epoch")
        clump = count(clump_size, "clump_size", least=1)
        if block_size is not None or window_blocks is not None:
            if clump != 1:
                message = (
                    f"`clump_size`={clump_size} and `block_size`={block_size} are mutually exclusive, "
                    "as the rows of a window do not stay together: pass one of them"
                )
                raise ValueError(message)
            if block_size is None:
                message = (
                    f"`window_blocks`={window_blocks} has no effect without blocks: pass "
                    "`block_size`, too"
                )
                raise ValueError(message)
            size = count(block_size, "block_size", least=1)
            blocks = WINDOW_BLOCKS
            if window_blocks is not None:
                blocks = count(window_blocks, "window_blocks", least=1)
            rows = self.order.windowed(seed, epoch, size, blocks)
        else:
            rows = self.order.shuffled(seed, epoch, clump)
        return self.with_rows(rows).with_seed(seed, epoch)

    def with_epoch(self, epoch: int) -> Self:
        """Return the permutation in the order of another epoch, in constant time.

        The order only changes if the last operation on the rows was a shuffle.

        Args:
            epoch: The number of the epoch, from 0 on.

        Raises:
            BoundsError: If the number is negative. It is a ``ValueError`` and an
                ``OverflowError``.
            TypeError: If it is not a whole number.
        """
        order = self.order.with_epoch(count(epoch, "epoch"))
        seed, _ = self.randomness
        is_whole = self.offset is None and self.limit is None
        return self._replace(
            order=order,
            unsliced_order=order if is_whole else self.unsliced_order,
            randomness=(seed, epoch),
        )

    def shard(self, rank: int, world_size: int, *, tail: Tail = "uneven") -> Self:
        """Return the rows of one rank: every ``world_size``-th row, from row ``rank`` on.

        A shard depends only on ``(len(self), rank, world_size, tail)``, so ranks agree without
        communication.

        Args:
            rank: The rank, in ``range(world_size)``.
            world_size: The number of ranks, at least 1.
            tail: What is done with the last ``len(self) % world_size`` rows. ``"uneven"``
                assigns them to the first ranks, which then have one row more; ``"drop"`` drops
                them; ``"pad"`` repeats rows so that all ranks have the same number.

        Raises:
            ValueError: If ``rank`` is not in ``range(world_size)``, or ``tail`` is unknown.

        Example:
            >>> [len(perm.shard(rank, 4)) for rank in range(4)]
            [3, 3, 2, 2]
        """
        ranks = count(world_size, "world_size", least=1)
        new = self.with_rows(self.order.shard(count(rank, "rank"), ranks, tail))
        return new._replace(is_shard=True)


def count_nulls(values: Any) -> int:
    """Return the number of nulls in an array of pyarrow or polars; 0 for other arrays."""
    nulls: Any = getattr(values, "null_count", 0)
    return int(nulls() if callable(nulls) else nulls)
