"""Functions of the user over batches, in threads, and what becomes of rows that they fail on."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable
from operator import attrgetter, index
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from lanceloader import _native
from lanceloader.choices import check_function
from lanceloader.locations import RowLocation
from lanceloader.monitor.transform_counts import TransformCounts
from lanceloader.stages.concat import emptied, joined, num_rows_of
from lanceloader.stages.ordered_map import OrderedMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
"""What to do when a transform raises."""


class Unset:
    """What nobody would give as a value. There is one, also after pickling."""

    def __reduce__(self) -> str:
        return "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = Unset()
"""Says that no ``error_value`` was given: ``None`` is a value."""

HOW_TO_FIND = '; on_error="warn" finds out which of them fail'
"""Said of a batch whose rows were not tried one by one."""

# Batches taken ahead, for each thread: one in the making and one that waits to be handed over.
AHEAD = 2


class ErrorPolicy:
    """What becomes of rows that a transform fails on.

    Args:
        on_error: ``"raise"`` raises. ``"skip"`` leaves the rows out, ``"warn"`` says so in the
            log too, a function does if it answers true to the exception. ``"fill"`` puts
            something in their place.
        error_value: With ``"fill"``, what the transform would have made of a batch of one such
            row: ``[None]``, ``{"x": torch.zeros(1, 3)}``. A deep copy is put in.
        repair: With ``"fill"``, instead of a value: called with the exception and the batch of
            one row, gives what the transform would have. Of a batch without rows, which ranks
            may have for the sake of equal steps, it gets that; rows that it gives are left off.

    Raises:
        ValueError: If there is no such policy, or its options do not fit.
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
            message = f'on_error={on_error!r}: wanted "raise", "skip", "warn", "fill" or a function'
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
                f"`error_value` has {num_rows_of(error_value)} rows: pass what the transform "
                "returns for a batch of one row"
            )
            raise ValueError(message)
        self.on_error = on_error
        self.error_value = error_value
        self.repair = repair

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of 0.1.0 have another name for it.
        if "fill_value" in state:
            state = {**state, "error_value": state["fill_value"]}
            del state["fill_value"]
        self.__dict__.update(state)

    def forgives(self, error: Exception) -> bool:
        """Whether to go on without the rows, or with others in their place."""
        if callable(self.on_error):
            return bool(self.on_error(error))
        return self.on_error != "raise"

    def filler(self, error: Exception, row: Any) -> Any:
        """Give what stands in the place of a row."""
        if self.repair is not None:
            return self.repair(error, row)
        return copy.deepcopy(self.error_value)


def one_row_batches(batch: Any) -> Iterator[Any]:
    """Give the rows of a batch as Arrow batches of one row. No copy, if the batch owns its rows."""
    whole = as_arrow(batch)
    return (whole.slice(at, 1) for at in range(whole.num_rows))


def as_arrow(batch: Any) -> Any:
    """Give a batch of the core as an Arrow batch, and any other as it is."""
    import pyarrow as pa

    if isinstance(batch, _native.Batch):
        return pa.record_batch(batch if batch.is_owned else batch.to_owned())
    return batch


