"""Arguments that are one of several names, or a function."""

from __future__ import annotations

from typing import Any, get_args

__all__ = ["check_choice", "check_function"]


def check_function(name: str, value: Any) -> None:
    """Check an argument that must be a function, or ``None``.

    Raises:
        TypeError: If it is neither.
    """
    if value is not None and not callable(value):
        message = f"`{name}` must be a function, not {value!r}"
        raise TypeError(message)


def check_choice(what: str, value: Any, kind: Any) -> None:
    """Refuse a name that is none of a ``Literal``.

    Args:
        what: What was given, for the message: ``"tail='upwards'"``.
        value: The name.
        kind: The ``Literal``.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in get_args(kind):
        known = ", ".join(f'"{name}"' for name in get_args(kind))
        message = f"{what}: wanted one of {known}"
        raise ValueError(message)
