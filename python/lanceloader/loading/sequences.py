"""Serving sequences: documents packed into blocks, and batches under a token budget.

Both are planned from the lengths of the rows alone, so that all ranks plan the same.
"""

from __future__ import annotations

import operator
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, get_args

from lanceloader import _native
from lanceloader._progress import progress_over
from lanceloader._typing import LongDocuments, PackStrategy
from lanceloader.loading.served import Followed, epoch_of, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._native import Order
    from lanceloader.loading.share import Share
    from lanceloader.view.reading import Reading

__all__ = ["Budget", "Budgeted", "PackSettings", "PackedBlocks", "read_lengths"]

# Plans that are kept: of the epoch that is served, and of the one after it.
PLANS_KEPT = 2
# Lengths that are kept of one table: of its splits, say.
LENGTHS_KEPT = 4

_LENGTHS: weakref.WeakKeyDictionary[Any, dict[tuple[str, int], _native.Lengths]] = (
    weakref.WeakKeyDictionary()
)


def read_lengths(view: Reading, column: str, *, progress: bool) -> _native.Lengths:
    """Read how long each row of a permutation is, unless that was done before.

    Args:
        view: The permutation; in any order, as each row is read once.
        column: A column of the table: of lists, or of numbers that say how long rows are.
        progress: Whether to show a bar.

    Raises:
        ValueError: If the column is neither, or a row of it is null or negative.
    """
    builder = _native.LengthsBuilder(view._order)
    rows = builder.rows()
    known = _LENGTHS.setdefault(view._source, {})
    key = column, rows.fingerprint()
    if key not in known:
        reader = view._with_selection({column: column})._ensure_open()
        batches: Iterator[Any] = iter(reader.load(rows, None, False))  # noqa: FBT003
        for batch in progress_over(
            batches,
            rows.num_rows,
            f"lengths of {column}",
            enabled=progress,
            rows_of=lambda batch: batch.num_rows,
        ):
            builder.push(batch)
        while len(known) >= LENGTHS_KEPT:
            del known[next(iter(known))]
        known[key] = builder.finish()
    return known[key]


@dataclass(frozen=True)
class PackSettings:
    """How documents are packed; see ``Permutation.pack``.

    Attributes:
        length: Tokens of a block.
        column: The column of the table that has the tokens.
        lengths: The column of the table that says how many there are.
        eos_id: The token after each document, if there is one.
        pad_id: What fills the rest of a block.
        strategy: How documents are put into blocks.
        long: What becomes of documents longer than a block.
        window: Documents that are fitted together.
    """

    length: int
    column: str
    lengths: str
    eos_id: int | None
    pad_id: int
    strategy: PackStrategy
    long: LongDocuments
    window: int

    def __post_init__(self) -> None:
        for name, size in (("length", self.length), ("window", self.window)):
            if not 1 <= operator.index(size) < 2**31:
                message = f"{name} {size}: wanted a number from 1 to {2**31 - 1:,}"
                raise ValueError(message)
        for name, token in (("eos_id", self.eos_id), ("pad_id", self.pad_id)):
            if token is not None and not -(2**63) <= operator.index(token) < 2**63:
                message = f"{name} {token}: wanted a number that fits into int64"
                raise ValueError(message)
        for name, value, kind in (
            ("strategy", self.strategy, PackStrategy),
            ("long", self.long, LongDocuments),
        ):
            if value not in get_args(kind):
                wanted = ", ".join(f'"{known}"' for known in get_args(kind))
                message = f"{name} {value!r}: wanted one of {wanted}"
                raise ValueError(message)

    def __str__(self) -> str:
        documents = "documents"
        if self.eos_id is not None:
            documents += " and a token after each"
        long = "" if self.long == "split" else f", long ones {_DONE[self.long]}"
        window = "" if self.strategy == "concat" else f" of {self.window:,}"
        return f"{self.length:,} tokens of {self.column}, {documents}{long}, by {self.strategy}{window}"


