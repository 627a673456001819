"""The rows that a sampler chooses, as units: single rows, or the batches of a sampler of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Order
from lanceloader.numbers import numpy_of, offsets_of
from lanceloader.units.batches import (
    batches_ending_at,
    with_empty_last,
)
from lanceloader.units.draws import Draw, draw, finished, length_of
from lanceloader.units.rows import RowUnits, ViewUnits, offsets_at, places_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from lanceloader.sources import RowReader, Source
    from lanceloader.units.batches import RawBatches
    from lanceloader.units.share import Share
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["DrawnUnits", "SampledUnits"]


class SampledUnits(ViewUnits):
    """The rows that a sampler chooses anew for each epoch; ``begin`` reads it."""

    is_drawn = True
    _has_begun = False

    def __init__(
        self,
        view: ReadVerbs,
        sampler: Any,
        name: str,
        *,
        by_column: bool = False,
    ) -> None:
        """Make units of a sampler.

        Args:
            view: The permutation that positions refer to, in its own order in every epoch.
            sampler: The sampler.
            name: ``"sampler"``, or ``"batch_sampler"``, whose units are batches.
            by_column: As for ``ViewUnits``.
        """
        super().__init__(view, by_column=by_column)
        self._sampler = sampler
        self._name = name

    @property
    def unit(self) -> str:
        """The name of a unit in messages."""
        return "row" if self._name == "sampler" else "batch"

    def num_units(self, epoch: int | None) -> int:
        """Return the length of the sampler.

        Raises:
            TypeError: If it has none.
        """
        del epoch
        length = length_of(self._sampler)
        if length is None:
            message = f"the {type(self._sampler).__name__} of this loader has no length"
            raise TypeError(message)
        return length

    def batch_text(self, size: int) -> str:
        """Return what a batch of so many units holds."""
        name = type(self._sampler).__name__
        if self.unit == "row":
            return f"{super().batch_text(size)} of {name}"
        return f"the batches of {name}"

    def is_planned(self, epoch: int | None) -> bool:
        """Return whether the sampler has a length."""
        del epoch
        return length_of(self._sampler) is not None

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows in a share.

        Raises:
            TypeError: If units are batches, whose sizes are not known before they are read.
        """
        if self.unit == "batch":
            raise TypeError(
                "the number of rows is not known before `batch_sampler` is read"
            )
        return super().num_rows(epoch, share)

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the rows, apart from the rows of the sampler."""
        plan = {**super().plan(), "sampler": type(self._sampler).__qualname__}
        # Positions refer to the order of the permutation itself, in every epoch.
        plan["fingerprint"] = plan["as it is"]
        return plan if self.unit == "row" else {**plan, "unit": self.unit}

    @property
    def record(self) -> dict[str, Any] | None:
        """What makes the sampler yield the next epoch, if it has a state or a generator."""
        return finished(self._sampler) if self._has_begun else None

    def begin(self, epoch: int | None, record: dict[str, Any] | None) -> DrawnUnits:
        """Read the sampler for an epoch; see ``draws.draw``."""
        self._has_begun = True
        found = draw(self._sampler, self._name, self._view.num_rows, epoch, record)
        return DrawnUnits(self, found)

    def of_positions(self, positions: Any) -> DrawnUnits:
        """Return the rows at some positions as units, for a worker that is sent a batch."""
        rows = SampledUnits(self._view, (), "sampler", by_column=self._by_column)
        return DrawnUnits(rows, Draw(positions, None, {}))

    def without_sampler(self) -> SampledUnits:
        """Return units for a process that is sent positions, as not every sampler can be pickled."""
        return SampledUnits(self._view, (), self._name, by_column=self._by_column)

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Not supported: ``begin`` returns the units to load."""
        raise NotImplementedError

    def explain(self) -> str:
        """Return the kind of the sampler and its length."""
        length = length_of(self._sampler)
        number = "any number of" if length is None else f"{length:,}"
        plural = "rows" if self.unit == "row" else "batches"
        return f"sampler   {type(self._sampler).__name__} of {number} {plural}"


class DrawnUnits(SampledUnits):
    """The rows that a sampler chose for one epoch."""

    def __init__(self, units: SampledUnits, drawn: Draw) -> None:
        import numpy as np

        # As the other attributes are those of the units.
        self.__dict__.update(units.__dict__)
        self._draw = drawn
        self._order = self._view.order.pick(Order.listed(drawn.positions))
        ends = drawn.ends
        self._starts = None if ends is None else ends - np.diff(ends, prepend=0)

    @property
    def record(self) -> dict[str, Any] | None:
        """What makes the sampler yield the same again, for checkpoints."""
        return self._draw.record

    def is_planned(self, epoch: int | None) -> bool:
        """Return that the number of units is known."""
        del epoch
        return True

    def readers(self, epoch: int | None) -> Iterator[tuple[RowReader, Order]]:
        """Yield the reader of the table, and the rows that the sampler chose."""
        del epoch
        yield self._view.open_reader(), self._order

    def num_units(self, epoch: int | None) -> int:
        """Return the number of rows or batches that the sampler yielded."""
        del epoch
        ends = self._draw.ends
        return len(self._draw.positions if ends is None else ends)

    def positions_of(self, units: range) -> Any:
        """Return the positions of some units, which may continue from the start of the epoch."""
        import numpy as np

        numbers = np.arange(units.start, units.stop) % max(1, self.num_units(None))
        positions, ends = self._draw.positions, self._draw.ends
        if ends is None or self._starts is None:
            return positions[numbers]
        parts = [positions[self._starts[at] : ends[at]] for at in numbers]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share."""
        import numpy as np

        del epoch, following
        if self._draw.ends is None:
            rows = RowUnits(self._view, by_column=self._by_column)
            return rows.load_order(self._order, share, None)
        parts = [self.positions_of(batch) for batch in share.batches() if len(batch)]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        positions = np.concatenate([np.zeros(0, np.int64), *parts])
        order = self._view.order.pick(Order.listed(positions))
        reader = self._reader()
        batches = batches_ending_at(reader, order, ends)
        return with_empty_last(batches, share, reader, order)

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some positions of a batch."""
        del epoch
        if self._draw.ends is None:
            return self._view.source, offsets_at(self._order, share, number, ats)
        positions = self.positions_of(share.batch(number))
        return self._view.source, [
            self._view.order.at(int(positions[at])) for at in ats
        ]

    def places(
        self, epoch: int | None, share: Share, number: int
    ) -> np.ndarray[Any, Any]:
        """Return the row offset of each row of a batch, as a ``uint64`` array."""
        del epoch
        if self._draw.ends is None:
            return places_of(self._order, share, number)
        positions = self.positions_of(share.batch(number))
        return numpy_of(offsets_of(self._view.order.pick(Order.listed(positions))))
