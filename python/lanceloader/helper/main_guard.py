"""What a process that cannot even begin is about: mostly a script without a main guard."""

from __future__ import annotations

import sys

__all__ = ["UNGUARDED", "imports_main"]

UNGUARDED = (
    "A new process imports the main module first; if that is a script, put what it does under "
    '`if __name__ == "__main__":`, or it would be done anew in each process. What ended the process '
    "is in its own traceback, on stderr"
)
"""What to do, said of a process that failed to begin."""


def imports_main(method: str) -> bool:
    """Whether a process that is begun by a method imports the main module: what runs is a file."""
    main = sys.modules["__main__"]
    has_file = getattr(main, "__file__", None) or getattr(main, "__spec__", None)
    return method != "fork" and bool(has_file)
