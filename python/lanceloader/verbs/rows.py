"""The verbs that choose and order rows. Each gives a new permutation.

Only ``filter`` looks at values.
"""

from __future__ import annotations

import secrets
import warnings
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader import _native
from lanceloader.numbers import count, numpy_of
from lanceloader.verbs.reading import ReadVerbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._native import Order
    from lanceloader._typing import ArrayLike, Tail

__all__ = ["RowVerbs"]

WINDOW_BLOCKS = 64
"""Blocks of a window where only their size is given: a batch of some hundred rows has rows of all."""


class RowVerbs(ReadVerbs):
    """Skip, take, repeat, filter, shuffle, shard."""

    def with_skip(self, skip: int | None) -> Self:
        """Leave the first ``skip`` rows out; a second call replaces the first, ``None`` ends it.

        Raises:
            ValueError: If there are fewer, counting what ``with_take`` keeps.
        """
        if skip is not None:
            skip = count(skip, "skip")
        return self._replace(offset=skip, _order=self._sliced(skip, self.limit))

    def with_take(self, limit: int | None) -> Self:
        """Keep ``limit`` rows, after those that ``with_skip`` leaves out; ``None`` keeps all.

        Raises:
            ValueError: If there are fewer.
        """
        if limit is not None:
            limit = count(limit, "limit")
        return self._replace(limit=limit, _order=self._sliced(self.offset, limit))

    def with_repeat(self, times: int) -> Self:
        """Serve the rows ``times`` times over, in the same order each time."""
        return self._with_rows(self._order.repeat(count(times, "times")))

    def skip(self, skip: int) -> Self:
        """Call ``with_skip`` instead."""
        deprecated("skip")
        return self.with_skip(skip)

    def take(self, limit: int) -> Self:
        """Call ``with_take`` instead."""
        deprecated("take")
        return self.with_take(limit)

    def repeat(self, times: int) -> Self:
        """Call ``with_repeat`` instead."""
        deprecated("repeat")
        return self.with_repeat(times)

    def _sliced(self, offset: int | None, limit: int | None) -> Order:
        available = len(self._rows)
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
        return self._rows.slice(start, stop - start)

    def filter(self, predicate: str | Sequence[bool] | ArrayLike) -> Self:
        """Keep the rows for which ``predicate`` is true, in the order they stand.

        Args:
            predicate: An SQL expression over the columns of the table, answered by its own
                library, with its scalar indexes; rows where it is null are left out. Or a
                boolean array with a place for each row of this permutation.

        Returns:
            A new permutation. The answer is kept as a bitmap: a bit per row at most.

        Raises:
            ValueError: If the expression does not parse or names no column, or the array
                has another length.
            UnsupportedError: If the table's own library is not installed.

        Example:
            >>> perm.filter("x >= 8").head()
            [{'x': 8}, {'x': 9}]
        """
        if isinstance(predicate, str):
            source, rows = self._source.matching(predicate, self._order)
            return self._with_rows(rows, source)
        import numpy as np

        nulls = nulls_in(predicate)
        if nulls:
            message = (
                f"a filter with {nulls} nulls: wanted true or false for each row, as from "
                "pyarrow.compute.fill_null(mask, False)"
            )
            raise ValueError(message)
        mask = numpy_of(predicate)
        if mask.dtype != np.bool_ or mask.shape != (self.num_rows,):
            message = (
                f"a filter of dtype {mask.dtype} and shape {mask.shape}: wanted an SQL string "
                f"or {self.num_rows} booleans"
            )
            raise ValueError(message)
        kept = _native.Order.set(np.flatnonzero(mask))
        return self._with_rows(self._order.pick(kept))

    def shuffle(
        self,
        seed: SupportsIndex | None = None,
        *,
        epoch: SupportsIndex = 0,
        clump_size: SupportsIndex = 1,
        block_size: SupportsIndex | None = None,
        window_blocks: SupportsIndex | None = None,
    ) -> Self:
        """Shuffle the rows: exactly, unless ``clump_size`` or ``block_size`` say otherwise.

        Nothing is stored or sorted, at any number of rows: the order is computed. The same
        arguments give the same rows on every machine and release; see
        ``docs/determinism.md``. How random the inexact shuffles are is measured in
        ``docs/performance.md``.

        Args:
            seed: Chooses the order, in ``range(2**64)``; by default at random.
            epoch: Chooses another order for the same seed.
            clump_size: This many neighbours stay together, in order.
            block_size: Blocks of this many neighbours are shuffled, and then the rows of
                each window of ``window_blocks`` blocks. Rows of different windows do not
                mix, and a window reads whole blocks.
            window_blocks: Blocks of a window; 64 if only ``block_size`` is given.

        Raises:
            ValueError: If a size is 0, ``block_size`` is combined with ``clump_size``, or
                ``window_blocks`` is given without it.
        """
        seed = secrets.randbits(64) if seed is None else count(seed, "seed")
        epoch = count(epoch, "epoch")
        clump = count(clump_size, "clump_size", least=1)
        if block_size is not None or window_blocks is not None:
            if clump != 1:
                message = (
                    f"clump_size={clump_size} with block_size={block_size}: wanted one of them, "
                    "as the rows of a window do not stay together"
                )
                raise ValueError(message)
            if block_size is None:
                message = (
                    f"window_blocks={window_blocks} without block_size: wanted both"
                )
                raise ValueError(message)
            size = count(block_size, "block_size", least=1)
            blocks = WINDOW_BLOCKS
            if window_blocks is not None:
                blocks = count(window_blocks, "window_blocks", least=1)
            return self._with_rows(self._order.windowed(seed, epoch, size, blocks))
        return self._with_rows(self._order.shuffled(seed, epoch, clump))

    def _with_epoch(self, epoch: int) -> Self:
        """Shuffle anew, for another epoch of the same seed."""
        order = self._order.with_epoch(epoch)
        is_whole = self.offset is None and self.limit is None
        return self._replace(_order=order, _rows=order if is_whole else self._rows)

    def shard(self, rank: int, world_size: int, *, tail: Tail = "uneven") -> Self:
        """Keep the rows that one of ``world_size`` readers gets: every ``world_size``-th.

        A shard depends only on ``(len(self), rank, world_size, tail)``, so ranks need not
        talk to agree.

        Args:
            rank: This reader, in ``range(world_size)``.
            world_size: Number of readers, at least 1.
            tail: What becomes of the ``len(self) % world_size`` rows left over.
                ``"uneven"`` gives one each to the first ranks, ``"drop"`` leaves them out,
                ``"pad"`` evens the ranks up by serving some rows twice.

        Raises:
            ValueError: If ``rank`` is not in ``range(world_size)``.

        Example:
            >>> [len(perm.shard(rank, 4)) for rank in range(4)]
            [3, 3, 2, 2]
        """
        ranks = count(world_size, "world_size", least=1)
        new = self._with_rows(self._order.shard(count(rank, "rank"), ranks, tail))
        return new._replace(is_shard=True)


def nulls_in(values: Any) -> int:
    """Count the nulls of an array of pyarrow or polars; others have none, or say so otherwise."""
    nulls: Any = getattr(values, "null_count", 0)
    return int(nulls() if callable(nulls) else nulls)


def deprecated(name: str) -> None:
    """Warn that a name of HuggingFace's has a clearer one here."""
    message = f"{name} is deprecated. Use with_{name} instead"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
