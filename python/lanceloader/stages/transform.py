"""The transform stage: calls a function with each batch in threads, and treats its errors."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from operator import attrgetter, index
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from lanceloader import _native
from lanceloader.choices import check_function
from lanceloader.errors import ImageError
from lanceloader.locations import RowLocation
from lanceloader.monitor.transform_counts import TransformCounts
from lanceloader.stages.concat import concat, empty_like, num_rows_of
from lanceloader.stages.ordered_map import OrderedMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lanceloader.randomness import RowKeys

__all__ = [
    "UNSET",
    "ErrorPolicy",
    "OnError",
    "one_row_batches",
    "transformed",
]

logger = logging.getLogger(__name__)

OnError: TypeAlias = (
    Literal["raise", "skip", "warn", "fill"] | Callable[[Exception], Any]
)
"""How rows are treated for which a transform raises."""


class Unset:
    """The type of ``UNSET``, of which there is one instance, also after pickling."""

    def __reduce__(self) -> str:
        return "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = Unset()
"""The default of ``error_value``, for which ``None`` is a valid value."""

HOW_TO_FIND = '; on_error="warn" finds out which of them fail'
"""The end of the note for a batch whose rows were not tried one by one."""

# Batches in flight per thread: one that is being transformed, and a finished one.
AHEAD = 2


class ErrorPolicy:
    """How rows are treated for which a transform raises.

    Args:
        on_error: ``"raise"`` raises the error. ``"skip"`` drops the rows, ``"warn"`` drops them
            with a warning in the log, and a function of the exception drops them if it returns
            true. ``"fill"`` replaces them.
        error_value: With ``"fill"``, the result of the transform for a batch of one such row, such
            as ``[None]`` or ``{"x": torch.zeros(1, 3)}``. Each row gets a deep copy.
        repair: With ``"fill"``, in place of ``error_value``: a function of the exception and the
            batch of one row that returns this result. It is also called with a batch without
            rows, which a rank may have so that all take the same number of steps; the rows of
            its result are then dropped.

    Raises:
        ValueError: If the policy is unknown, or ``error_value`` and ``repair`` do not fit it.
    """

    def __init__(
        self,
        on_error: OnError = "raise",
        error_value: Any = UNSET,
        repair: Callable[[Exception, Any], Any] | None = None,
    ) -> None:
        is_name = isinstance(on_error, str) and on_error in (
            *("raise", "skip", "warn", "fill"),
        )
        if not is_name and not callable(on_error):
            message = (
                '`on_error` must be "raise", "skip", "warn", "fill" or a function, got '
                f"{on_error!r}"
            )
            raise ValueError(message)
        check_function("repair", repair)
        num_given = (error_value is not UNSET) + (repair is not None)
        if num_given != (on_error == "fill"):
            message = (
                f"`on_error`={on_error!r} with {num_given} of `error_value` and `repair`: pass "
                'exactly one of them with on_error="fill", and neither otherwise'
            )
            raise ValueError(message)
        if error_value is not UNSET and num_rows_of(error_value) != 1:
            message = (
                f"`error_value` has {num_rows_of(error_value)} rows: pass the result of the "
                "transform for a batch of one row"
            )
            raise ValueError(message)
        self.on_error = on_error
        self.error_value = error_value
        self.repair = repair

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1.0 name it `fill_value`.
        if "fill_value" in state:
            state = {**state, "error_value": state["fill_value"]}
            del state["fill_value"]
        self.__dict__.update(state)

    def forgives(self, error: Exception) -> bool:
        """Return whether to continue, without the rows or with replacements."""
        if callable(self.on_error):
            return bool(self.on_error(error))
        return self.on_error != "raise"

    def filler(self, error: Exception, row: Any) -> Any:
        """Return the replacement of a row, as a batch of one row."""
        if self.repair is not None:
            return self.repair(error, row)
        return copy.deepcopy(self.error_value)


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


def transformed(
    batches: Iterable[Any],
    call: Callable[..., Any],
    *,
    threads: int,
    policy: ErrorPolicy | None = None,
    timeout: float | None = None,
    counts: TransformCounts | None = None,
    first: int = 0,
    stride: int = 1,
    locations: Callable[[int], RowLocation] | None = None,
    row_keys: Callable[[int], RowKeys] | None = None,
    num_bytes: Callable[[Any], int] = lambda _: 0,
    most_bytes: int = 0,
    num_rows: Callable[[Any], int] = attrgetter("num_rows"),
    one_row_batches: Callable[[Any], Iterable[Any]] = one_row_batches,
) -> TransformedBatches:
    """Return an iterator over the results of a function for each batch, which threads call, in order.

    At most ``2 * threads`` batches are in flight, and no more than ``most_bytes``, unless there is
    only one. Nothing starts before the first ``next``. Closing or dropping the iterator ends it. A
    call that hangs blocks neither Ctrl-C nor the exit of the program.

    Under a policy other than ``"raise"``, a batch for which the function raises is tried again row
    by row, and the results are concatenated. The function must then return one output row per input
    row, and must not modify its argument before it raises. Only subclasses of ``Exception`` are
    treated. A batch whose rows are all dropped is not yielded, but counted and logged; the number of
    batches may then differ between ranks, so ranks that must take the same number of steps need
    ``"fill"``.

    Args:
        batches: The batches.
        call: The function, which several threads may call at the same time.
        threads: The number of threads. With 0, the thread that calls ``next`` calls the function.
        policy: How rows are treated for which the function raises; by default they raise.
        timeout: The most seconds for one batch, if it is being waited for. A longer call ends the
            iteration, and its thread is abandoned.
        counts: The counters to update.
        first: The number of the first batch, for messages.
        stride: The difference between the numbers of a batch and the next one.
        locations: Returns the location of a batch, counted from 0, for messages; by default its
            number.
        row_keys: Returns what random operations on a batch draw from, by its number; it is then the
            second argument of ``call``.
        num_bytes: Returns the number of bytes in the batch that was taken last.
        most_bytes: The most bytes of batches in flight.
        num_rows: Returns the number of rows in a batch.
        one_row_batches: Splits a batch into batches of one row.

    Returns:
        An iterator, which several threads may share. It raises the errors of the function, with a
        note that names the batch and its rows, or the single row; ``StopIteration`` is raised as
        ``RuntimeError``. It raises ``ValueError`` if the function does not return one output row
        per input row, and ``TimeoutError``. Each of these ends the iteration.

    Raises:
        ValueError: If ``threads`` is negative, or ``timeout`` is not positive or is passed without
            threads.
    """
    if index(threads) < 0:
        message = f"`threads` must not be negative, got {threads}"
        raise ValueError(message)
    if timeout is not None and not (timeout > 0 and threads):
        message = (
            f"`timeout`={timeout!r} with {threads} threads is not supported: pass seconds above 0 "
            "and at least one thread"
        )
        raise ValueError(message)
    if locations is None:

        def locations(number: int) -> RowLocation:
            return RowLocation(f"batch {first + number * stride}")

    policy = policy or ErrorPolicy()
    stage = _TransformStage(
        call, policy, num_rows, one_row_batches, timeout, locations, row_keys
    )
    results = OrderedMap(
        _Numbered(batches),
        stage.outcome,
        threads=threads,
        ahead=AHEAD * threads,
        timeout=timeout,
        timeout_message=lambda number, item: stage.timeout_message(
            first + number * stride, item[1]
        ),
        weigh=lambda item: num_bytes(item[1]),
        max_weight=most_bytes,
        name="lanceloader-transform",
    )
    return TransformedBatches(results, counts or TransformCounts())


class _Numbered:
    """An iterator over numbers and batches, which unlike ``enumerate`` keeps no reference to a batch."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = iter(batches)
        self._next = self._batches.__next__
        self._number = -1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Any]:
        batch = self._next()
        self._number = number = self._number + 1
        return number, batch

    def close(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


class TransformedBatches:
    """An iterator over transformed batches; made by ``transformed``.

    Attributes:
        counts: The counters of rows and batches, so far.
    """

    def __init__(
        self, results: OrderedMap[Any, _Outcome], counts: TransformCounts
    ) -> None:
        self.counts = counts
        self._results = results

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            outcome = next(self._results)
            self.counts.add(
                outcome.rows_skipped, outcome.rows_filled, int(outcome.is_empty)
            )
            outcome.log()
            if not outcome.is_empty:
                return outcome.value

    @property
    def num_ready(self) -> int:
        """The number of batches that were transformed and not yielded yet."""
        return self._results.num_ready

    def close(self) -> None:
        """End the iteration. Running calls are not waited for."""
        self._results.close()


class _Outcome:
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


class _TransformStage:
    """The work on one batch in a thread: calls the transform, and treats its errors."""

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
        rows = ""
        # An error of `num_rows` must not replace the timeout.
        with contextlib.suppress(Exception):
            rows = f" of {self.num_rows(batch)} rows"
        return (
            f"the transform of batch {number}{rows} took longer than {self.timeout:g} s"
        )

    def outcome(self, item: tuple[int, Any]) -> _Outcome:
        number, batch = item
        if self.policy.on_error != "raise":
            return self.outcome_by_policy(batch, number)
        try:
            return _Outcome(self.call(batch, number))
        except Exception as error:
            self.note(error, batch, self.locations(number), HOW_TO_FIND)
            raise

    def note(
        self, error: Exception, batch: Any, location: RowLocation, more: str = ""
    ) -> None:
        # An error of `num_rows` must not replace the error of the transform.
        with contextlib.suppress(Exception):
            num_rows = self.num_rows(batch)
            if isinstance(error, ImageError):
                location.note_row(error, error.row_in_batch)
                return
            location.note(error, num_rows, more if num_rows > 1 else "")

    def outcome_by_policy(self, batch: Any, number: int) -> _Outcome:
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
            return _Outcome(value)
        return self.row_by_row(batch, number, where)

    def without_rows(
        self, batch: Any, error: Exception, location: RowLocation
    ) -> _Outcome:
        """Return the outcome of a batch without rows, as other ranks have rows in the same step."""
        if self.policy.on_error == "fill":
            return _Outcome(empty_like(self.policy.filler(error, as_arrow(batch))))
        outcome = _Outcome()
        outcome.location = location
        outcome.is_empty = True
        outcome.error = error.with_traceback(None)
        return outcome

    def row_by_row(self, batch: Any, number: int, location: RowLocation) -> _Outcome:
        outcome = _Outcome()
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
