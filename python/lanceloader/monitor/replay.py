"""What a loader could give at most: batches that are in memory already, served again and again.

Nothing to train with: rows are repeated. It answers one question, whether a faster loader would
make training faster, and by how much.
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
"""One in so many of the batches that are read is not timed, as training warms up."""


@dataclass(frozen=True)
class HeadspaceReport:
    """How fast training was with batches as they are read, and with batches from memory.

    Attributes:
        steps_read: Steps with batches as they are read, without those of the warm-up.
        seconds_read: What they took.
        steps_replayed: Steps with batches from memory.
        seconds_replayed: What they took.
    """

    steps_read: int = 0
    seconds_read: float = 0.0
    steps_replayed: int = 0
    seconds_replayed: float = 0.0

    @property
    def steps_per_second(self) -> float:
        """Steps per second with batches as they are read."""
        return self.steps_read / self.seconds_read if self.seconds_read else 0.0

    @property
    def steps_per_second_replayed(self) -> float:
        """Steps per second with batches from memory."""
        seconds = self.seconds_replayed
        return self.steps_replayed / seconds if seconds else 0.0

    @property
    def gain(self) -> float:
        """How many times as fast training could be, at most; 0 if there were too few steps."""
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
            lines.append("verdict   a faster loader would gain nothing worth it")
        else:
            lines.append(
                f"verdict   no loader could make this more than {self.gain:.2f} times as fast"
            )
        return "\n".join(lines)


class Replayable(Protocol):
    """A loader, as far as a replay knows it."""

    @property
    def epochs(self) -> int | None:
        """The number of epochs of an iteration; ``None`` never ends."""

    def num_left(self) -> int:
        """Return the number of batches of the next iteration."""

    def __iter__(self) -> Iterator[Any]:
        """Return a new iteration."""


class Headspace:
    """The batches of a loader, after some of which the last ones are served again and again.

    ``Loader.headspace`` makes one. As soon as batches are replayed, the loader reads no more.
    The same objects are served, tensors on a device too, so training must not change them in
    place. Of all ranks, each must do the same.
    """

    def __init__(self, loader: Replayable, after: int, keep: int) -> None:
        if after < WARM_UP:
            message = f"after={after}: wanted at least {WARM_UP} batches"
            raise ValueError(message)
        if keep < 1:
            message = f"keep={keep}: wanted at least 1 batch"
            raise ValueError(message)
        self._loader = loader
        self._after = after
        self._keep = keep
        self._clock = _Clock(after)

    def __len__(self) -> int:
        """The number of batches that the next iteration of the loader gives.

        Raises:
            TypeError: If it never ends.
        """
        return self._loader.num_left()

    def __iter__(self) -> Iterator[Any]:
        self._clock = clock = _Clock(self._after)
        kept: deque[Any] = deque(maxlen=self._keep)
        wanted = None if self._loader.epochs is None else len(self)
        batches: Any = iter(self._loader)
        num_read = 0
        try:
            for batch in itertools.islice(batches, self._after):
                num_read += 1
                kept.append(batch)
                yield batch
                clock.end()
        finally:
            # Threads that read on would slow down what is to be measured.
            batches.close()
        if num_read < self._after:
            return
        again: Iterator[Any] = itertools.cycle(kept)
        if wanted is not None:
            again = itertools.islice(again, max(0, wanted - num_read))
        clock.switch()
        for batch in again:
            yield batch
            clock.end()

    def report(self) -> HeadspaceReport:
        """Compare steps per second, in the iteration that was begun last, so far."""
        return self._clock.report()


class _Clock:
    """Times the steps of an iteration; a step is from one batch to the next."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._num_warm = max(1, after // WARM_UP)
        self._num = 0
        self._begun = self._read = self._switched = self._last = 0.0
        """When the warm-up, reading, and closing what reads were over, and the last step."""

    def end(self) -> None:
        """A step is over."""
        self._num += 1
        self._last = time.perf_counter()
        if self._num == self._num_warm:
            self._begun = self._last
        if self._num <= self._after:
            self._read = self._last

    def switch(self) -> None:
        """Batches are replayed from now on."""
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
