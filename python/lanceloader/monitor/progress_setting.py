"""Whether progress bars are shown: what a call, the environment and the rank say.

A bar is shown if ``progress=True`` requests it, or ``LANCELOADER_PROGRESS=1``; never with
``LANCELOADER_PROGRESS=0``, in worker processes, or on ranks other than 0.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lanceloader._extras import need
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._typing import Progress

__all__ = ["check_bar", "check_progress", "is_wanted", "requested", "silence"]

VARIABLE = "LANCELOADER_PROGRESS"

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

_REQUESTED: ContextVar[bool | None] = ContextVar("requested", default=None)
"""The argument ``progress`` of the call that is running, for the work inside it."""

_is_silent = False
"""Whether this process shows no bars; see ``silence``."""


def is_wanted(progress: Progress | None, rank: int | None = None) -> bool:
    """Return whether to show bars.

    Args:
        progress: The argument of a user: whether to show bars; ``None`` means as the calling
            operation or the environment says. A function is called in place of a bar.
        rank: The rank of this process; by default that of ``torch.distributed``, or of the
            variable ``RANK`` that launchers set.

    Raises:
        ValueError: If the environment variable is neither 0 nor 1.
    """
    setting = _setting()
    if progress is None:
        progress = _REQUESTED.get()
    if progress is None:
        progress = setting is True
    if not progress or callable(progress) or setting is False:
        return False
    return _rank() == 0 if rank is None else rank == 0 and not _is_worker()


def _setting() -> bool | None:
    text = os.environ.get(VARIABLE, "").strip().lower()
    if text in _ON:
        return True
    if text in _OFF:
        return False
    if text:
        message = f"`{VARIABLE}` must be 1 to show progress bars or 0 to show none, got {text!r}"
        raise ValueError(message)
    return None


def _rank() -> int:
    """Return the rank of this process, or -1 in a worker."""
    if _is_worker():
        return -1
    world = World.in_use()
    if world is not None:
        return world.rank
    text = os.environ.get("RANK", "")
    return int(text) if text.isdecimal() else 0


def _is_worker() -> bool:
    """Return whether this is a worker of torch, of a process pool, or a helper process."""
    return _is_silent or multiprocessing.current_process().daemon


def silence() -> None:
    """Show no bars in this process."""
    global _is_silent
    _is_silent = True


@contextmanager
def requested(progress: Progress | None) -> Iterator[None]:
    """Apply the argument ``progress`` of a call to all work inside it.

    Raises:
        ImportError: If ``progress`` is true and tqdm is not installed.
    """
    if progress is None:
        yield
        return
    check_bar(progress)
    token = _REQUESTED.set(progress is True)
    try:
        yield
    finally:
        _REQUESTED.reset(token)


def check_bar(progress: Progress | None = True) -> None:  # noqa: FBT002
    """Check that progress bars can be shown, if they are requested.

    Raises:
        ImportError: If tqdm is not installed.
        TypeError: If ``progress`` is neither a boolean nor a function.
    """
    check_progress(progress)
    if progress and not callable(progress):
        need("tqdm", "progress=True", "progress")


def check_progress(progress: Progress | None) -> None:
    """Check the type of an argument ``progress``.

    Raises:
        TypeError: If it is neither a boolean nor a function.
    """
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        message = f"`progress` must be True, False or a function, not {progress!r}"
        raise TypeError(message)