_DONE = {"truncate": "cut short", "drop": "left out", "error": "refused"}


class Planned:
    """What is served by plans of single epochs, made of the lengths of rows."""

    def __init__(self, view: Reading, column: str, *, progress: bool) -> None:
        self._view = view
        self._column = column
        self._progress = progress
        self._convert = view._converter()
        self._lengths: _native.Lengths | None = None
        self._plans: dict[int | None, Any] = {}
        self._rows: dict[str, int | str] | None = None

    @property
    def view(self) -> Reading:
        """The permutation."""
        return self._view

    def planned(self, epoch: int | None) -> Any:
        """Give the plan of an epoch. The first one reads lengths."""
        if self._lengths is None:
            self._lengths = read_lengths(
                self._view, self._column, progress=self._progress
            )
        if epoch not in self._plans:
            plan = self._plan(epoch_of(self._view._order, epoch), self._lengths)
            while len(self._plans) >= PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _plan(self, order: Order, lengths: _native.Lengths) -> Any:
        raise NotImplementedError

    def _plan_of_rows(self) -> dict[str, int | str]:
        if self._rows is None:
            self._rows = plan_of(self._view)
        return self._rows

    def convert(self, raw: Any) -> Any:
        """Give a raw batch in the format of the permutation."""
        return self._convert(raw)

    def reads(self) -> _native.ReadStats | None:
        """Say what was read so far."""
        reader = self._view._ensure_open()
        return reader.stats() if isinstance(reader, _native.Reader) else None

    def __getstate__(self) -> dict[str, Any]:
        # Lengths travel, as reading them takes longer; plans are made again.
        return self.__dict__ | {"_convert": None, "_plans": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._convert = self._view._converter()


class PackedBlocks(Planned):
    """Documents packed into blocks of a fixed length. Units are blocks."""

    unit = "block"

    def __init__(
        self, view: Reading, settings: PackSettings, *, progress: bool = False
    ) -> None:
        """Serve the documents of a permutation, in its order.

        Args:
            view: The permutation; its format is that of the batches.
            settings: How documents are packed.
            progress: Whether to show a bar while lengths are read.
        """
        super().__init__(view, settings.lengths, progress=progress)
        self._settings = settings
        self._tokens = view._with_selection({settings.column: settings.column})

    def packing(self, epoch: int | None) -> _native.Packing:
        """Give the plan of an epoch."""
        plan: _native.Packing = self.planned(epoch)
        return plan

    def _plan(self, order: Order, lengths: _native.Lengths) -> _native.Packing:
        settings = self._settings
        return _native.Packing(
            order,
            lengths,
            length=settings.length,
            strategy=settings.strategy,
            long=settings.long,
            has_eos=settings.eos_id is not None,
            window=settings.window,
        )

    def num_units(self, epoch: int | None) -> int:
        """Count the blocks; epochs may differ by a few."""
        return self.packing(epoch).num_blocks

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the batches of a share: a row for each block."""
        packing = self.packing(epoch)
        reader = self._tokens._ensure_open()
        orders = packing.reads(share)
        after = None
        if following is not None and is_external(reader, orders):
            next_epoch, next_share = following
            after = next(iter(self.packing(next_epoch).reads(next_share)), None)
        rows = RowsRead(reader, orders, after)
        settings = self._settings
        blocks = packing.fill(
            share, rows, pad_id=settings.pad_id, eos_id=settings.eos_id or 0
        )
        return Watched(blocks, rows)

    def plan(self) -> dict[str, int | str]:
        """Give what decides which block stands where."""
        return {**self._plan_of_rows(), "unit": self.unit, "pack": str(self._settings)}

    def explain(self) -> str:
        """Say how many blocks there are, and how full."""
        packing = self.packing(None)
        documents, tokens, long, lost = packing.counts
        blocks = packing.num_blocks
        size = blocks * self._settings.length
        lines = [
            f"blocks    {blocks:,} of {self._settings}",
            f"filled    {tokens / size if size else 1:.2%}, {tokens:,} tokens of {documents:,} documents",
            f"plan      {packing.num_bytes:,} bytes",
        ]
        if lost:
            lines.append(f"lost      {lost:,} tokens of {long:,} documents")
        return "\n".join(lines)


class RowsRead:
    """Batches of the rows of several orders, read ahead one order after another."""

    def __init__(self, reader: Any, orders: list[Order], after: Order | None) -> None:
        self._reader = reader
        self._orders = orders
        self._after = after
        self._batches: Iterator[Any] | None = None
        self._advance()

    def _advance(self) -> None:
        if not self._orders:
            self._batches = None
            return
        order, *self._orders = self._orders
        if isinstance(self._reader, _native.Reader):
            after = None if self._orders else self._after
            self._batches = self._reader.load(order, None, False, after)  # noqa: FBT003
        else:
            self._batches = iter(self._reader.load(order, None, False))  # noqa: FBT003

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while self._batches is not None:
            for batch in self._batches:
                return batch
            self._advance()
        raise StopIteration

    def watch(self) -> _native.Watch | None:
        """Give what counts the rows of the first order, most often the only one."""
        return watch_of(self._batches)


class Watched:
    """Batches, and what counts the rows that they are made of."""

    def __init__(self, batches: Iterator[Any], rows: RowsRead) -> None:
        self._batches = batches
        self._rows = rows

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def watch(self) -> _native.Watch | None:
        """Give what counts the rows."""
        return self._rows.watch()


def watch_of(batches: Any) -> _native.Watch | None:
    """Give what counts batches of the core."""
    watch = getattr(batches, "watch", None)
    found: _native.Watch | None = None if watch is None else watch()
    return found


def is_external(reader: Any, orders: list[Order]) -> bool:
    """Whether rows go through scratch files, which can be prepared for the next epoch."""
    if not orders or not isinstance(reader, _native.Reader):
        return False
    return reader.strategy(orders[-1]) == "external"


@dataclass(frozen=True)
class Budget:
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
    long: str

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

    def __str__(self) -> str:
        what = "padded tokens" if self.padded else "tokens"
        rows = "" if self.most_rows is None else f" and {self.most_rows:,} rows"
        return f"{self.tokens:,} {what}{rows}, by {self.column}, of {self.window:,}"


class Budgeted(Planned):
    """Rows in batches of like length under a token budget. Units are batches."""

    unit = "batch"

    def __init__(
        self,
        view: Reading,
        budget: Budget,
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
        super().__init__(view, budget.column, progress=progress)
        self._budget = budget
        self._by_column = by_column

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

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the batches of a share, whose size is one batch."""
        import pyarrow as pa

        view = self._view
        reader = view._ensure_open() if self._by_column else view._open_for_format()
        order, ends = self.buckets(epoch).share(share)
        stops = pa.record_batch(ends).column(0).to_numpy()
        if isinstance(reader, _native.Reader):
            after = None
            if following is not None and is_external(reader, [order]):
                next_epoch, next_share = following
                after, _ = self.buckets(next_epoch).share(next_share)
            batches: Iterator[Any] = reader.load(order, None, False, after, stops)  # noqa: FBT003
        else:
            starts = [0, *stops.tolist()]
            pairs = zip(starts, starts[1:], strict=False)
            batches = (reader.read(order, start, stop) for start, stop in pairs)
        if share.last_size != 0:
            return batches
        # Other ranks have a batch left: this one takes the step with them.
        return Followed(batches, lambda: reader.read(order, 0, 0))

    def plan(self) -> dict[str, int | str]:
        """Give what decides which batch stands where."""
        return {**self._plan_of_rows(), "unit": self.unit, "budget": str(self._budget)}

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
