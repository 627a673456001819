"""The batches of workers in the process that trains, where each one advances the cursor."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any

from lanceloader.workers.batches import SkippedBatch
from lanceloader.workers.starting import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.loader.checkpoint import Checkpoint, EpochProgress
    from lanceloader.loader.iteration import Iteration
    from lanceloader.loader.loader import Loader
    from lanceloader.workers.steps import Steps

__all__ = ["received", "received_of_steps"]


def received(
    loader: Loader,
    iteration: Iteration,
    start_workers: Callable[[Checkpoint], Iterator[Any]],
) -> Iterator[Any]:
    """Yield the batches of workers that choose their batches themselves.

    Args:
        loader: The loader of this process.
        iteration: An iteration of it, whose cursor advances.
        start_workers: Starts the workers at a checkpoint, and returns an iterator over what they
            send.

    Raises:
        RuntimeError: If the workers end before their last batch.
    """
    schedule, cursor = iteration.schedule, iteration.cursor
    starts = iteration.starts()
    start = next(starts, None)
    if start is None:
        return
    slots = checked(start_workers(start))
    last, num_yielded = schedule.progress(start), 0

    def steps() -> Iterator[tuple[EpochProgress, int]]:
        nonlocal last, num_yielded
        for begin in itertools.chain([start], starts):
            last, num_yielded = schedule.progress(begin), 0
            for step in range(1, last.num_batches + 1):
                yield last, step
            schedule.check_endless(begin, last.num_batches, num_yielded)

    places = steps()
    # Copies to a device run ahead of the batches that are yielded.
    ahead: deque[tuple[EpochProgress, int]] = deque()

    def batches() -> Iterator[Any]:
        nonlocal num_yielded
        for slot in slots:
            place = next(places)
            if not isinstance(slot, SkippedBatch):
                num_yielded += 1
                ahead.append(place)
                yield slot

    copied = iteration.pipeline.copied(batches(), iteration.metrics)
    num_batches = None if loader.epochs is None else len(loader)
    step = start.position // loader.global_batch_size
    for value in iteration.with_bar(copied, "loading", step, num_batches):
        cursor.advance(iteration.number, *ahead.popleft())
        yield value
    missing = next(places, None)
    if missing is not None:
        raise RuntimeError(ended_early(*missing))
    cursor.finish(iteration.number, last.end())


def received_of_steps(
    iteration: Iteration, steps: Steps, slots: Iterator[Any]
) -> Iterator[Any]:
    """Yield the batches of workers that are sent the positions of each batch.

    Args:
        iteration: The iteration, whose cursor advances.
        steps: The steps that are sent.
        slots: What the workers send.

    Raises:
        RuntimeError: If the workers end before their last batch.
    """
    ahead: deque[tuple[EpochProgress, int]] = deque()

    def batches() -> Iterator[Any]:
        for slot in checked(slots):
            place = steps.sent.popleft()
            if not isinstance(slot, SkippedBatch):
                ahead.append(place)
                yield slot

    for value in iteration.pipeline.copied(batches(), iteration.metrics):
        iteration.cursor.advance(iteration.number, *ahead.popleft())
        yield value
    if steps.sent:
        raise RuntimeError(ended_early(*steps.sent[0]))
    if steps.last is not None:
        iteration.cursor.finish(iteration.number, steps.last.end())


def ended_early(progress: EpochProgress, step: int) -> str:
    """Return the message about workers that ended before a step of an epoch."""
    at = progress.after(step)
    return f"workers ended before position {at.position} of epoch {at.epoch}"
