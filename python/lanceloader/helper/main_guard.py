"""Advice for processes that cannot start, usually because the main module has no guard."""

from __future__ import annotations

import sys

__all__ = ["UNGUARDED", "imports_main"]

UNGUARDED = (
    "A new process first imports the main module: if it is a script, move its statements under "
    '`if __name__ == "__main__":`, as they would run in each process otherwise. The traceback of the '
    "process is on stderr"
)
"""The advice for a process that could not start."""


def imports_main(method: str) -> bool:
    """Return whether processes of a start method import the main module, which requires a file."""
    main = sys.modules["__main__"]
    has_file = getattr(main, "__file__", None) or getattr(main, "__spec__", None)
    return method != "fork" and bool(has_file)
