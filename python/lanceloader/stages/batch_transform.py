"""The transform of one batch: calls the function, and treats its errors row by row if need be."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.errors import ImageError
from lanceloader.stages.concat import concat, empty_like, num_rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lanceloader.locations import RowLocation
    from lanceloader.randomness import RowKeys
    from lanceloader.stages.error_policy import ErrorPolicy

__all__ = ["BatchTransform", "Outcome", "one_row_batches"]

logger = logging.getLogger(__name__)

HOW_TO_FIND = '; on_error="warn" finds out which of them fail'
"""The end of the note for a batch whose rows were not tried one by one."""


def one_row_batches(batch: Any) -> Iterator[Any]:
    """Return the rows of a batch as Arrow batches of one row, without a copy if the batch owns its rows."""
    whole = as_arrow(batch)
    return (whole.slice(at, 1) for at in range(whole.num_rows))


def as_arrow(batch: Any) -> Any:
    """Return a batch of the core as Arrow data, and any other batch unchanged."""
    import pyarrow as pa

    if isinstance(batch, _native.Batch):
        return pa.record_batch(batch if batch.is_owned else batch.to_owned())
    return batch


class Outcome:
    """The result of the transform of one batch."""

    __slots__ = (
        *("does_warn", "error", "failed", "is_empty", "num_rows", "location"),
        *("rows_filled", "rows_skipped", "value"),
    )

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.num_rows = 0
        self.rows_skipped = 0
        self.rows_filled = 0
        self.is_empty = False
        self.does_warn = False
        self.error: Exception | None = None
        self.failed: list[int] = []
        """The positions in the batch of rows for which the transform raised."""
        self.location: RowLocation | None = None

    def log(self) -> None:
        """Log which rows were skipped or replaced, if any were."""
        if self.location is None:
            return
        level = logging.WARNING if self.is_empty or self.does_warn else logging.INFO
        if not logger.isEnabledFor(level):
            return
        where = self.location.batch
        if self.failed:
            where = f"{self.location.rows(self.failed)}, in {where}"
        if self.is_empty and not self.num_rows:
            logger.log(
                level,
                "A batch without rows was skipped, as the transform raised %r: %s",
                self.error,
                where,
            )
        elif self.is_empty:
            logger.log(
                level,
                "A batch was skipped, as the transform failed for all of its %d rows (first error: %r): %s",
                self.num_rows,
                self.error,
                where,
            )
        else:
            logger.log(
                level,
                "%s %d of %d rows for which the transform failed (first error: %r): %s",
                "Filled" if self.rows_filled else "Skipped",
                len(self.failed),
                self.num_rows,
                self.error,
                where,
            )


class BatchTransform:
    """The work on one batch in a thread: calls the function, and treats its errors by a policy."""

    def __init__(
        self,
        call: Callable[..., Any],
        policy: ErrorPolicy,
        num_rows: Callable[[Any], int],
        one_row_batches: Callable[[Any], Iterable[Any]],
        timeout: float | None,
        locations: Callable[[int], RowLocation],
        row_keys: Callable[[int], RowKeys] | None,
    ) -> None:
        self.function = call
        self.row_keys = row_keys
        self.locations = locations
        self.policy = policy
        self.num_rows = num_rows
        self.one_row_batches = one_row_batches
        self.timeout = timeout

    def call(self, batch: Any, number: int, at: int | None = None) -> Any:
        """Call the function with a batch, or with the row at a position of it."""
        if self.row_keys is None:
            return self.function(batch)
        keys = self.row_keys(number)
        return self.function(batch, keys if at is None else keys.row(at))

    def timeout_message(self, number: int, batch: Any) -> str:
        """Return the message of the error for a batch that takes too long."""
        rows = ""
        # An error of `num_rows` must not replace the timeout.
        with contextlib.suppress(Exception):
            rows = f" of {self.num_rows(batch)} rows"
        return (
            f"the transform of batch {number}{rows} took longer than {self.timeout:g} s"
        )

    def outcome(self, item: tuple[int, Any]) -> Outcome:
        """Return the outcome of a batch, which is passed with its number."""
        number, batch = item
        if self.policy.on_error != "raise":
            return self.outcome_by_policy(batch, number)
        try:
            return Outcome(self.call(batch, number))
        except Exception as error:
            self.note(error, batch, self.locations(number), HOW_TO_FIND)
            raise

    def note(
        self, error: Exception, batch: Any, location: RowLocation, more: str = ""
    ) -> None:
        """Add a note to an error that names the batch and its rows, or the single row."""
        # An error of `num_rows` must not replace the error of the transform.
        with contextlib.suppress(Exception):
            num_rows = self.num_rows(batch)
            if isinstance(error, ImageError):
                location.note_row(error, error.row_in_batch)
                return
            location.note(error, num_rows, more if num_rows > 1 else "")

    def outcome_by_policy(self, batch: Any, number: int) -> Outcome:
        """Return the outcome of a batch under a policy other than ``"raise"``."""
        try:
            value = self.call(batch, number)
        except Exception as error:
            where = self.locations(number)
            self.note(error, batch, where)
            if not self.policy.forgives(error):
                raise
            if self.num_rows(batch) == 0:
                return self.without_rows(batch, error, where)
        else:
            check_rows(value, self.num_rows(batch), "the transform")
            return Outcome(value)
        return self.row_by_row(batch, number, where)

    def without_rows(
        self, batch: Any, error: Exception, location: RowLocation
    ) -> Outcome:
        """Return the outcome of a batch without rows, as other ranks have rows in the same step."""
        if self.policy.on_error == "fill":
            return Outcome(empty_like(self.policy.filler(error, as_arrow(batch))))
        outcome = Outcome()
        outcome.location = location
        outcome.is_empty = True
        outcome.error = error.with_traceback(None)
        return outcome

    def row_by_row(self, batch: Any, number: int, location: RowLocation) -> Outcome:
        """Return the outcome of a batch for which the function raised, trying each row alone."""
        outcome = Outcome()
        outcome.does_warn = self.policy.on_error == "warn"
        parts = []
        for at, row in enumerate(self.one_row_batches(batch)):
            outcome.num_rows += 1
            try:
                part = self.call(row, number, at)
            except Exception as error:
                location.note_row(error, at)
                outcome.failed.append(at)
                outcome.location = location
                if not self.policy.forgives(error):
                    raise
                outcome.error = outcome.error or error
                if self.policy.on_error != "fill":
                    outcome.rows_skipped += 1
                    continue
                part, by = (
                    self.policy.filler(error, row),
                    "the replacement of a row",
                )
                outcome.rows_filled += 1
            else:
                by = "the transform"
            check_rows(part, 1, by)
            parts.append(part)
        outcome.is_empty = not parts
        if parts:
            outcome.value = concat(parts)
        if outcome.error is not None:
            # The frames of the traceback refer to the batch, and log handlers may keep the error.
            outcome.error = outcome.error.with_traceback(None)
        return outcome


def check_rows(value: Any, expected: int, by: str) -> None:
    """Check that there is one output row per input row.

    Args:
        value: The output.
        expected: The number of input rows.
        by: The origin of the output, for messages.

    Raises:
        ValueError: If there is not.
    """
    found = num_rows_of(value)
    if found != expected:
        message = (
            f"{by} has {found} rows for a batch of {expected}: return one output row per input "
            "row, and raise an error to drop a row"
        )
        raise ValueError(message)
