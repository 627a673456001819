"""Libraries that are not always installed: whether they are, and which extra brings them."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["need"]


def need(library: str, what: str, extra: str | None = None) -> None:
    """Check that a library is installed, before work begins that would fail without it.

    Args:
        library: The name it is imported by.
        what: What needs it, for the message.
        extra: The extra of lanceloader that brings it, if that has another name.

    Raises:
        ImportError: If it is not installed.
    """
    # A module that replaces the library in `sys.modules` may have no spec.
    if sys.modules.get(library) is not None:
        return
    if importlib.util.find_spec(library) is None:
        message = (
            f"{what} needs {library}, which is not installed: "
            f'pip install "lanceloader[{extra or library}]"'
        )
        raise ModuleNotFoundError(message, name=library)
