"""Checks of arguments that must be one of several strings, a boolean, a function or a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

__all__ = ["check_choice", "check_flag", "check_function", "path_of"]


def path_of(name: str, value: Any) -> Path:
    """Return an argument that must be a path.

    Raises:
        TypeError: If it is not a path.
    """
    if not isinstance(value, str | os.PathLike):
        message = f"`{name}` must be a string or a path, not {value!r}"
        raise TypeError(message)
    return Path(value)


def check_function(name: str, value: Any) -> None:
    """Check an argument that must be a function or ``None``.

    Raises:
        TypeError: If it is neither.
    """
    if value is not None and not callable(value):
        message = f"`{name}` must be a function, not {value!r}"
        raise TypeError(message)


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Check an argument that must be one of the strings of a ``Literal``.

    Args:
        name: The name of the argument, for the error message.
        value: The argument.
        kind: The ``Literal``.

    Raises:
        ValueError: If the argument is not one of the strings.
    """
    # Not all types compare to strings with a truth value: arrays do not.
    if not isinstance(value, str) or value not in get_args(kind):
        known = ", ".join(f'"{choice}"' for choice in get_args(kind))
        message = f"`{name}` must be one of {known}, got {value!r}"
        raise ValueError(message)


def check_flag(name: str, value: Any, more: str = "") -> None:
    """Check that an argument is a boolean: ``"no"`` and 7 would be true.

    Args:
        name: The name of the argument, for the error message.
        value: The argument.
        more: More words for the message.

    Raises:
        TypeError: If it is not a boolean of Python or NumPy.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        message = f"`{name}` must be True or False, not {value!r}{more}"
        raise TypeError(message)
