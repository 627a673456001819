"""Errors and warnings of a command: one line each, and an exit code."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from lanceloader.errors import InternalError, LanceloaderError
from lanceloader.monitor.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FAILED", "INTERRUPTED", "WRONG_USAGE", "UsageError", "guarded", "say"]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130

# Errors of lanceloader and of the tables' libraries that a user can do something about.
_EXPECTED = (
    *(LanceloaderError, OSError, ValueError, TypeError, LookupError, ImportError),
    *(MemoryError, RuntimeError),
)


class UsageError(Exception):
    """Raised for arguments that are mutually exclusive or do not fit the table."""


def say(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{without_secrets(line)}\n")
    sys.stderr.flush()


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every exception of a command into one line on standard error and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _warnings_as_lines():
                command(*args, **kwargs)
                sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            # The reader of the pipe has closed it, as `head` does. Python flushes once more at exit.
            _discard_output()
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except UsageError as error:
            say(f"error: {error}")
            raise typer.Exit(WRONG_USAGE) from None
        except Exception as error:
            if is_interrupt(error):
                say("interrupted")
                raise typer.Exit(INTERRUPTED) from None
            if os.environ.get("LANCELOADER_DEBUG", "0") not in ("", "0"):
                raise
            say(f"error: {line_of(error)}")
            raise typer.Exit(FAILED) from None

    return run


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception was raised while a KeyboardInterrupt was handled.

    Ctrl-C goes to worker processes as well, whose end torch then reports as an error.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def line_of(error: BaseException) -> str:
    """Describe an exception in one line."""
    text = " ".join(str(error).split())
    if not text:
        text = type(error).__name__
    if isinstance(error, MemoryError):
        text = f"out of memory ({text}); try --memory-limit with a smaller size"
    if isinstance(error, InternalError) or not isinstance(error, _EXPECTED):
        text += (
            f" ({type(error).__name__}, which is a bug of lanceloader: please report it with "
            "the traceback that LANCELOADER_DEBUG=1 shows)"
        )
    return text


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"warning: {' '.join(str(message).split())}")

    before = warnings.showwarning
    warnings.showwarning = show
    # Readers of lanceloader survive a fork; pylance warns about every fork.
    warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
    try:
        yield
    finally:
        warnings.showwarning = before


def _discard_output() -> None:
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
