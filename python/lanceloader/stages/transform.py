"""The transform stage: calls a function with each batch, in threads and in order."""

from __future__ import annotations

from operator import attrgetter, index
from typing import TYPE_CHECKING, Any, Self

from lanceloader.locations import RowLocation
from lanceloader.monitor.transform_counts import TransformCounts
from lanceloader.stages.batch_transform import BatchTransform, one_row_batches
from lanceloader.stages.error_policy import UNSET, ErrorPolicy, OnError
from lanceloader.stages.ordered_map import OrderedMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lanceloader.randomness import RowKeys
    from lanceloader.stages.batch_transform import Outcome

__all__ = [
    "UNSET",
    "ErrorPolicy",
    "OnError",
    "one_row_batches",
    "transformed",
]

# Batches in flight per thread: one that is being transformed, and a finished one.
AHEAD = 2


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
    row, and must not modify its argument before it raises. The policy only applies to subclasses of
    ``Exception``. A batch whose rows are all dropped is not yielded, but counted and logged; the number of
    batches may then differ between ranks, so ranks that must take the same number of steps need
    ``"fill"``.

    Args:
        batches: The batches.
        call: The function, which several threads may call at the same time.
        threads: The number of threads. With 0, the thread that calls ``next`` calls the function.
        policy: What to do with rows for which the function raises; by default the error is raised.
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
    stage = BatchTransform(
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
        self, results: OrderedMap[Any, Outcome], counts: TransformCounts
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
