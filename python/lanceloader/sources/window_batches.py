"""``WindowBatches``: windows in batches, each joined from what is read at its sets of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lanceloader import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["WindowBatches"]


class WindowBatches:
    """An iterator over windows in batches, which are read ahead.

    Args:
        loads: The batches of each set of steps.
        cuts: Where each batch of windows begins and ends.
        join: Returns a batch of windows, given those of each set of steps, its start and its end.
    """

    def __init__(
        self,
        loads: Sequence[Iterator[Any]],
        cuts: Iterable[tuple[int, int]],
        join: Callable[[Sequence[Any], int, int], Any],
    ) -> None:
        self._loads = loads
        self._batches = (
            join(batches, start, stop)
            for (start, stop), *batches in zip(cuts, *loads, strict=True)
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def watches(self) -> list[_native.Watch] | None:
        """Return the counters of each set of steps; ``None`` if the table's own library reads one."""
        found = [load for load in self._loads if isinstance(load, _native.Loader)]
        return (
            [load.watch() for load in found] if len(found) == len(self._loads) else None
        )
