"""From raw batches to what a training step takes: format, transform, collate, copy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader._extras import need
from lanceloader.choices import check_function
from lanceloader.numbers import count
from lanceloader.stages.locations import noting
from lanceloader.stages.ordered_map import loud
from lanceloader.stages.transform import ErrorPolicy, transformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.monitor.metrics import CountedBatches, Metrics
    from lanceloader.stages.locations import RowLocation
    from lanceloader.units.rows import Units

__all__ = ["BatchPipeline"]


MOST_BYTES = 1 << 30
"""Raw batches that transforms may hold where no ``memory_limit`` was given."""


def most_bytes_of(served: Units) -> int:
    """Give how many bytes of raw batches transforms may hold: half of what rows may take."""
    limit = served.view._options.for_native()["memory_limit"]
    return MOST_BYTES if limit is None else int(limit) // 2


def num_cpus() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class BatchPipeline:
    """What is done with a raw batch; see ``Permutation.loader``.

    Attributes:
        transform: A function of the user over a batch in its format.
        threads: Threads that run it; 0 runs it in the consumer's.
        policy: What becomes of rows that it fails on.
        timeout: Seconds for one batch.
        collate: A function of the user over what the transform gives.
        pin_memory: Whether tensors are put into pinned memory.
        device: Where tensors are copied to.
    """

    transform: Callable[[Any], Any] | None = None
    threads: int = 0
    policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    timeout: float | None = None
    collate: Callable[[Any], Any] | None = None
    pin_memory: bool = False
    device: Any = None

    @classmethod
    def of(
        cls,
        transform: Callable[[Any], Any] | None,
        threads: SupportsIndex | None,
        policy: ErrorPolicy,
        timeout: float | None,
        collate: Callable[[Any], Any] | None,
        *,
        pin_memory: bool,
        device: Any,
    ) -> Self:
        """Check what a user gave; see ``Permutation.loader``.

        Raises:
            ImportError: If torch is needed, and not installed.
            TypeError: If a function is none, or a number.
            ValueError: If options are given for a transform that is not, or a timeout is no time or
                has no thread to leave behind.
        """
        check_function("transform", transform)
        check_function("collate", collate)
        if transform is None and (policy.on_error != "raise" or timeout is not None):
            raise ValueError(
                "on_error and transform_timeout without a transform: wanted transform= too"
            )
        if threads is None:
            num_threads = 0 if transform is None else num_cpus()
        else:
            num_threads = count(threads, "transform_threads")
        if timeout is not None and not isinstance(timeout, Real):
            message = (
                f"`transform_timeout` must be a number of seconds, not {timeout!r}"
            )
            raise TypeError(message)
        if device is not None or pin_memory:
            need("torch", "pin_memory=True" if device is None else f"device={device!r}")
        if timeout is not None and not (timeout > 0 and num_threads):
            message = (
                f"transform_timeout={timeout!r} with transform_threads={num_threads}: wanted "
                "seconds above 0, and a thread that can be left behind"
            )
            raise ValueError(message)
        return cls(transform, num_threads, policy, timeout, collate, pin_memory, device)

    @property
    def by_row(self) -> bool:
        """Whether batches may have to be taken apart by row."""
        return self.policy.on_error != "raise"

    @property
    def _is_called(self) -> bool:
        """Whether there is something to do in threads, or to forgive."""
        return self.transform is not None or self.threads > 0

    def over(
        self,
        raw: CountedBatches,
        served: Units,
        running: Metrics,
        places: Callable[[int], RowLocation],
        first: int,
        stride: int = 1,
    ) -> Iterator[Any]:
        """Give finished batches, in order.

        Args:
            raw: The batches as they are read.
            served: What they are of.
            running: Counts what is done.
            places: Gives the place of a batch, counted from 0, for messages.
            first: The number of the first one, for messages.
            stride: From the number of a batch to that of the next.
        """
        if not self._is_called:
            convert = noting(loud(self._call(served, running)), places)
            values: Iterator[Any] = map(convert, raw)
        else:
            values = transformed(
                raw,
                self._call(served, running),
                threads=self.threads,
                policy=self.policy,
                timeout=self.timeout,
                counts=running.counts,
                first=first,
                stride=stride,
                places=places,
                num_bytes=lambda _: raw.num_bytes,
                most_bytes=most_bytes_of(served),
            )
            running.transform_threads = self.threads
            running.lined_up(values)
            values = running.in_line(values)
        if self.collate is not None and self.by_row:
            collate = loud(running.timed("format", self.collate, "collate"))
            values = map(collate, values)
        return self.copied(values, running)

    def copied(self, values: Iterator[Any], running: Metrics) -> Iterator[Any]:
        """Give batches in pinned memory or on the device."""
        if self.device is not None or self.pin_memory:
            from lanceloader.stages.device import on_device

            values = on_device(
                values,
                self.device,
                pin_memory=self.pin_memory,
                timed=lambda call: running.timed("copy", call),
            )
            if hasattr(values, "num_ready"):
                running.lined_up(values)
        return values

    def elsewhere(self) -> BatchPipeline:
        """Give what another process can do."""
        return BatchPipeline(
            self.transform, self.threads, self.policy, self.timeout, self.collate
        )

    def _call(self, served: Units, running: Metrics) -> Callable[[Any], Any]:
        steps = [running.timed("format", served.convert)]
        if self.transform is not None:
            steps.append(running.timed("transform", self.transform))
        if self.collate is not None and not self.by_row:
            steps.append(running.timed("format", self.collate, "collate"))
        if len(steps) == 1:
            return steps[0]

        def call(raw: Any) -> Any:
            value = raw
            for step in steps:
                value = step(value)
            return value

        return call
