"""The arithmetic of each epoch of a mixture: the source and the row at each position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader.mixing.weights import Stages

__all__ = ["Epochs"]

MOST_EPOCHS = 4
"""The number of epochs to keep, among them the current, the next and the first one."""


class Epochs:
    """The epochs of a mixture, computed on demand.

    Copies and threads may share one instance, as the epochs that it keeps are the same for all.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        groups: Sequence[int],
        stages: Stages,
        stop: int | str,
        *,
        is_linear: bool,
    ) -> None:
        """Compute the epochs of a mixture.

        Args:
            sizes: The number of rows of each source.
            groups: The group of each source; sources of one group are read together.
            stages: Pairs of a row of the training and the weights from this row on.
            stop: The end of an epoch, as for ``mix``.
            is_linear: Whether weights are interpolated linearly between stages.
        """
        self._sizes = sizes
        self._groups = groups
        self._stages = stages
        self._stop = stop
        self._is_linear = is_linear
        self._mixes: dict[int, Mix] = {}
        self._starts = {0: 0}

    def of(self, epoch: int | None) -> Mix:
        """Return an epoch; ``None`` is the first one."""
        first_row = self._first_row(epoch or 0)
        found = self._mixes.get(first_row)
        if found is None:
            found = self._from_row(first_row)
            # Replaced, not modified, as other threads may read the dict.
            kept = list(self._mixes.items())[1 - MOST_EPOCHS :]
            self._mixes = dict([*kept, (first_row, found)])
        return found

    def _from_row(self, first_row: int) -> Mix:
        """Return the epoch that starts with a row of the training."""
        is_number = isinstance(self._stop, int)
        return Mix(
            self._sizes,
            self._groups,
            self._stages,
            linear=self._is_linear,
            first_row=first_row,
            stop="rows" if is_number else str(self._stop),
            rows=int(self._stop) if is_number else 0,
        )

    def _first_row(self, epoch: int) -> int:
        """Return the row of the training that an epoch starts with.

        At most the row of the last weights, from which on all epochs are the same.
        """
        last = self._stages[-1][0]
        if isinstance(self._stop, int):
            return min(last, epoch * self._stop)
        starts = self._starts
        known = min(epoch, len(starts) - 1)
        while known < epoch and starts[known] < last:
            rows = self._from_row(starts[known]).num_rows
            # Threads that run this at the same time write the same value.
            starts[known + 1] = min(last, starts[known] + rows)
            known += 1
        return starts[known]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mixes": {}}
