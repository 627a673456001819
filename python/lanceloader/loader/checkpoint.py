"""Where a loader stands: a few numbers, equal on all ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lanceloader.loader.plan_differences import differences

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
MAX_EPOCHS = 2**64


@dataclass(frozen=True)
class Checkpoint:
    """A place in training.

    Attributes:
        epoch: The epoch, or ``None`` for that of the permutation itself.
        position: Units of it that were served, by all ranks together.
        turn: In a worker process, when it is due.
        first: Of several epochs in one iteration, the first.
    """

    epoch: int | None
    position: int
    turn: WorkerTurn | None = None
    first: int | None = None


@dataclass(frozen=True)
class WorkerTurn:
    """When one of several workers is due.

    Attributes:
        worker: The batch, counted from where it stands, that it serves next.
        num_workers: How many workers there are.
    """

    worker: int
    num_workers: int

    def checked(self, num_workers: int) -> int:
        """Give the batch, if there are as many workers.

        Raises:
            ValueError: If there are not.
        """
        if num_workers != self.num_workers:
            message = f"a state of one of {self.num_workers} workers: wanted as many, not {num_workers}"
            raise ValueError(message)
        return self.worker


@dataclass(frozen=True)
class EpochProgress:
    """Where training stands after each step of what is left of an epoch.

    Attributes:
        start: Where it stood before.
        num_units: Units of the epoch.
        global_batch_size: Units of a step.
        num_batches: Steps that are left.
        turn: In a worker, the first of them that it serves.
        num_workers: How many workers there are, or ``None`` outside of one.
    """

    start: Checkpoint
    num_units: int
    global_batch_size: int
    num_batches: int
    turn: int
    num_workers: int | None

    def after(self, steps: int) -> Checkpoint:
        """Give the place after some batches; of a worker, after as many of each of them."""
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
        """Give the place after the last batch, and what comes behind it."""
        epoch, num_workers = self.start.epoch, self.num_workers
        if num_workers is not None:
            turn = WorkerTurn((self.turn - self.num_batches) % num_workers, num_workers)
            return replace(self.start, position=self.num_units, turn=turn)
        # Without a number, the next epoch is one like this.
        position = 0 if epoch is None else self.num_units
        return replace(self.start, position=position, turn=None)


def write_state(at: Checkpoint, plan: dict[str, int | str]) -> dict[str, Any]:
    """Give a state as plain values, for ``torch.save``, JSON and anything else."""
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
    return state


def read_state(state: Any, plan: dict[str, int | str]) -> Checkpoint:
    """Read what ``write_state`` gave.

    Args:
        state: The state.
        plan: What decides which unit stands where, here.

    Raises:
        TypeError: If it is no dict.
        ValueError: If it is not a state of ours, is damaged, or is of another plan.
    """
    if not isinstance(state, dict):
        message = (
            f"a state of type {type(state).__name__}: wanted the dict of state_dict()"
        )
        raise TypeError(message)
    missing = {"lanceloader", "plan", "epoch", "position"} - state.keys()
    if missing:
        found = ", ".join(map(repr, list(state)[:6])) or "nothing"
        message = (
            f"a state without {', '.join(sorted(missing))}: wanted the dict of state_dict(); "
            f"this one has {found}"
        )
        raise ValueError(message)
    if state["lanceloader"] != LAYOUT:
        message = f"a state of layout {state['lanceloader']!r}: wanted {LAYOUT}"
        raise ValueError(message)
    epoch, position = state["epoch"], state["position"]
    if epoch is not None and not (is_count(epoch) and epoch < MAX_EPOCHS):
        message = f"a state of epoch {epoch!r}: wanted a whole number from 0 on"
        raise ValueError(message)
    if not is_count(position):
        message = f"a state at position {position!r}: wanted a whole number from 0 on"
        raise ValueError(message)
    first: Any = state.get("first_epoch")
    if "first_epoch" in state and not (is_count(first) and first <= (epoch or 0)):
        message = f"a state with the first epoch {first!r}: wanted one up to {epoch}"
        raise ValueError(message)
    check_plan(state["plan"], plan, is_numbered=epoch is not None)
    return Checkpoint(epoch, position, read_turn(state.get("worker")), first)


def read_turn(turn: Any) -> WorkerTurn | None:
    """Read what ``write_state`` gave for a worker.

    Raises:
        ValueError: If it is damaged.
    """
    if turn is None:
        return None
    is_pair = isinstance(turn, list | tuple) and len(turn) == 2
    if not is_pair or not all(map(is_count, turn)) or turn[0] >= turn[1]:
        message = f"a state of worker {turn!r}: wanted a number and how many there are"
        raise ValueError(message)
    return WorkerTurn(*turn)


def numbered(at: Checkpoint, plan: dict[str, int | str]) -> Checkpoint:
    """Give the place in an epoch without a number as one in epoch 0, which it must equal.

    Raises:
        ValueError: If the rows stand in another order there.
    """
    if plan.get("as it is") != plan.get("fingerprint"):
        message = (
            "a state of an epoch without a number, which is not epoch 0: wanted a loader of "
            "epochs=1, or a state after set_epoch()"
        )
        raise ValueError(message)
    return replace(at, epoch=0)


def check_plan(theirs: Any, ours: dict[str, int | str], *, is_numbered: bool) -> None:
    """Refuse the state of another plan, saying what differs.

    Args:
        theirs: The plan of the state.
        ours: The plan here.
        is_numbered: Whether the state is of an epoch with a number.

    Raises:
        ValueError: If anything does.
    """
    if not isinstance(theirs, dict):
        message = f"a state with the plan {theirs!r}: wanted the dict of state_dict()"
        raise ValueError(message)
    found = differences(theirs, ours, is_numbered=is_numbered)
    if found:
        message = (
            f"this checkpoint is for {'; and for '.join(found)}. Load it into a loader made with "
            "the arguments and the table it was taken from, or start without it"
        )
        raise ValueError(message)


def halves_of(number: int | None) -> tuple[int, int]:
    """Give a number of 64 bits as two that have a sign, of which none has a negative one."""
    return (-1, 0) if number is None else divmod(number, 2**32)


def of_halves(halves: tuple[int, int]) -> int | None:
    """Give the number that ``halves_of`` took apart."""
    high, low = halves
    return None if high < 0 else high * 2**32 + low


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
