"""From raw batches to what a training step takes: format, transform, collate, copy."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader._extras import need
from lanceloader.choices import check_function
from lanceloader.locations import num_rows_of
from lanceloader.numbers import count
from lanceloader.stages.transform import ErrorPolicy, transformed
from lanceloader.stop_iteration import as_runtime_error, without_stop_iteration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.locations import RowLocation
    from lanceloader.monitor.metrics import CountedBatches, Metrics
    from lanceloader.units.base import Units

__all__ = ["BatchPipeline", "num_cpus"]

clock = time.perf_counter_ns


MOST_BYTES = 1 << 30
"""The bytes of raw batches that transforms may hold where no ``memory_limit`` was given."""


def most_bytes_of(units: Units) -> int:
    """Return how many bytes of raw batches transforms may hold: half of what rows may take."""
    limit = units.view._options.for_native()["memory_limit"]
    return MOST_BYTES if limit is None else int(limit) // 2


def num_cpus() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class BatchPipeline:
    """The stages that a raw batch passes through; see ``Permutation.loader``.

    Attributes:
        transform: The user's function of a batch in its format.
        threads: Threads that call it; 0 calls it in the consumer's thread.
        policy: What is done with rows that it fails on.
        timeout: Seconds that one batch may take.
        collate: The user's function of what the transform returns.
        pin_memory: Whether tensors are put into pinned memory.
        device: The device that tensors are copied to.
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
        """Return the pipeline of a user's arguments; see ``Permutation.loader``.

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
        """Whether batches may have to be split into rows."""
        return self.policy.on_error != "raise"

    @property
    def _is_called(self) -> bool:
        """Whether there is work for threads, or rows to skip."""
        return self.transform is not None or self.threads > 0

    def run(
        self,
        raw: CountedBatches,
        units: Units,
        metrics: Metrics,
        locations: Callable[[int], RowLocation],
        first: int,
        stride: int = 1,
    ) -> Iterator[Any]:
        """Return finished batches, in order.

        Args:
            raw: The batches as they are read.
            units: The units that they hold.
            metrics: Counts what is done.
            locations: Returns the location of a batch, counted from 0, for messages.
            first: The number of the first batch, for messages.
            stride: The step from the number of a batch to that of the next.
        """
        if not self._is_called:
            values = self._converted(raw, units, metrics, locations)
        else:
            transformed_batches = transformed(
                raw,
                self._call(units, metrics),
                threads=self.threads,
                policy=self.policy,
                timeout=self.timeout,
                counts=metrics.counts,
                first=first,
                stride=stride,
                places=locations,
                num_bytes=lambda _: raw.num_bytes,
                most_bytes=most_bytes_of(units),
            )
            metrics.transform_threads = self.threads
            metrics.watch_queue(transformed_batches)
            values = metrics.note_skips(transformed_batches)
        if self.collate is not None and self.by_row:
            collate = metrics.timed("format", self.collate, "collate")
            values = map(without_stop_iteration(collate), values)
        return self.copied(values, metrics)

    def copied(self, values: Iterator[Any], metrics: Metrics) -> Iterator[Any]:
        """Return batches in pinned memory or on the device."""
        if self.device is not None or self.pin_memory:
            from lanceloader.stages.device import on_device

            values = on_device(
                values,
                self.device,
                pin_memory=self.pin_memory,
                timed=lambda call: metrics.timed("copy", call),
            )
            if hasattr(values, "num_ready"):
                metrics.watch_queue(values)
        return values

    def without_copies(self) -> BatchPipeline:
        """Return the stages that another process can run: all but the copies."""
        return BatchPipeline(
            self.transform, self.threads, self.policy, self.timeout, self.collate
        )

    def _converted(
        self,
        raw: CountedBatches,
        units: Units,
        metrics: Metrics,
        locations: Callable[[int], RowLocation],
    ) -> Iterator[Any]:
        """Convert and collate batches in the thread of the consumer."""
        convert, collate = units.convert, self.collate
        number = -1
        for batch in raw:
            number += 1
            start = clock()
            try:
                value = convert(batch)
                metrics.spend("format", start, clock() - start)
                if collate is not None:
                    start = clock()
                    value = collate(value)
                    metrics.spend("format", start, clock() - start, "collate")
            except (Exception, GeneratorExit) as error:
                raised = as_runtime_error(error)
                locations(number).note(raised, num_rows_of(batch))
                if raised is error:
                    raise
                raise raised from error
            # The memory of the raw batch is used again once nothing refers to it.
            del batch
            yield value

    def _call(self, units: Units, metrics: Metrics) -> Callable[[Any], Any]:
        """Return the function that threads call with a raw batch."""
        steps = [metrics.timed("format", units.convert)]
        if self.transform is not None:
            steps.append(metrics.timed("transform", self.transform))
        if self.collate is not None and not self.by_row:
            steps.append(metrics.timed("format", self.collate, "collate"))
        if len(steps) == 1:
            return steps[0]

        def call(raw: Any) -> Any:
            value = raw
            for step in steps:
                value = step(value)
            return value

        return call
