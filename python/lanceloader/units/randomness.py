"""States of random generators as plain values: those of samplers, and those of libraries."""

from __future__ import annotations

import base64
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "generator_of",
    "read_generator",
    "read_globals",
    "used_globals",
    "with_globals",
    "write_generator",
]


def generator_of(sampler: Any) -> Any | None:
    """Return the generator of torch that a sampler draws from, or ``None``."""
    torch = sys.modules.get("torch")
    found = getattr(sampler, "generator", None)
    if torch is None or not isinstance(found, torch.Generator):
        return None
    return found


def read_generator(generator: Any) -> str:
    """Return the state of a generator of torch as a text."""
    return _text_of(generator.get_state())


def write_generator(generator: Any, state: str) -> None:
    """Set the state of a generator of torch."""
    generator.set_state(_tensor_of(state))


def read_globals() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and torch, as far as imported."""
    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        state = numpy.random.get_state(legacy=False)
        inner = {**state["state"], "key": state["state"]["key"].tolist()}
        states["numpy"] = {**state, "state": inner}
    if torch is not None:
        states["torch"] = _text_of(torch.get_rng_state())
    return states


def used_globals(before: dict[str, Any]) -> dict[str, Any] | None:
    """Return those of the states that have changed since, as they were; ``None`` for none."""
    now = read_globals()
    used = {name: state for name, state in before.items() if now.get(name) != state}
    return used or None


@contextmanager
def with_globals(states: dict[str, Any] | None) -> Iterator[None]:
    """Set the states of global generators, and set them back afterwards."""
    before = read_globals() if states else {}
    _write_globals(states or {})
    try:
        yield
    finally:
        _write_globals({name: before[name] for name in states or {} if name in before})


def _write_globals(states: dict[str, Any]) -> None:
    if "python" in states:
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(numbers), gauss))
    if "numpy" in states:
        import numpy as np

        state = states["numpy"]
        key = np.array(state["state"]["key"], np.uint32)
        np.random.set_state({**state, "state": {**state["state"], "key": key}})
    if "torch" in states:
        import torch

        torch.set_rng_state(_tensor_of(states["torch"]))


def _text_of(state: Any) -> str:
    return base64.b64encode(bytes(state.numpy())).decode()


def _tensor_of(text: str) -> Any:
    import torch

    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
