"""The states of samplers: those that they save themselves, and those of their generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.units.randomness import generator_of, read_generator, write_generator

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "generator_states",
    "is_stateful",
    "kept_states",
    "merged",
    "own_states",
    "restore",
    "states_of",
]


def states_of(
    parts: list[Any], state_of: Callable[[Any], Any | None]
) -> list[Any] | None:
    """Return a state of each sampler, or ``None`` if none of them has one."""
    states = [state_of(part) for part in parts]
    return None if all(state is None for state in states) else states


def kept_states(record: dict[str, Any]) -> list[Any] | None:
    """Return the states of a record that samplers saved by themselves."""
    return [
        state if state is not None and state[0] == "state_dict" else None
        for state in record["states"]
    ]


def own_states(part: Any) -> Any | None:
    """Return the state of a sampler that saves it by itself, with its kind, or ``None``."""
    return ["state_dict", part.state_dict()] if is_stateful(part) else None


def generator_states(part: Any) -> Any | None:
    """Return the state of the generator of another sampler, with its kind, or ``None``."""
    generator = None if is_stateful(part) else generator_of(part)
    return None if generator is None else ["generator", read_generator(generator)]


def merged(one: list[Any] | None, other: list[Any] | None) -> list[Any] | None:
    """Return the states of both lists, each of which lacks those of the other."""
    if one is None or other is None:
        return one or other
    return [first or second for first, second in zip(one, other, strict=True)]


def is_stateful(part: Any) -> bool:
    """Return whether a sampler saves its state by itself."""
    methods = "state_dict", "load_state_dict"
    return all(callable(getattr(part, name, None)) for name in methods)


def restore(parts: list[Any], record: dict[str, Any]) -> None:
    """Bring samplers into the states of a record.

    Raises:
        ValueError: If they keep other kinds of states.
    """
    for part, state in zip(parts, record.get("states") or [], strict=False):
        if state is None:
            continue
        kind, value = state
        generator = generator_of(part)
        if kind == "state_dict" and is_stateful(part):
            part.load_state_dict(value)
        elif kind == "generator" and generator is not None:
            write_generator(generator, value)
        else:
            message = (
                f"the state has a {kind} of a sampler, but the {type(part).__name__} of this "
                "loader has none: make it with the same arguments"
            )
            raise ValueError(message)
