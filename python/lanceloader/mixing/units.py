"""The rows of a mixture as units, read by one loader of the core per table and merged by batch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Self, cast

from lanceloader.mixing.random_rows import keyed_rows
from lanceloader.numbers import numbers_of, numpy_of
from lanceloader.randomness import RowKeys
from lanceloader.stages.ordered_map import OrderedMap
from lanceloader.units.batches import (
    RawBatches,
    arrow_bytes,
    batches_ending_at,
    stats_of,
)
from lanceloader.units.counters import Watches, summed
from lanceloader.units.plan import plan_of
from lanceloader.units.rows import RowUnits, offsets_at, order_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader import _native
    from lanceloader._native import Order
    from lanceloader.mixing.base import MixedSources
    from lanceloader.sources import RowReader, Source
    from lanceloader.units.share import Share

__all__ = ["MixedUnits"]

AHEAD = 2
"""The number of batches that are merged before they are requested."""


class MixedUnits:
    """The rows of a mixture. Units are rows."""

    unit = "mixed row"
    is_drawn = False
    record: None = None

    def __init__(self, mixture: MixedSources, *, by_column: bool) -> None:
        """Make units of a mixture; ``by_column`` is that of ``ViewUnits``."""
        self._mixture = mixture
        self._by_column = by_column or mixture.source_column is not None
        self.convert = mixture._views[0].converter()
        self._plan: dict[str, int | str] | None = None

    @property
    def view(self) -> Any:
        """The mixture."""
        return self._mixture

    def num_units(self, epoch: int | None) -> int:
        """Return the number of rows in an epoch; with a schedule, epochs may differ."""
        return self._mixture._epochs.of(epoch).num_rows

    def begin(self, epoch: int | None, record: dict[str, Any] | None) -> Self:
        """Return these units, which are the same whenever an epoch begins."""
        del epoch, record
        return self

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share."""
        mixture = self._mixture
        if len(mixture._views) == 1:
            batches = self._load_one(epoch, share, following)
            if mixture.source_column is None:
                return batches
            parts = [batches]
        else:
            parts = [
                self._load_group(group, epoch, share, following)
                for group in range(len(mixture._views))
            ]
        return merged(mixture, mixture._epochs.of(epoch), share, parts)

    def _load_one(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of sources of one table, whose mixture is an order of its rows."""
        rows = RowUnits(self._mixture._readers()[0], by_column=self._by_column)
        after = None
        if following is not None:
            next_epoch, next_share = following
            after = order_of(self._mixture._order(0, next_epoch), next_share)
        return rows.load_order(self._mixture._order(0, epoch), share, after)

    def _load_group(
        self,
        group: int,
        epoch: int | None,
        share: Share,
        following: tuple[int, Share] | None,
    ) -> RawBatches:
        """Return the parts of the batches of a share that are read from one table."""
        mixture = self._mixture
        view = mixture._readers()[group]
        reader = view.open_format_reader(by_column=self._by_column)
        order = mixture._order(group, epoch, share)
        ends = mixture._epochs.of(epoch).ends(group, share)
        after = None
        if following is not None:
            next_epoch, next_share = following
            after = mixture._order(group, next_epoch, next_share)
        return batches_ending_at(reader, order, numpy_of(numbers_of(ends)), after)

    def batch_text(self, size: int) -> str:
        """Return what a batch of so many rows holds."""
        return f"{size:,} rows" if size != 1 else "1 row"

    def is_planned(self, epoch: int | None) -> bool:
        """Return whether ``num_units`` is known: it is."""
        del epoch
        return True

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows in a share."""
        del epoch
        return share.num_assigned

    def explain(self) -> str:
        """Return the lines that units add to ``Mixture.explain``: none."""
        return ""

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some positions of a batch, if there is only one table."""
        mixture = self._mixture
        if len(mixture._views) > 1:
            return None
        order = mixture._order(0, epoch)
        return mixture._views[0].source, offsets_at(order, share, number, ats)

    def row_keys(self, epoch: int | None, share: Share, number: int) -> RowKeys:
        """Return what random operations on the rows of a batch draw from, each as its source says."""
        mixture = self._mixture
        return RowKeys(lambda: keyed_rows(mixture, epoch, share, number))

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the rows."""
        if self._plan is None:
            self._plan = plan_of_mixture(self._mixture)
        return self._plan

    def readers(self, epoch: int | None) -> Iterator[tuple[RowReader, Order]]:
        """Yield the reader of each table, and the rows of an epoch that it reads."""
        for group, view in enumerate(self._mixture._readers()):
            yield view.open_reader(), self._mixture._order(group, epoch)

    def reads(self) -> _native.ReadStats | None:
        """Return the counters of all tables together, if the core reads all of them."""
        readers = [view.open_reader() for view in self._mixture._readers()]
        found = map(stats_of, readers)
        known = [stats for stats in found if stats is not None]
        # `SummedReadStats` has the attributes of `ReadStats`.
        return cast("Any", summed(known)) if len(known) == len(readers) else None

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name != "convert"
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.convert = self._mixture._views[0].converter()


def merged(
    mixture: MixedSources, mix: _native.Mix, share: Share, parts: list[RawBatches]
) -> RawBatches:
    """Return batches of a mixture, each merged in a thread from one batch of every table."""
    column = mixture.source_column
    names = None if column is None else list(map(str, mixture.names))

    def merge(batch: tuple[Any, ...]) -> _native.Batch:
        positions, *found = batch
        return mix.merge(positions.start, len(positions), found, column, names)

    batches = OrderedMap(
        zip(share.batches(), *parts, strict=True),
        merge,
        threads=1,
        ahead=AHEAD,
        name="lanceloader-mix",
    )
    watches = [part.watch for part in parts]
    # If some table has no counters, the others would only count a part of each batch.
    watch = None if None in watches else Watches(watches)
    size_of = arrow_bytes if watch is None else None
    return RawBatches(batches, watch, size_of, close=batches.close)


def plan_of_mixture(mixture: MixedSources) -> dict[str, int | str]:
    """Return what determines the order of the rows of a mixture, in every epoch."""
    plan: dict[str, int | str] = {"sources": ", ".join(map(str, mixture.names))}
    as_it_is, numbered = [], []
    for name, view in mixture.sources.items():
        source = plan_of(view)
        plan[f"source {name}"] = (
            f"{source['rows']} rows of {source['table']}, order {source['fingerprint']}"
        )
        as_it_is.append(str(source["as it is"]))
        numbered.append(str(source["fingerprint"]))
    plan["weights"] = short(repr(mixture._stages) + " linear" * mixture._is_linear)
    plan["stop"] = str(mixture.stop)
    whole = repr(list(plan.items()))
    # In an epoch without a number, the first pass of a source has the order of its permutation.
    plan["fingerprint"] = hashed(whole + "".join(numbered))
    plan["as it is"] = hashed(whole + "".join(as_it_is))
    if len(mixture.names) > NAMED:
        named = ("fingerprint", "as it is", "weights", "stop")
        return {"sources": len(mixture.names)} | {key: plan[key] for key in named}
    return plan


NAMED = 32
"""The most sources whose names are stored in checkpoints."""

MAX_TEXT = 300


def short(text: str) -> str:
    """Return a text, or the hash of a long one."""
    return text if len(text) <= MAX_TEXT else hashed(text)


def hashed(text: str) -> str:
    """Return the hash of a text as 16 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
