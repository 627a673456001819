"""Batches of rows of similar length under a token budget, as units."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._typing import LongRows
from lanceloader.choices import check_choice
from lanceloader.numbers import numbers_of, numpy_of, rows_at
from lanceloader.units.batches import (
    batches_ending_at,
    is_external,
    with_empty_last,
)
from lanceloader.units.planned import PlannedUnits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from lanceloader._native import Order
    from lanceloader.sources import Source
    from lanceloader.units.batches import RawBatches
    from lanceloader.units.share import Share
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["BucketedUnits", "TokenBudget"]


@dataclass(frozen=True)
class TokenBudget:
    """The size limits of a batch; see ``Permutation.loader``.

    Attributes:
        tokens: The most tokens in a batch.
        column: The column of the table that holds lists, or their lengths.
        padded: Whether padding counts.
        most_rows: The most rows in a batch, or ``None``.
        window: The number of neighbouring rows that are sorted by length together.
        long: How rows longer than a batch are treated.
    """

    tokens: int
    column: str
    padded: bool
    most_rows: int | None
    window: int
    long: LongRows

    def __post_init__(self) -> None:
        sizes = {
            "batch_tokens": self.tokens,
            "batch_size": self.most_rows,
            "bucket_rows": self.window,
        }
        for name, size in sizes.items():
            most = 2**32 if name == "bucket_rows" else 2**64
            if size is not None and not 1 <= operator.index(size) < most:
                message = f"`{name}` must be between 1 and {most - 1:,}, got {size}"
                raise ValueError(message)
        check_choice("long", self.long, LongRows)

    def __str__(self) -> str:
        what = "padded tokens" if self.padded else "tokens"
        rows = "" if self.most_rows is None else f" and {self.most_rows:,} rows"
        return f"{self.tokens:,} {what}{rows}, by {self.column}, of {self.window:,}"


class BucketedUnits(PlannedUnits):
    """Rows of similar length in batches under a token budget. Units are batches."""

    unit = "batch"
    _shared: tuple[_native.Buckets, Share, Order, np.ndarray[Any, Any]] | None = None
    """The plan and the share whose batches were located last, their rows, and their ends."""

    def __init__(
        self,
        view: ReadVerbs,
        budget: TokenBudget,
        *,
        by_column: bool = False,
        progress: bool | None = None,
    ) -> None:
        """Make batches of rows, in the order of a permutation except within windows.

        Args:
            view: The permutation; its format is that of the batches.
            budget: The size limits of a batch.
            by_column: As for ``ViewUnits``.
            progress: Whether to show a progress bar while lengths are read.
        """
        super().__init__(view, budget.column, by_column=by_column, progress=progress)
        self._budget = budget

    def buckets(self, epoch: int | None) -> _native.Buckets:
        """Return the plan of an epoch."""
        plan: _native.Buckets = self.planned(epoch)
        return plan

    def _plan(self, order: Order, lengths: _native.Lengths) -> _native.Buckets:
        budget = self._budget
        return _native.Buckets(
            order,
            lengths,
            tokens=budget.tokens,
            padded=budget.padded,
            most_rows=budget.most_rows,
            window=budget.window,
            long=budget.long,
        )

    def batch_text(self, size: int) -> str:
        """Return what a batch holds; ``size`` is 1."""
        del size
        what = "padded tokens" if self._budget.padded else "tokens"
        return f"at most {self._budget.tokens:,} {what}"

    def num_units(self, epoch: int | None) -> int:
        """Return the number of batches; epochs may differ by a few."""
        return self.buckets(epoch).num_batches

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows in a share."""
        order, _ = self.buckets(epoch).share(share)
        return order.num_rows

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some positions of a batch."""
        order, start, _ = self._batch(epoch, share, number)
        return self._view.source, [order.at(start + at) for at in ats]

    def places(
        self, epoch: int | None, share: Share, number: int
    ) -> np.ndarray[Any, Any]:
        """Return the row offset of each row of a batch, as a ``uint64`` array."""
        order, start, end = self._batch(epoch, share, number)
        return rows_at(order, range(start, end))

    def _batch(
        self, epoch: int | None, share: Share, number: int
    ) -> tuple[Order, int, int]:
        """Return the order of a share, and where a batch starts and ends in it."""
        plan, known = self.buckets(epoch), self._shared
        if known is None or known[0] is not plan or known[1] != share:
            order, numbers = plan.share(share)
            # Replaced and never changed, as other threads read it meanwhile.
            known = plan, share, order, numpy_of(numbers_of(numbers))
            self._shared = known
        _, _, order, ends = known
        start = int(ends[number - 1]) if number else 0
        # A last batch without rows has no end.
        return order, start, int(ends[number]) if number < len(ends) else start

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_shared": None}

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share; each of its units is a whole batch."""
        reader = self._reader()
        order, ends = self.buckets(epoch).share(share)
        after = None
        if following is not None and is_external(reader, [order]):
            next_epoch, next_share = following
            after, _ = self.buckets(next_epoch).share(next_share)
        batches = batches_ending_at(reader, order, numpy_of(numbers_of(ends)), after)
        return with_empty_last(batches, share, reader, order)

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the batches."""
        return {**super().plan(), "unit": self.unit, "budget": str(self._budget)}

    def explain(self) -> str:
        """Return the number of batches, the amount of padding and the size of the plan."""
        buckets = self.buckets(None)
        tokens, padded, oversized = buckets.counts
        lines = [
            f"batches   {buckets.num_batches:,} of at most {self._budget}",
            f"padding   {1 - tokens / padded if padded else 0:.2%} of {padded:,} tokens",
            f"plan      {buckets.num_bytes:,} bytes",
        ]
        if oversized:
            lines.append(f"too long  {oversized:,} rows, each alone in a batch")
        return "\n".join(lines)
