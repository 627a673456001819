"""Checkpoints: the position of a loader, as a few numbers that are the same on all ranks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader.loader.plan_differences import differences

if TYPE_CHECKING:
    from lanceloader.units.share import Share

__all__ = [
    "Checkpoint",
    "EpochProgress",
    "WorkerTurn",
    "halves_of",
    "numbered",
    "of_halves",
    "read_state",
    "write_state",
]

LAYOUT = 1
"""The version of the layout of states."""

MAX_EPOCHS = 2**64


@dataclass(frozen=True)
class Checkpoint:
    """A position in training.

    Attributes:
        epoch: The epoch, or ``None`` for the order of the permutation itself.
        position: The number of units of the epoch that were yielded, by all ranks together.
        turn: In a worker process, the next batch of this worker.
        first: The first epoch of an iteration of several epochs.
        draw: The record of the sampler that chose the rows of the epoch.
    """

    epoch: int | None
    position: int
    turn: WorkerTurn | None = None
    first: int | None = None
    draw: dict[str, Any] | None = None


@dataclass(frozen=True)
class WorkerTurn:
    """The next batch of one of several workers, which take turns.

    Attributes:
        worker: The number of the next batch of the worker, counted from the checkpoint.
        num_workers: The number of workers.
    """

    worker: int
    num_workers: int

    def checked(self, num_workers: int) -> int:
        """Return ``worker``, if the number of workers is the same.

        Raises:
            ValueError: If it is not.
        """
        if num_workers != self.num_workers:
            message = (
                f"the state was taken in one of {self.num_workers} workers, but this loader has "
                f"{num_workers}: load it with the same number of workers"
            )
            raise ValueError(message)
        return self.worker


@dataclass(frozen=True)
class EpochProgress:
    """The checkpoint after each of the remaining steps of an epoch.

    Attributes:
        start: The checkpoint before the first of these steps.
        num_units: The number of units in the epoch.
        global_batch_size: The number of units in a step.
        share: The units of these steps that this rank gets, those of all its workers.
        turn: In a worker, the first of these steps whose batch it yields.
        num_workers: The number of workers, or ``None`` outside of a worker.
    """

    start: Checkpoint
    num_units: int
    global_batch_size: int
    share: Share
    turn: int
    num_workers: int | None

    @property
    def num_batches(self) -> int:
        """The number of remaining steps."""
        return self.share.num_batches

    def after(self, steps: int) -> Checkpoint:
        """Return the checkpoint after some steps; in a worker, after as many batches of each worker."""
        num_workers = self.num_workers
        done = steps * (num_workers or 1)
        position = self.start.position + done * self.global_batch_size
        if num_workers is None:
            position = min(self.num_units, position)
            return replace(self.start, position=position, turn=None)
        if done >= self.num_batches:
            return self.end()
        turn = WorkerTurn(self.turn % num_workers, num_workers)
        return replace(self.start, position=position, turn=turn)

    def end(self) -> Checkpoint:
        """Return the checkpoint after the last step, from which the next iteration continues."""
        epoch, num_workers = self.start.epoch, self.num_workers
        if num_workers is not None:
            turn = WorkerTurn((self.turn - self.num_batches) % num_workers, num_workers)
            return replace(self.start, position=self.num_units, turn=turn)
        # Without a number of the epoch, the next one has the same order.
        if epoch is None:
            return replace(self.start, position=0, turn=None, draw=None)
        return replace(self.start, position=self.num_units, turn=None)


def write_state(at: Checkpoint, plan: dict[str, int | str]) -> dict[str, Any]:
    """Return a checkpoint as plain values, for ``torch.save``, JSON and other formats.

    Args:
        at: The checkpoint.
        plan: What determines the order of the units.
    """
    state: dict[str, Any] = {
        "lanceloader": LAYOUT,
        "plan": dict(plan),
        "epoch": at.epoch,
        "position": at.position,
    }
    if at.turn is not None:
        state["worker"] = [at.turn.worker, at.turn.num_workers]
    if at.first is not None:
        state["first_epoch"] = at.first
    if at.draw is not None:
        state["sampler"] = copy.deepcopy(at.draw)
    return state


def read_state(state: Any, plan: dict[str, int | str]) -> Checkpoint:
    """Return the checkpoint that ``write_state`` wrote.

    Args:
        state: The state.
        plan: What determines the order of the units of this loader.

    Raises:
        TypeError: If the state is not a dict.
        ValueError: If the state is not one of a ``Loader``, is damaged, or has another plan.
    """
    if not isinstance(state, dict):
        message = (
            f"`state` must be the dict of state_dict(), not {type(state).__name__}"
        )
        raise TypeError(message)
    missing = {"lanceloader", "plan", "epoch", "position"} - state.keys()
    if missing:
        found = ", ".join(map(repr, list(state)[:6])) or "no keys"
        message = (
            f"`state` has {found}, but lacks {', '.join(sorted(missing))}: pass the dict of "
            "state_dict() of a Loader"
        )
        raise ValueError(message)
    if state["lanceloader"] != LAYOUT:
        message = (
            f"the state has layout {state['lanceloader']!r}, but this version reads layout "
            f"{LAYOUT}: load it with the version of lanceloader that wrote it"
        )
        raise ValueError(message)
    epoch, position = state["epoch"], state["position"]
    if epoch is not None and not (is_count(epoch) and epoch < MAX_EPOCHS):
        raise ValueError(_damaged("epoch", epoch, "an integer in range(2**64)"))
    if not is_count(position):
        raise ValueError(_damaged("position", position, "an integer from 0 on"))
    first: Any = state.get("first_epoch")
    if "first_epoch" in state and not (is_count(first) and first <= (epoch or 0)):
        raise ValueError(_damaged("first_epoch", first, f"an integer up to {epoch}"))
    draw: Any = state.get("sampler")
    if draw is not None and not isinstance(draw, dict):
        raise ValueError(_damaged("sampler", draw, "a dict"))
    check_plan(state["plan"], plan, is_numbered=epoch is not None)
    turn = read_turn(state.get("worker"))
    return Checkpoint(epoch, position, turn, first, copy.deepcopy(draw))


def read_turn(turn: Any) -> WorkerTurn | None:
    """Return the turn of a worker that ``write_state`` wrote.

    Raises:
        ValueError: If the state is damaged.
    """
    if turn is None:
        return None
    is_pair = isinstance(turn, list | tuple) and len(turn) == 2
    if not is_pair or not all(map(is_count, turn)) or turn[0] >= turn[1]:
        raise ValueError(_damaged("worker", turn, "a worker and the number of workers"))
    return WorkerTurn(*turn)


def _damaged(name: str, value: Any, expected: str) -> str:
    """Return the message for an entry of a state with an impossible value."""
    return f"the state is damaged: {name!r} must be {expected}, got {value!r}"


def numbered(at: Checkpoint, plan: dict[str, int | str]) -> Checkpoint:
    """Return a checkpoint of an epoch without a number as one of epoch 0.

    Raises:
        ValueError: If epoch 0 has another order.
    """
    if plan.get("as it is") != plan.get("fingerprint"):
        raise ValueError(
            "the state is of an epoch without a number, whose order is not that of epoch 0: load "
            "it into a loader of epochs=1, or call set_epoch() before the state is taken"
        )
    return replace(at, epoch=0)


def check_plan(theirs: Any, ours: dict[str, int | str], *, is_numbered: bool) -> None:
    """Check that a state is for the same order of units.

    Args:
        theirs: The plan of the state.
        ours: The plan of this loader.
        is_numbered: Whether the state is of an epoch with a number.

    Raises:
        ValueError: If the plans differ; the message lists the differences.
    """
    if not isinstance(theirs, dict):
        raise ValueError(_damaged("plan", theirs, "a dict"))
    found = differences(theirs, ours, is_numbered=is_numbered)
    if found:
        message = (
            f"this checkpoint is for {'; and for '.join(found)}. Load it into a loader made with "
            "the same arguments and the same table, or start without it"
        )
        raise ValueError(message)


def halves_of(number: int | None) -> tuple[int, int]:
    """Return the high and low 32 bits of a number, each of which fits into int64; (-1, 0) for ``None``."""
    return (-1, 0) if number is None else divmod(number, 2**32)


def of_halves(halves: tuple[int, int]) -> int | None:
    """Return the number that ``halves_of`` divided."""
    high, low = halves
    return None if high < 0 else high * 2**32 + low


def is_count(value: Any) -> bool:
    """Return whether a value is an integer from 0 on, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
