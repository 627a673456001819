"""``Cursor``: where training stands, and where the next iteration of a loader begins.

=================  ==========================================================================
event              effect
=================  ==========================================================================
``set_epoch``      The next iteration begins with this epoch, unless its place is in it already.
``jump``           The next iteration begins at a checkpoint, and no iteration leads any more.
``request``        An iteration takes the place where it begins, and leads from now on.
``start``          It reads that place again: trainers may call ``set_epoch`` after ``iter()``.
``advance``        Training stands behind a step of an epoch, if that iteration leads.
``finish``         Training stands behind an epoch, or at the one that was set meanwhile.
=================  ==========================================================================

The leading iteration is the one requested last, until a jump. Iterations that do not lead yield
their batches and leave the cursor alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lanceloader.loader.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lanceloader.loader.checkpoint import EpochProgress

__all__ = ["Cursor"]


class Cursor:
    """Where training stands.

    Attributes:
        num_epochs: The epochs of one iteration; ``None`` never ends.
        epoch: The epoch that was set, or ``None`` for that of the permutation.
        next_start: Where the next iteration begins.
        is_advancing: Whether the epoch was set to the one after the epoch before.
    """

    def __init__(self, num_epochs: int | None) -> None:
        self.num_epochs = num_epochs
        self.epoch: int | None = None
        self.is_advancing = False
        self.next_start = self.first()
        self._checkpoint = self.next_start
        self._progress: EpochProgress | None = None
        self._num_steps = 0
        """Training stands behind this many steps of ``_progress``, if there is one."""
        self._num_requests = 0
        self._leader = 0
        """The number of the iteration that leads; 0 if none does."""
        self._unstarted = 0
        """The number of the iteration requested last, until it starts."""
        self._is_epoch_new = False
        """Whether another epoch was set since the last request."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Where training stands."""
        # Computed when it is asked for: batches are many, checkpoints few.
        if self._progress is not None:
            self.checkpoint = self._progress.after(self._num_steps)
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._progress = checkpoint, None

    @property
    def has_numbered_epochs(self) -> bool:
        """Whether an iteration has several epochs, numbered from the first one on."""
        return self.num_epochs not in (1, None)

    @property
    def first_epoch(self) -> int:
        """The first epoch of an iteration of several."""
        return self.epoch or 0

    def first(self) -> Checkpoint:
        """Return the start of the epoch that was set."""
        first = self.first_epoch if self.has_numbered_epochs else None
        return Checkpoint(self.epoch, 0, first=first)

    def covers(self, epoch: int | None) -> bool:
        """Return whether an epoch is one of those of an iteration."""
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
        """Begin the next iteration with an epoch; a place within that epoch is kept."""
        self.renumber(epoch)
        before, first = self.next_start, self.first()
        if self.covers(before.epoch):
            self.next_start = replace(before, first=first.first)
            if self.checkpoint == before:
                self.checkpoint = self.next_start
            return
        self.next_start = self.checkpoint = first
        self._is_epoch_new = True

    def renumber(self, epoch: int | None) -> None:
        """Set the epoch and nothing else."""
        before, self.epoch = self.epoch, epoch
        self.is_advancing = before is not None and epoch == before + 1

    def jump(self, checkpoint: Checkpoint) -> None:
        """Begin the next iteration at a checkpoint."""
        self.next_start = self.checkpoint = checkpoint
        self._leader = 0
        self._is_epoch_new = False

    def request(self) -> tuple[int, Checkpoint]:
        """Return the number of a new iteration, which leads, and where it begins."""
        self._num_requests += 1
        number = self._leader = self._unstarted = self._num_requests
        return number, self._take()

    def lead(self) -> int:
        """Return the number of a new iteration that leads and begins elsewhere than here."""
        self._num_requests += 1
        self._leader = self._num_requests
        return self._leader

    def start(self, number: int, requested: Checkpoint) -> Checkpoint:
        """Return where an iteration begins, as its first batch is requested.

        Args:
            number: The iteration.
            requested: Where it was to begin when it was requested.
        """
        if self._unstarted != number:
            return requested
        self._unstarted = 0
        if self._leader == number and not self._is_epoch_new:
            return requested
        self._leader = number
        return self._take()

    def advance(self, number: int, progress: EpochProgress, num_steps: int) -> None:
        """Move behind some steps of an epoch, if this iteration leads."""
        if self._leader == number:
            self._progress, self._num_steps = progress, num_steps

    def move(self, number: int, checkpoint: Checkpoint) -> None:
        """Move to a checkpoint, if this iteration leads."""
        if self._leader == number:
            self.checkpoint = checkpoint

    def finish(self, number: int, checkpoint: Checkpoint) -> None:
        """Move behind an epoch of an iteration, or to the epoch that was set meanwhile."""
        self.move(number, self.next_start if self._is_epoch_new else checkpoint)

    def _take(self) -> Checkpoint:
        taken, self.next_start = self.next_start, self.first()
        self.checkpoint = taken
        self._is_epoch_new = False
        return taken
