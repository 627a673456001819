"""The transform of a batch, and what becomes of rows that it fails for."""

from __future__ import annotations

import logging
from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader import streaming

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader.locations import RowLocation
    from lanceloader.streaming.arguments import Filling
    from lanceloader.streaming.counting import Counting

    OnError = str | Callable[[Exception], bool]


HOW_TO_FIND = '; on_transform_error="warn" finds out which of them fail'
"""Said of a batch whose rows were not tried one by one."""


class Kind(Protocol):
    """What is made of batches: rows, or documents to pack."""

    def make(self, batch: pa.RecordBatch) -> Any:
        """Transform a batch; what this raises is the transform's failure."""

    def place(self, start: int, num_rows: int, made: Any) -> list[Any]:
        """Make items for the queue of it; the first row has position ``start``.

        Raises:
            ValueError: If ``made`` is not one output per row: never the row's fault.
        """

    def stand_in(self, row: Any) -> Any:
        """Make what ``make`` would of one row, of what stands in for it."""

    def queue(self) -> Any:
        """Make the queue of what is ready."""


class Rows:
    """Rows, handed over one by one: items are pairs of position and row."""

    def __init__(self, transform: Callable[[pa.RecordBatch], Any]) -> None:
        """Make rows of batches with ``transform``."""
        self.transform = transform

    def make(self, batch: pa.RecordBatch) -> list[Any]:
        """Transform a batch."""
        return list(self.transform(batch))

    def place(self, start: int, num_rows: int, made: list[Any]) -> list[Any]:
        """Pair rows with their positions."""
        if len(made) != num_rows:
            message = (
                f"the transform returned {len(made)} rows for a batch of {num_rows}: wanted "
                "exactly one output row per input row. To drop bad rows, raise for them and "
                "pass on_transform_error='skip'"
            )
            raise ValueError(message)
        return list(zip(range(start, start + num_rows), made, strict=True))

    def stand_in(self, row: Any) -> list[Any]:
        """Take what stands in as the row."""
        return [row]

    def queue(self) -> deque[Any]:
        """Make the queue of what is ready."""
        return deque()


class Transforming:
    """Transforms batches in threads, by a policy for failures."""

    def __init__(
        self, kind: Kind, on_error: OnError, filling: Filling, counting: Counting
    ) -> None:
        """Take what to make, what to do with failures, and who counts them."""
        self.kind = kind
        self.on_error = on_error
        self.filling = filling
        self.counting = counting

    def __call__(
        self, start: int, batch: pa.RecordBatch, place: RowLocation
    ) -> list[Any]:
        """Make items of a batch, of which the first row has position ``start``."""
        try:
            made = self.kind.make(batch)
        except Exception as error:
            is_tried = self.on_error != "raise" or batch.num_rows < 2
            place.note(error, batch.num_rows, "" if is_tried else HOW_TO_FIND)
            if not self._tolerates(error):
                raise
            return self._row_by_row(start, batch, place)
        return self.kind.place(start, batch.num_rows, made)

    def _tolerates(self, error: Exception) -> bool:
        if callable(self.on_error):
            return bool(self.on_error(error))
        return self.on_error != "raise"

    def _row_by_row(
        self, start: int, batch: pa.RecordBatch, place: RowLocation
    ) -> list[Any]:
        """Find the rows that fail, and drop or replace only those."""
        items: list[Any] = []
        failures: list[Exception] = []
        failed: list[int] = []
        for i in range(batch.num_rows):
            row = batch.slice(i, 1)
            try:
                made = self.kind.make(row)
            except Exception as failure:
                place.note_row(failure, i)
                if not self._tolerates(failure):
                    raise
                failures.append(failure)
                failed.append(i)
                if not self._is_filling:
                    continue
                made = self.kind.stand_in(self._stand_in(failure, row))
            items += self.kind.place(start + i, 1, made)
        done = "filled" if self._is_filling else "skipped"
        self.counting._count(**{f"rows_{done}": len(failures)})
        level = logging.WARNING if self.on_error == "warn" else logging.INFO
        if failures and streaming.logger.isEnabledFor(level):
            streaming.logger.log(
                level,
                "%s %d of %d rows whose transform failed (first error: %r): %s, in %s",
                done.capitalize(),
                len(failures),
                batch.num_rows,
                failures[0],
                place.rows(failed),
                place.batch,
            )
        return items

    @property
    def _is_filling(self) -> bool:
        return isinstance(self.on_error, str) and self.on_error == "fill"

    def _stand_in(self, error: Exception, row: pa.RecordBatch) -> Any:
        if self.filling.repair is not None:
            return self.filling.repair(error, row)
        # The consumer may write to it.
        return deepcopy(self.filling.value)
