"""``Headspace``: replays batches from memory, to measure how much a faster loader would gain.

The replayed batches repeat rows, so they are not meant for training.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Headspace", "HeadspaceReport"]

WARM_UP = 5
"""The fraction 1 / ``WARM_UP`` of the batches that are read is a warm-up, which is not timed."""


@dataclass(frozen=True)
class HeadspaceReport:
    """The speed of training with batches of the loader, and with batches from memory.

    Attributes:
        steps_read: The number of steps with batches of the loader, without the warm-up.
        seconds_read: The seconds of these steps.
        steps_replayed: The number of steps with batches from memory.
        seconds_replayed: The seconds of these steps.
    """

    steps_read: int = 0
    seconds_read: float = 0.0
    steps_replayed: int = 0
    seconds_replayed: float = 0.0

    @property
    def steps_per_second(self) -> float:
        """Steps per second with batches of the loader."""
        return self.steps_read / self.seconds_read if self.seconds_read else 0.0

    @property
    def steps_per_second_replayed(self) -> float:
        """Steps per second with batches from memory."""
        seconds = self.seconds_replayed
        return self.steps_replayed / seconds if seconds else 0.0

    @property
    def gain(self) -> float:
        """The largest possible speed-up of training by a faster loader; 0 after too few steps."""
        speed = self.steps_per_second
        return self.steps_per_second_replayed / speed if speed else 0.0

    def __str__(self) -> str:
        if not self.gain:
            return (
                f"{self.steps_read:,} steps read and {self.steps_replayed:,} replayed: "
                "too few to compare"
            )
        lines = [
            f"read      {self.steps_per_second:,.1f} steps/s, {self.steps_read:,} steps",
            f"replayed  {self.steps_per_second_replayed:,.1f} steps/s, "
            f"{self.steps_replayed:,} steps",
        ]
        if self.gain < 1.05:
            lines.append("verdict   a faster loader would not make training faster")
        else:
            lines.append(
                f"verdict   a faster loader could make training at most {self.gain:.2f} times as fast"
            )
        return "\n".join(lines)


class Replayable(Protocol):
    """A loader whose batches can be replayed."""

    @property
    def epochs(self) -> int | None:
        """The number of epochs of an iteration; ``None`` never ends."""

    def num_left(self) -> int:
        """Return the number of batches of the next iteration."""

    def __iter__(self) -> Iterator[Any]:
        """Return a new iteration."""


class Headspace:
    """An iterable over batches of a loader, the last of which are then replayed from memory.

    Made by ``Loader.headspace``. The loader stops reading before batches are replayed. The same
    objects are yielded repeatedly, including tensors on a device, so training must not modify them in
    place. All ranks must use it with the same arguments.
    """

    def __init__(self, loader: Replayable, after: int, keep: int) -> None:
        if after < WARM_UP:
            message = f"`after` must be at least {WARM_UP}, got {after}"
            raise ValueError(message)
        if keep < 1:
            message = f"`keep` must be at least 1, got {keep}"
            raise ValueError(message)
        self._loader = loader
        self._after = after
        self._keep = keep
        self._clock = _Clock(after)

    def __len__(self) -> int:
        """Return the number of batches of the next iteration of the loader.

        Raises:
            TypeError: If the iteration never ends.
        """
        return self._loader.num_left()

    def __iter__(self) -> Iterator[Any]:
        self._clock = clock = _Clock(self._after)
        kept: deque[Any] = deque(maxlen=self._keep)
        num_batches = None if self._loader.epochs is None else len(self)
        batches: Any = iter(self._loader)
        num_read = 0
        try:
            for batch in itertools.islice(batches, self._after):
                num_read += 1
                kept.append(batch)
                yield batch
                clock.end()
        finally:
            # Reading ahead would slow down the steps that are measured.
            batches.close()
        if num_read < self._after:
            return
        replayed: Iterator[Any] = itertools.cycle(kept)
        if num_batches is not None:
            replayed = itertools.islice(replayed, max(0, num_batches - num_read))
        clock.switch()
        for batch in replayed:
            yield batch
            clock.end()

    def report(self) -> HeadspaceReport:
        """Return the speeds in the iteration that was started last, so far."""
        return self._clock.report()


class _Clock:
    """The times of the steps of an iteration, each from one batch to the next."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._num_warm = max(1, after // WARM_UP)
        self._num = 0
        self._begun = self._read = self._switched = self._last = 0.0
        """The ends of the warm-up, of the steps read and of closing the loader, and of the last step."""

    def end(self) -> None:
        """Record the end of a step."""
        self._num += 1
        self._last = time.perf_counter()
        if self._num == self._num_warm:
            self._begun = self._last
        if self._num <= self._after:
            self._read = self._last

    def switch(self) -> None:
        """Record that batches are replayed from now on."""
        self._switched = time.perf_counter()

    def report(self) -> HeadspaceReport:
        if self._num <= self._num_warm:
            return HeadspaceReport()
        steps = min(self._num, self._after) - self._num_warm
        read = HeadspaceReport(steps, self._read - self._begun)
        if self._num <= self._after:
            return read
        replayed = self._num - self._after
        seconds = self._last - self._switched
        return HeadspaceReport(steps, read.seconds_read, replayed, seconds)
