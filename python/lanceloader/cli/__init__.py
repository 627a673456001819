"""The command ``lanceloader``: see ``docs/cli.md``.

One module per command. They use public names of lanceloader only.
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]

_LIBRARIES = ("typer", "rich")


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    try:
        from lanceloader.cli.app import app
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        message = (
            f"error: the command lanceloader needs {library}, which is not installed: "
            'pip install "lanceloader[cli]"\n'
        )
        sys.stderr.write(message)
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no such character shows a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="lanceloader")
