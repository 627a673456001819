"""Raw batches of a reader: the core's, read ahead, or those of the table's own library."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from lanceloader import _native
from lanceloader.numbers import numbers_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader._native import Order
    from lanceloader.loader.share import Share

__all__ = ["batches_of", "cut_at", "is_external", "stepping_along", "watch_of"]


def batches_of(
    reader: Any, order: Order, size: int | None, after: Order | None = None
) -> Iterator[Any]:
    """Give rows in batches of ``size``, or of the reader's own; ``after`` is loaded next."""
    if isinstance(reader, _native.Reader):
        return reader.load(order, size, False, after)  # noqa: FBT003
    return iter(reader.load(order, size, False))  # noqa: FBT003


def cut_at(
    reader: Any, order: Order, ends: Any, after: Order | None = None
) -> Iterator[Any]:
    """Give rows in batches that end at ``ends``, 64-bit numbers from the core; ``after`` is loaded next."""
    stops = numbers_of(ends)
    if isinstance(reader, _native.Reader):
        return reader.load(order, None, False, after, numpy_of(stops))  # noqa: FBT003
    cuts = pairwise([0, *stops.to_pylist()])
    return (reader.read(order, start, stop) for start, stop in cuts)


def is_external(reader: Any, orders: list[Order]) -> bool:
    """Whether rows go through scratch files, which can be prepared for the next epoch."""
    if not orders or not isinstance(reader, _native.Reader):
        return False
    return reader.strategy(orders[-1]) == "external"


def watch_of(batches: Any) -> Any:
    """Give what counts batches of the core, or ``None`` of others."""
    watch = getattr(batches, "watch", None)
    return None if watch is None else watch()


def stepping_along(
    batches: Iterator[Any], share: Share, reader: Any, order: Order
) -> Iterator[Any]:
    """Add a batch without rows if other ranks have one more: this one takes the step with them."""
    if share.last_size != 0:
        return batches
    return Followed(batches, lambda: reader.read(order, 0, 0))


class Followed:
    """Batches, and one more."""

    def __init__(self, batches: Iterator[Any], last: Callable[[], Any]) -> None:
        self._batches = batches
        self._last: Callable[[], Any] | None = last

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        for batch in self._batches:
            return batch
        last, self._last = self._last, None
        if last is None:
            raise StopIteration
        return last()

    def watch(self) -> Any:
        """Give what counts the batches."""
        return watch_of(self._batches)
