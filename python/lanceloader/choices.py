"""Names that users choose from."""

from __future__ import annotations

from typing import Any, get_args

__all__ = ["check_choice"]


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
