"""The arithmetic of each epoch of a mixture: which row of which source stands where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader.mixing.weights import Stages

__all__ = ["Epochs"]

MOST_EPOCHS = 4
"""Epochs that are kept: the one that is served, the next, and the first."""


class Epochs:
    """The epochs of a mixture, made when they are asked for.

    Copies and threads may share it: what it keeps is the same, whoever made it.
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
        """Describe a mixture.

        Args:
            sizes: Rows of each source.
            groups: For each source, a number; those with equal ones are read together.
            stages: Weights, and the row of the training from which on they hold.
            stop: As for ``mix``.
            is_linear: Whether weights go over into the next ones.
        """
        self._sizes = sizes
        self._groups = groups
        self._stages = stages
        self._stop = stop
        self._is_linear = is_linear
        self._mixes: dict[int, Mix] = {}
        self._starts = {0: 0}

    def of(self, epoch: int | None) -> Mix:
        """Give an epoch; without a number it is the first."""
        first_row = self._first_row(epoch or 0)
        found = self._mixes.get(first_row)
        if found is None:
            found = self._from_row(first_row)
            # Never changed, as threads read it meanwhile.
            kept = list(self._mixes.items())[1 - MOST_EPOCHS :]
            self._mixes = dict([*kept, (first_row, found)])
        return found

    def _from_row(self, first_row: int) -> Mix:
        """Make the epoch that begins with this row of the training."""
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
        """Give the row of the training that an epoch begins with.

        No later than that of the last weights: from there on all epochs are the same.
        """
        last = self._stages[-1][0]
        if isinstance(self._stop, int):
            return min(last, epoch * self._stop)
        starts = self._starts
        known = min(epoch, len(starts) - 1)
        while known < epoch and starts[known] < last:
            rows = self._from_row(starts[known]).num_rows
            # Threads that come by at the same time write the same.
            starts[known + 1] = min(last, starts[known] + rows)
            known += 1
        return starts[known]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mixes": {}}
