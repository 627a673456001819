"""``Cursor``: the checkpoint of a loader, and the start of its next iteration.

=================  ==========================================================================
event              effect
=================  ==========================================================================
``set_epoch``      The next iteration starts with this epoch, unless its start is in it already.
``jump``           The next iteration starts at a checkpoint, and no iteration leads.
``resume``         As ``jump``, after the epoch was set to the first epoch of the checkpoint.
``request``        A new iteration takes its start from the cursor, and leads.
``start``          The iteration reads its start again, as ``set_epoch`` may follow ``iter()``.
``advance``        The checkpoint moves past a step of an epoch, if the iteration leads.
``finish``         The checkpoint moves past an epoch, or to the epoch that was set meanwhile.
=================  ==========================================================================

The leading iteration is the one requested last, until a jump. The others yield their batches and do
not move the checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lanceloader.loader.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lanceloader.loader.checkpoint import EpochProgress

__all__ = ["Cursor"]


class Cursor:
    """The checkpoint of a loader, and the start of its next iteration.

    Attributes:
        num_epochs: The number of epochs of one iteration; ``None`` never ends.
        epoch: The epoch that was set, or ``None`` for the order of the permutation itself.
        next_start: The start of the next iteration.
        is_advancing: Whether the epoch was set to the one after the previous epoch.
    """

    def __init__(self, num_epochs: int | None) -> None:
        self.num_epochs = num_epochs
        self.epoch: int | None = None
        self.is_advancing = False
        self.next_start = self.first()
        self._place: Checkpoint | tuple[EpochProgress, int] = self.next_start
        """A checkpoint, or the steps done of an epoch. One value, as threads read it meanwhile."""
        self._num_requests = 0
        self._leader = 0
        """The number of the leading iteration, or 0."""
        self._unstarted = 0
        """The number of the iteration requested last, or 0 once it has started."""
        self._is_epoch_new = False
        """Whether another epoch was set since the last request."""
        self._is_jump = False
        """Whether the next iteration starts at a checkpoint that was set."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint after the last batch that the leading iteration yielded."""
        place = self._place
        if isinstance(place, Checkpoint):
            return place
        # Computed on demand, as batches are more frequent than checkpoints.
        progress, num_steps = place
        return progress.after(num_steps)

    @checkpoint.setter
    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self._place = checkpoint

    @property
    def has_numbered_epochs(self) -> bool:
        """Whether an iteration has a fixed number of epochs above 1, which are numbered."""
        return self.num_epochs not in (1, None)

    @property
    def first_epoch(self) -> int:
        """The first epoch of an iteration of several epochs."""
        return self.epoch or 0

    def first(self) -> Checkpoint:
        """Return the checkpoint at the start of the epoch that was set."""
        first = self.first_epoch if self.has_numbered_epochs else None
        return Checkpoint(self.epoch, 0, first=first)

    def covers(self, epoch: int | None) -> bool:
        """Return whether the next iteration includes an epoch."""
        if self.num_epochs == 1 or epoch is None:
            return epoch == self.epoch
        first = self.first_epoch
        return epoch >= first and (
            self.num_epochs is None or epoch < first + self.num_epochs
        )

    def following(self, epoch: int | None) -> int | None:
        """Return the epoch that will probably be read after ``epoch``, or ``None``."""
        if self.num_epochs == 1:
            return self.first_epoch + 1 if self.is_advancing else None
        following = None if epoch is None else epoch + 1
        return following if self.covers(following) else None

    def set_epoch(self, epoch: int | None) -> None:
        """Start the next iteration with an epoch, unless a jump led into one of its epochs."""
        self.renumber(epoch)
        before, first = self.next_start, self.first()
        is_there = self._is_jump or before.epoch == first.epoch
        if is_there and self.covers(before.epoch):
            self.next_start = replace(before, first=first.first)
            if self.checkpoint == before:
                self.checkpoint = self.next_start
            return
        self.next_start = self.checkpoint = first
        self._is_epoch_new, self._is_jump = True, False

    def renumber(self, epoch: int | None) -> None:
        """Set the epoch without changing the start of the next iteration."""
        before, self.epoch = self.epoch, epoch
        self.is_advancing = before is not None and epoch == before + 1

    def jump(self, checkpoint: Checkpoint) -> None:
        """Start the next iteration at a checkpoint."""
        self.next_start = self.checkpoint = checkpoint
        self._leader = 0
        self._is_epoch_new, self._is_jump = False, True

    def resume(self, checkpoint: Checkpoint) -> None:
        """Start the next iteration at the checkpoint of a state, and restore its first epoch."""
        if self.num_epochs == 1:
            self.renumber(checkpoint.epoch)
        elif checkpoint.first is not None:
            self.renumber(checkpoint.first)
        if not self.has_numbered_epochs:
            checkpoint = replace(checkpoint, first=None)
        self.jump(checkpoint)

    def request(self) -> tuple[int, Checkpoint]:
        """Return the number of a new iteration, which leads, and its start."""
        self._num_requests += 1
        number = self._leader = self._unstarted = self._num_requests
        return number, self._take()

    def start(self, number: int, requested: Checkpoint) -> Checkpoint:
        """Return the start of an iteration when its first batch is requested.

        Args:
            number: The number of the iteration.
            requested: Its start according to ``request``.
        """
        if self._unstarted != number:
            return requested
        self._unstarted = 0
        if self._leader == number and not self._is_epoch_new:
            return requested
        self._leader = number
        return self._take()

    def advance(self, number: int, progress: EpochProgress, num_steps: int) -> None:
        """Move the checkpoint past some steps of an epoch, if this iteration leads."""
        if self._leader == number:
            self._place = progress, num_steps

    def move(self, number: int, checkpoint: Checkpoint) -> None:
        """Move the checkpoint, if this iteration leads."""
        if self._leader == number:
            self.checkpoint = checkpoint

    def finish(self, number: int, checkpoint: Checkpoint) -> None:
        """Move the checkpoint past an epoch, or to the epoch that was set meanwhile."""
        self.move(number, self.next_start if self._is_epoch_new else checkpoint)

    def _take(self) -> Checkpoint:
        taken, self.next_start = self.next_start, self.first()
        self.checkpoint = taken
        self._is_epoch_new = self._is_jump = False
        return taken
