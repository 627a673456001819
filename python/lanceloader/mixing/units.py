"""What a loader of a mixture serves: one native loader for each table, put together batch by batch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Self, cast

from lanceloader import _native
from lanceloader.mixing.counters import Watches, summed
from lanceloader.stages.ordered_map import OrderedMap
from lanceloader.units.batches import cut_at, watch_of
from lanceloader.units.rows import RowUnits, offsets_at, order_of, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader.loader.share import Share
    from lanceloader.mixing.mixture import Mixture
    from lanceloader.sources import Source

__all__ = ["MixedUnits"]

AHEAD = 2
"""Batches that are put together before they are asked for."""


class MixedUnits:
    """The rows of a mixture."""

    unit = "mixed row"

    def __init__(self, mixture: Mixture, *, by_column: bool) -> None:
        """Serve a mixture; ``by_column`` as for ``RowUnits``."""
        self._mixture = mixture
        self._by_column = by_column or mixture.source_column is not None
        self._convert = mixture._views[0]._converter()
        self._plan: dict[str, int | str] | None = None

    @property
    def view(self) -> Any:
        """The mixture."""
        return self._mixture

    def num_units(self, epoch: int | None) -> int:
        """Count the rows of an epoch; with a schedule, epochs may differ."""
        return self._mixture._epochs.of(epoch).num_rows

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Give the raw batches of a share."""
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
        return MergedBatches(mixture, mixture._epochs.of(epoch), share, parts)

    def _load_one(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> Iterator[Any]:
        """Load sources of the same table: their mixture is an order of its rows."""
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
    ) -> Iterator[Any]:
        """Load what the batches of a share have of the sources of one table."""
        mixture = self._mixture
        view = mixture._readers()[group]
        reader = view._open_for_format(by_column=self._by_column)
        order = mixture._order(group, epoch, share)
        ends = mixture._epochs.of(epoch).ends(group, share)
        after = None
        if following is not None:
            next_epoch, next_share = following
            after = mixture._order(group, next_epoch, next_share)
        return cut_at(reader, order, ends, after)

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Say where in the table the rows at some places of a batch lie, if there is but one table."""
        mixture = self._mixture
        if len(mixture._views) > 1:
            return None
        order = mixture._order(0, epoch)
        return mixture._views[0]._source, offsets_at(order, share, number, ats)

    def convert(self, raw: Any) -> Any:
        """Give a raw batch in the format of the mixture."""
        return self._convert(raw)

    def plan(self) -> dict[str, int | str]:
        """Give what decides which row stands where."""
        if self._plan is None:
            self._plan = plan_of_mixture(self._mixture)
        return self._plan

    def reads(self) -> _native.ReadStats | None:
        """Say what was read so far, of all tables together, if all are read natively."""
        readers = [view._ensure_open() for view in self._mixture._readers()]
        known = [
            reader.stats() for reader in readers if isinstance(reader, _native.Reader)
        ]
        # It has what the native class has.
        return cast("Any", summed(known)) if len(known) == len(readers) else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_convert": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._convert = self._mixture._views[0]._converter()


class MergedBatches:
    """Batches of a mixture, put together from one of each table in a thread."""

    def __init__(
        self, mixture: Mixture, mix: _native.Mix, share: Share, parts: list[Any]
    ) -> None:
        column = mixture.source_column
        names = None if column is None else list(map(str, mixture.names))

        def merged(batch: tuple[Any, ...]) -> _native.Batch:
            positions, *found = batch
            return mix.merge(positions.start, len(positions), found, column, names)

        self._parts = parts
        self._batches = OrderedMap(
            zip(share.batches(), *parts, strict=True),
            merged,
            threads=1,
            ahead=AHEAD,
            name="lanceloader-mix",
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _native.Batch:
        return next(self._batches)

    def watch(self) -> Watches | None:
        """Give what counts the batches of all tables, if all are read natively."""
        watches = [watch_of(part) for part in self._parts]
        found = [watch for watch in watches if watch is not None]
        return Watches(found) if len(found) == len(watches) else None

    def close(self) -> None:
        """Take no more."""
        self._batches.close()


def plan_of_mixture(mixture: Mixture) -> dict[str, int | str]:
    """Give what decides which row of a mixture stands where, in every epoch."""
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
    # Without a number, the first pass of a source is served as it stands.
    plan["fingerprint"] = hashed(whole + "".join(numbered))
    plan["as it is"] = hashed(whole + "".join(as_it_is))
    if len(mixture.names) > NAMED:
        named = ("fingerprint", "as it is", "weights", "stop")
        return {"sources": len(mixture.names)} | {key: plan[key] for key in named}
    return plan


NAMED = 32
"""States name the sources of a mixture of no more than these."""

MAX_TEXT = 300


def short(text: str) -> str:
    """Give a text, or the hash of a long one."""
    return text if len(text) <= MAX_TEXT else hashed(text)


def hashed(text: str) -> str:
    """Give 16 hexadecimal digits that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
