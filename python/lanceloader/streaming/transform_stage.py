"""The transform of batches, in threads, and what becomes of rows for which it fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader.drawing.functions import drawing
from lanceloader.randomness import RowKeys, called
from lanceloader.stages.concat import num_rows_of
from lanceloader.streaming.replaceable import namespace
from lanceloader.streaming.row_queue import RowBlock, RowQueue, is_columnar

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader.locations import RowLocation
    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.row_stream import RowStream
    from lanceloader.streaming.validation import RowErrorPolicy


HOW_TO_FIND = '; on_transform_error="warn" finds out which of them fail'
"""Added to an error of a batch whose rows were not tried one by one."""


class Mapper(Protocol):
    """Turns batches into rows, or into documents to pack."""

    def map(self, batch: pa.RecordBatch, keys: RowKeys) -> Any:
        """Transform a batch. An exception counts as a failure of the transform.

        Args:
            batch: The batch.
            keys: What random operations on its rows draw from.
        """

    def items(self, start: int, num_rows: int, mapped: Any) -> list[Any]:
        """Return the items for the queue of a transformed batch.

        Args:
            start: The position of its first row.
            num_rows: The number of rows of the batch.
            mapped: What ``map`` returned.

        Raises:
            ValueError: If there is not one output per row. That is never the fault of a row.
        """

    def filled(self, row: Any) -> Any:
        """Return what ``map`` would return for a batch whose only row becomes ``row``."""

    def new_queue(self) -> Any:
        """Return an empty queue for the items."""


class RowMapper:
    """Yields rows. Items are blocks of rows."""

    def __init__(self, transform: Callable[[pa.RecordBatch], Any]) -> None:
        self.transform = drawing(transform, "transform")

    def map(self, batch: pa.RecordBatch, keys: RowKeys) -> Any:
        """Transform a batch."""
        mapped = called(self.transform, batch, keys)
        return mapped if is_columnar(mapped) else list(mapped)

    def items(self, start: int, num_rows: int, mapped: Any) -> list[RowBlock]:
        """Return a block."""
        if (found := num_rows_of(mapped)) != num_rows:
            # In LanceDB's words, which programs may look for.
            message = (
                f"the transform returned {found} rows for a batch of {num_rows}, but must return "
                "exactly one output row per input row. To drop bad rows, raise for them and pass "
                "on_transform_error='skip'"
            )
            raise ValueError(message)
        return [RowBlock(start, mapped, num_rows)]

    def filled(self, row: Any) -> list[Any]:
        """Return the row as a batch of one."""
        return [row]

    def new_queue(self) -> RowQueue:
        """Return an empty queue for the items."""
        return RowQueue()


class TransformStage:
    """Transforms batches under an error policy.

    Args:
        mapper: Turns batches into rows or documents.
        policy: How rows are treated for which it fails.
        counters: The counters of the dataset.
        seed: The seed of random transforms.
        epoch: The epoch.
    """

    def __init__(
        self,
        mapper: Mapper,
        policy: RowErrorPolicy,
        counters: Counters,
        seed: int,
        epoch: int,
    ) -> None:
        self.seed = seed % 2**64
        self.epoch = epoch % 2**64
        self.mapper = mapper
        self.policy = policy
        self.counters = counters

    def __call__(
        self, start: int, batch: pa.RecordBatch, stream: RowStream
    ) -> list[Any]:
        """Return the items of a batch.

        Args:
            start: The position of its first row.
            batch: The batch.
            stream: The stream of its rows.
        """
        location = stream.location(start)
        keys = RowKeys(
            lambda: (self.seed, self.epoch, stream.places(start, batch.num_rows))
        )
        try:
            mapped = self.mapper.map(batch, keys)
        except Exception as error:
            is_tried = self.policy.on_error != "raise" or batch.num_rows < 2
            location.note(error, batch.num_rows, "" if is_tried else HOW_TO_FIND)
            if not self.policy.forgives(error):
                raise
            return self._row_by_row(start, batch, keys, location)
        return self.mapper.items(start, batch.num_rows, mapped)

    def _row_by_row(
        self, start: int, batch: pa.RecordBatch, keys: RowKeys, location: RowLocation
    ) -> list[Any]:
        """Drop or replace only the rows for which the transform fails."""
        items: list[Any] = []
        failures: list[Exception] = []
        failed: list[int] = []
        is_filling = self.policy.is_filling
        for i in range(batch.num_rows):
            row = batch.slice(i, 1)
            try:
                mapped = self.mapper.map(row, keys.row(i))
            except Exception as failure:
                location.note_row(failure, i)
                if not self.policy.forgives(failure):
                    raise
                failures.append(failure)
                failed.append(i)
                if not is_filling:
                    continue
                mapped = self.mapper.filled(self.policy.filler(failure, row))
            items += self.mapper.items(start + i, 1, mapped)
        done = "filled" if is_filling else "skipped"
        self.counters.add(**{f"rows_{done}": len(failures)})
        level = logging.WARNING if self.policy.on_error == "warn" else logging.INFO
        if failures and namespace.logger.isEnabledFor(level):
            namespace.logger.log(
                level,
                "%s %d of %d rows whose transform failed (first error: %r): %s, in %s",
                done.capitalize(),
                len(failures),
                batch.num_rows,
                failures[0],
                location.rows(failed),
                location.batch,
            )
        return items