def transformed(
    batches: Iterable[Any],
    call: Callable[[Any], Any],
    *,
    threads: int,
    policy: ErrorPolicy | None = None,
    timeout: float | None = None,
    counts: TransformCounts | None = None,
    first: int = 0,
    stride: int = 1,
    places: Callable[[int], RowLocation] | None = None,
    num_bytes: Callable[[Any], int] = lambda _: 0,
    most_bytes: int = 0,
    num_rows: Callable[[Any], int] = attrgetter("num_rows"),
    one_row_batches: Callable[[Any], Iterable[Any]] = one_row_batches,
) -> Transformed:
    """Call a function with each batch, in threads, and give what it makes, in order.

    At most ``2 * threads`` batches are under way, and of those of more than ``most_bytes``
    together only one. Nothing begins before the first ``next``;
    closing or dropping the iterator ends it. A call that hangs neither keeps Ctrl-C from
    working nor the program from exiting.

    Under a policy other than ``"raise"``, a batch that the function fails on is tried again row
    by row, and the good rows are joined. Then there must be one output row per input row; the
    function must not have changed the batch before it failed. Only ``Exception`` is ever
    forgiven. A batch all of whose rows are left out is not handed over: it is counted and
    logged. That is the one thing that changes the number of batches, so ranks that must take
    equal steps want ``"fill"``.

    Args:
        batches: What to call with.
        call: Called from several threads at once, if there are.
        threads: Their number. 0 calls in the thread that asks.
        policy: What becomes of rows that fail; by default ``ErrorPolicy("raise")``.
        timeout: Seconds for one batch. One that takes longer when it is wanted ends the iteration;
            its thread is left behind.
        counts: Where to count.
        first: The number of the first batch, for messages.
        stride: From the number of a batch to that of the next.
        places: Gives the place of a batch, counted from 0, for messages; by default its number.
        num_bytes: Gives the size of a batch that was just taken.
        most_bytes: What batches under way may have together.
        num_rows: Counts the rows of a batch.
        one_row_batches: Takes a batch apart.

    Returns:
        An iterator that several threads may ask. It raises what the function raises, with its
        traceback and a note that names the batch and its rows, or the row if it was called with
        that alone; a ``StopIteration`` as ``RuntimeError``; ``ValueError`` if there is not one
        output row per input row; ``TimeoutError``. Any of these ends it.

    Raises:
        ValueError: If a number is out of range, or a timeout is given without threads.
    """
    if index(threads) < 0:
        message = f"{threads} threads: wanted 0 or more"
        raise ValueError(message)
    if timeout is not None and not (timeout > 0 and threads):
        message = (
            f"timeout={timeout!r} with {threads} threads: wanted seconds, and a thread"
        )
        raise ValueError(message)
    if places is None:

        def places(number: int) -> RowLocation:
            return RowLocation(f"batch {first + number * stride}")

    policy = policy or ErrorPolicy()
    stage = _Stage(call, policy, num_rows, one_row_batches, timeout, places)
    results = OrderedMap(
        _Numbered(batches),
        stage.outcome,
        threads=threads,
        ahead=AHEAD * threads,
        timeout=timeout,
        late=lambda number, item: stage.late(first + number * stride, item[1]),
        weigh=lambda item: num_bytes(item[1]),
        most=most_bytes,
        name="lanceloader-transform",
    )
    return Transformed(results, counts or TransformCounts())


class _Numbered:
    """Batches, each with its number; ``enumerate`` would hold on to the last one."""

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


