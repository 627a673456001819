"""Serving rows in batches of like length under a token budget."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._typing import LongRows
from lanceloader.choices import check_choice
from lanceloader.numbers import numbers_of
from lanceloader.units.batches import cut_at, is_external, stepping_along
from lanceloader.units.planned import PlannedUnits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader._native import Order
    from lanceloader.loader.share import Share
    from lanceloader.sources import Source
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["BucketedUnits", "TokenBudget"]


@dataclass(frozen=True)
class TokenBudget:
    """How large batches may be; see ``Permutation.loader``.

    Attributes:
        tokens: Tokens of a batch.
        column: The column of the table that says how long rows are.
        padded: Whether padding counts.
        most_rows: Rows of a batch, at most.
        window: Neighbours in the order that are sorted by length together.
        long: What becomes of rows that are longer than a batch.
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
                message = f"{name} {size}: wanted a number from 1 to {most - 1:,}"
                raise ValueError(message)
        check_choice(f"long {self.long!r}", self.long, LongRows)

    def __str__(self) -> str:
        what = "padded tokens" if self.padded else "tokens"
        rows = "" if self.most_rows is None else f" and {self.most_rows:,} rows"
        return f"{self.tokens:,} {what}{rows}, by {self.column}, of {self.window:,}"


class BucketedUnits(PlannedUnits):
    """Rows in batches of like length under a token budget. Units are batches."""

    unit = "batch"

    def __init__(
        self,
        view: ReadVerbs,
        budget: TokenBudget,
        *,
        by_column: bool = False,
        progress: bool = False,
    ) -> None:
        """Serve the rows of a permutation, in its order but for neighbours.

        Args:
            view: The permutation, in its format.
            budget: How large batches may be.
            by_column: As for ``Rows``.
            progress: Whether to show a bar while lengths are read.
        """
        super().__init__(view, budget.column, by_column=by_column, progress=progress)
        self._budget = budget

    def buckets(self, epoch: int | None) -> _native.Buckets:
        """Give the plan of an epoch."""
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

    def num_units(self, epoch: int | None) -> int:
        """Count the batches; epochs may differ by a few."""
        return self.buckets(epoch).num_batches

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Count the rows in the batches of a share."""
        order, _ = self.buckets(epoch).share(share)
        return order.num_rows

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Say where in the table the rows at some places of a batch lie."""
        order, ends = self.buckets(epoch).share(share)
        start = numbers_of(ends)[number - 1].as_py() if number else 0
        return self._view._source, [order.at(start + at) for at in ats]

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the batches of a share, whose size is one batch."""
        reader = self._reader()
        order, ends = self.buckets(epoch).share(share)
        after = None
        if following is not None and is_external(reader, [order]):
            next_epoch, next_share = following
            after, _ = self.buckets(next_epoch).share(next_share)
        batches = cut_at(reader, order, ends, after)
        return stepping_along(batches, share, reader, order)

    def plan(self) -> dict[str, int | str]:
        """Give what decides which batch stands where."""
        return {**super().plan(), "unit": self.unit, "budget": str(self._budget)}

    def explain(self) -> str:
        """Say how many batches there are, and how much of them is padding."""
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
