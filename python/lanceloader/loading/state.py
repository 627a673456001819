"""Where a loader stands: a few numbers, equal on all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["At", "read_state", "write_state"]

LAYOUT = 1
_LABELS = {
    "unit": "units",
    "table": "tables",
    "version": "versions of the table",
    "rows": "numbers of rows",
    "order": "orders",
    "fingerprint": "orders",
}


@dataclass(frozen=True)
class At:
    """A place in training.

    Attributes:
        epoch: The epoch, or ``None`` for that of the permutation itself.
        position: Units of it that were served, by all ranks together.
    """

    epoch: int | None
    position: int


def write_state(at: At, plan: dict[str, int | str]) -> dict[str, Any]:
    """Give a state as plain values, for ``torch.save``, JSON and anything else."""
    return {
        "lanceloader": LAYOUT,
        "plan": dict(plan),
        "epoch": at.epoch,
        "position": at.position,
    }


def read_state(state: Any, plan: dict[str, int | str]) -> At:
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
    check_plan(state["plan"], plan)
    epoch, position = state["epoch"], state["position"]
    if epoch is not None and not is_count(epoch):
        message = f"a state of epoch {epoch!r}: wanted a whole number from 0 on"
        raise ValueError(message)
    if not is_count(position):
        message = f"a state at position {position!r}: wanted a whole number from 0 on"
        raise ValueError(message)
    return At(epoch, position)


def check_plan(theirs: Any, ours: dict[str, int | str]) -> None:
    """Refuse the state of another plan, saying what differs.

    Raises:
        ValueError: If anything does.
    """
    if not isinstance(theirs, dict):
        message = f"a state with the plan {theirs!r}: wanted the dict of state_dict()"
        raise ValueError(message)
    different: dict[str, str] = {}
    for name, here in ours.items():
        there = theirs.get(name)
        label = _LABELS.get(name, name)
        if there != here and label not in different:
            different[label] = f"{there!r} in the state, {here!r} here"
    # What an order says of itself may change between releases; what it serves does not.
    if theirs.get("fingerprint") == ours.get("fingerprint"):
        different.pop("orders", None)
    # A version that shows the same files shows the same rows.
    if theirs.get("table") == ours.get("table"):
        different.pop("versions of the table", None)
    if different:
        listed = "; ".join(f"{label}: {what}" for label, what in different.items())
        message = f"a state of another plan, so its rows would not be these. {listed}"
        raise ValueError(message)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
