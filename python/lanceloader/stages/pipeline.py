"""``BatchPipeline``: the stages of a batch, which are format, transform, collate and copy."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader._extras import need
from lanceloader._native import Reader
from lanceloader.choices import check_function
from lanceloader.drawing.functions import drawing
from lanceloader.formats import name_of
from lanceloader.formats.functions import decodes, draws, steps_of
from lanceloader.locations import num_rows_of
from lanceloader.numbers import count
from lanceloader.randomness import takes_rng
from lanceloader.stages.error_policy import ErrorPolicy
from lanceloader.stages.transform import transformed
from lanceloader.stop_iteration import as_runtime_error, without_stop_iteration
from lanceloader.transport.buffered import BUFFERED, buffering
from lanceloader.world import num_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lanceloader._typing import Format
    from lanceloader.locations import RowLocation
    from lanceloader.monitor.counted_batches import CountedBatches
    from lanceloader.monitor.metrics import Metrics
    from lanceloader.randomness import RowKeys
    from lanceloader.units.base import Units
    from lanceloader.units.locations import BatchLocations

__all__ = ["BatchPipeline", "num_cpus"]

clock = time.perf_counter_ns


MOST_IN_PLACE = 30 << 20
"""The most bytes of a batch whose memory another process is sent: its buffers are a little larger, and those of
more than 32 MiB are not used again."""

MOST_BYTES = 1 << 30
"""The most bytes of raw batches in transforms, without a ``memory_limit``."""


def most_bytes_of(units: Units) -> int:
    """Return the most bytes of raw batches in transforms: half of ``memory_limit``."""
    limit = units.view.read_options.for_native()["memory_limit"]
    return MOST_BYTES if limit is None else int(limit) // 2


def check_device(device: Any) -> None:
    """Check that torch knows a device; whether this process has it shows in the first batch.

    Raises:
        ValueError: If torch does not know it.
    """
    import torch

    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        message = f'`device` must be a device of torch, such as "cuda:0", got {device!r}: {reason}'
        raise ValueError(message) from error


@dataclass(frozen=True)
class BatchPipeline:
    """The stages that a raw batch passes through; see ``Permutation.loader``.

    Attributes:
        transform: The user's function of a batch in its format.
        threads: The number of threads that call it; with 0, the consumer's thread does.
        policy: What to do with rows for which it raises.
        timeout: The most seconds for one batch.
        collate: The user's function of the result of the transform.
        pin_memory: Whether tensors are copied to pinned memory.
        device: The device that tensors are copied to, or ``None``.
        convert: Called with raw batches in place of the conversion to the format, or ``None``.
    """

    transform: Callable[[Any], Any] | None = None
    threads: int = 0
    policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    timeout: float | None = None
    collate: Callable[[Any], Any] | None = None
    pin_memory: bool = False
    device: Any = None
    convert: Callable[[Any], Any] | None = None

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
        decodes: bool = False,
    ) -> Self:
        """Return a pipeline of checked arguments; see ``Permutation.loader``.

        Raises:
            ImportError: If ``device`` or ``pin_memory`` is passed and torch is not installed.
            TypeError: If a function is not callable, or a number is of the wrong type.
            ValueError: If an option has no effect without a transform; or if the timeout is not
                positive, or is passed without threads.
        """
        check_function("transform", transform)
        check_function("collate", collate)
        if not (decodes or transform) and (
            policy.on_error != "raise" or timeout is not None
        ):
            raise ValueError(
                "`on_error` and `transform_timeout` have no effect without a transform: pass "
                "`transform`, too, or `decode`"
            )
        if threads is None:
            num_threads = num_cpus() if transform or decodes else 0
        else:
            num_threads = count(threads, "transform_threads")
        if timeout is not None and not isinstance(timeout, Real):
            message = (
                f"`transform_timeout` must be a number of seconds, not {timeout!r}"
            )
            raise TypeError(message)
        if device is not None or pin_memory:
            need("torch", "pin_memory=True" if device is None else f"device={device!r}")
        if device is not None:
            check_device(device)
        if timeout is not None and not (timeout > 0 and num_threads):
            message = (
                f"`transform_timeout`={timeout!r} with `transform_threads`={num_threads} is not "
                "supported: pass seconds above 0 and at least one thread, as only a thread can be "
                "abandoned"
            )
            raise ValueError(message)
        return cls(transform, num_threads, policy, timeout, collate, pin_memory, device)

    @property
    def by_row(self) -> bool:
        """Whether batches may be split into rows, to find those for which a transform raises."""
        return self.policy.on_error != "raise"

    @property
    def draws(self) -> bool:
        """Whether the transform has a parameter ``rng``, from which it draws random numbers."""
        return takes_rng(self.transform)

    @property
    def _is_called(self) -> bool:
        """Whether the transform stage is needed: there is a transform, or threads convert batches."""
        return self.transform is not None or self.threads > 0

    def sends_in_place(self, units: Units, batch_size: int) -> bool:
        """Return whether another process may be sent the memory of the batches, and not a copy.

        It may if no function of the user is called with them, which might keep them. Very large batches
        are copied: to fill fresh shared memory costs more than to copy to memory that was used before.
        """
        if not self._only_converts(units):
            return False
        reader = units.view.open_reader()
        if not isinstance(reader, Reader):
            return False
        return reader.choice().row_bytes * batch_size <= MOST_IN_PLACE

    def for_sending(
        self, units: Units, formats: Sequence[Format] = BUFFERED
    ) -> BatchPipeline:
        """Return the stages of a process that sends its batches, which are made where they arrive.

        Args:
            units: The units of the batches.
            formats: The formats of which batches may be made there.
        """
        if not self._only_converts(units) or self.threads:
            return self
        convert = buffering(units.view, units.convert, formats)
        return self if convert is None else replace(self, convert=convert)

    def _only_converts(self, units: Units) -> bool:
        """Return whether batches are only converted to a format, without functions of the user."""
        transform = units.view.transform_fn
        is_format = name_of(transform) is not None and not steps_of(transform)
        return is_format and self.transform is None and self.collate is None

    def run(
        self,
        raw: CountedBatches,
        units: Units,
        metrics: Metrics,
        locations: BatchLocations,
        first: int,
        stride: int = 1,
    ) -> Iterator[Any]:
        """Return finished batches, in order.

        Args:
            raw: The raw batches.
            units: The units of these batches.
            metrics: The counters of the iteration.
            locations: The locations of the batches, counted from 0, for messages and for random
                transforms.
            first: The number of the first batch, for messages.
            stride: The difference between the numbers of a batch and the next one.
        """
        steps = units.view.transform_fn
        if not (self._is_called or decodes(steps) or draws(steps)):
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
                locations=locations,
                row_keys=locations.row_keys if self.draws or draws(steps) else None,
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
            # Copies made in the thread of the consumer wait in no queue.
            if getattr(values, "runs_ahead", False):
                metrics.watch_queue(values)
        return values

    def without_copies(self) -> BatchPipeline:
        """Return the stages that another process can run: all except the copies."""
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
        convert, collate = self.convert or units.convert, self.collate
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
            # The core reuses the memory of a raw batch once it is dropped.
            del batch
            yield value

    def _call(self, units: Units, metrics: Metrics) -> Callable[..., Any]:
        """Return the function of a raw batch that threads call: convert, transform and collate.

        If the transform, a function of ``map`` or the decoding draws, the second argument is what it draws from.
        """
        convert = metrics.timed("format", units.convert)
        converts_with_keys = draws(units.view.transform_fn)
        transforms_with_keys = self.draws
        transform = collate = None
        if self.transform is not None:
            function = drawing(self.transform, "transform")
            transform = metrics.timed("transform", returning(function))
        if self.collate is not None and not self.by_row:
            collate = metrics.timed("format", self.collate, "collate")

        def call(raw: Any, *keys: RowKeys) -> Any:
            value = convert(raw, *keys) if converts_with_keys else convert(raw)
            if transform is not None:
                given = keys if transforms_with_keys else ()
                value = transform(value, *given)
            return value if collate is None else collate(value)

        return call


def returning(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``transform``, and warns if it returns nothing."""

    def call(batch: Any, *keys: RowKeys) -> Any:
        value = transform(batch, *keys)
        if value is None:
            message = (
                "`transform` returned None, which the loader yields in place of the batch: "
                "return the batch"
            )
            warnings.warn(message, stacklevel=2)
        return value

    return call