class Transformed:
    """Batches as they were transformed; ``transformed`` makes one.

    Attributes:
        counts: What was done so far.
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
                outcome.rows_skipped,
                outcome.rows_filled,
                int(outcome.is_empty),
                outcome.seconds,
            )
            outcome.log()
            if not outcome.is_empty:
                return outcome.value

    @property
    def num_ready(self) -> int:
        """Batches that were made and not handed over."""
        return self._results.num_ready

    def close(self) -> None:
        """End it; calls that run are not waited for."""
        self._results.close()


class _Outcome:
    """What became of one batch."""

    __slots__ = (
        *("does_warn", "error", "failed", "is_empty", "num_rows", "place"),
        *("rows_filled", "rows_skipped", "seconds", "value"),
    )

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.num_rows = 0
        self.rows_skipped = 0
        self.rows_filled = 0
        self.is_empty = False
        self.does_warn = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self.failed: list[int] = []
        """The places in the batch of rows that failed."""
        self.place: RowLocation | None = None

    def log(self) -> None:
        if self.place is None:
            return
        level = logging.WARNING if self.is_empty or self.does_warn else logging.INFO
        if not logger.isEnabledFor(level):
            return
        where = self.place.batch
        if self.failed:
            where = f"{self.place.rows(self.failed)}, in {where}"
        if self.is_empty and not self.num_rows:
            logger.log(
                level,
                "A batch without rows is left out: the transform failed on it (%r): %s",
                self.error,
                where,
            )
        elif self.is_empty:
            logger.log(
                level,
                "A batch is left out: the transform failed on all its %d rows (first error: %r): %s",
                self.num_rows,
                self.error,
                where,
            )
        else:
            logger.log(
                level,
                "%s %d of %d rows whose transform failed (first error: %r): %s",
                "Filled" if self.rows_filled else "Skipped",
                len(self.failed),
                self.num_rows,
                self.error,
                where,
            )


class _Stage:
    """What is done with one batch, in a thread."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        policy: ErrorPolicy,
        num_rows: Callable[[Any], int],
        one_row_batches: Callable[[Any], Iterable[Any]],
        timeout: float | None,
        places: Callable[[int], RowLocation],
    ) -> None:
        self.call = call
        self.places = places
        self.policy = policy
        self.num_rows = num_rows
        self.one_row_batches = one_row_batches
        self.timeout = timeout

    def late(self, number: int, batch: Any) -> str:
        rows = ""
        # Whatever was given to count them: being late is what must be told.
        with contextlib.suppress(Exception):
            rows = f" of {self.num_rows(batch)} rows"
        return f"batch {number}{rows}: the transform was not done in {self.timeout:g} s"

    def outcome(self, item: tuple[int, Any]) -> _Outcome:
        number, batch = item
        started = time.perf_counter()
        if self.policy.on_error == "raise":
            try:
                outcome = _Outcome(self.call(batch))
            except Exception as error:
                self.note(error, batch, self.places(number), HOW_TO_FIND)
                raise
        else:
            outcome = self.forgiving(batch, number)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def note(
        self, error: Exception, batch: Any, place: RowLocation, more: str = ""
    ) -> None:
        # Whatever was given to count rows: the error is what must be told.
        with contextlib.suppress(Exception):
            num_rows = self.num_rows(batch)
            place.note(error, num_rows, more if num_rows > 1 else "")

    def forgiving(self, batch: Any, number: int) -> _Outcome:
        try:
            value = self.call(batch)
        except Exception as error:
            where = self.places(number)
            self.note(error, batch, where)
            if not self.policy.forgives(error):
                raise
            if self.num_rows(batch) == 0:
                return self.without_rows(batch, error, where)
        else:
            check_rows(value, self.num_rows(batch), "the transform")
            return _Outcome(value)
        return self.row_by_row(batch, where)

    def without_rows(
        self, batch: Any, error: Exception, place: RowLocation
    ) -> _Outcome:
        """Give a batch without rows: other ranks have one with rows, and take the step together."""
        if self.policy.on_error == "fill":
            return _Outcome(emptied(self.policy.filler(error, as_arrow(batch))))
        outcome = _Outcome()
        outcome.place = place
        outcome.is_empty = True
        outcome.error = error.with_traceback(None)
        return outcome

    def row_by_row(self, batch: Any, place: RowLocation) -> _Outcome:
        outcome = _Outcome()
        outcome.does_warn = self.policy.on_error == "warn"
        parts = []
        for at, row in enumerate(self.one_row_batches(batch)):
            outcome.num_rows += 1
            try:
                part = self.call(row)
            except Exception as error:
                place.note_row(error, at)
                outcome.failed.append(at)
                outcome.place = place
                if not self.policy.forgives(error):
                    raise
                outcome.error = outcome.error or error
                if self.policy.on_error != "fill":
                    outcome.rows_skipped += 1
                    continue
                part, by = self.policy.filler(error, row), "what is filled in"
                outcome.rows_filled += 1
            else:
                by = "the transform"
            check_rows(part, 1, by)
            parts.append(part)
        outcome.is_empty = not parts
        if parts:
            outcome.value = joined(parts)
        if outcome.error is not None:
            # Its frames hold the batch, and whoever keeps the log must not keep that.
            outcome.error = outcome.error.with_traceback(None)
        return outcome


def check_rows(value: Any, wanted: int, by: str) -> None:
    """Refuse what has too few rows, or too many.

    Raises:
        ValueError: If there is not one output row per input row.
    """
    found = num_rows_of(value)
    if found != wanted:
        message = (
            f"{by} has {found} rows for a batch of {wanted}: wanted one output row per input "
            "row; to leave a row out, raise"
        )
        raise ValueError(message)
