"""Warnings about deprecated names, which keep working."""

from __future__ import annotations

import warnings

__all__ = ["warn_deprecated"]


def warn_deprecated(name: str, instead: str, *, stacklevel: int = 3) -> None:
    """Warn that a name is deprecated, in LanceDB's words.

    Python's filters show the warning once for each line that uses the name.

    Args:
        name: The deprecated name.
        instead: The name to use instead.
        stacklevel: As for ``warnings.warn``; by default the caller of the deprecated function.
    """
    message = f"{name} is deprecated. Use {instead} instead"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
