"""Progress bars for everything that may take more than a second.

A bar appears on standard error once its work has taken a second, if ``progress_setting`` says that
bars are shown. Several threads may show bars at the same time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lanceloader.monitor.progress_setting import (
    VARIABLE,
    check_bar,
    check_progress,
    is_wanted,
    requested,
    silence,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from lanceloader._typing import Progress

__all__ = [
    "Bar",
    "check_bar",
    "is_wanted",
    "polled",
    "progress_over",
    "reported",
    "requested",
    "silence",
    "waiting",
]

T = TypeVar("T")

DELAY_SECONDS = 1.0
"""The time that work takes before its bar appears."""

POLL_SECONDS = 0.1
"""The time between two looks at work in the background."""

_state = {"has_warned": False}


class Bar:
    """A bar, which appears when its work has taken a second. Several threads may move it.

    Attributes:
        done: The position of the bar.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        unit: str = " rows",
        first: int = 0,
        postfix: Callable[[], str] | None = None,
        is_counted: bool = True,
    ) -> None:
        """Start the clock.

        Args:
            what: The title.
            total: The end of the bar, or ``None`` if it is unknown.
            unit: The unit that the bar counts.
            first: The position to start from.
            postfix: Returns the text after the bar.
            is_counted: Whether the bar counts anything; otherwise it shows the time.
        """
        self.done = first
        self._total = total
        self._postfix = postfix
        self._options: dict[str, Any] = {"desc": what, "unit": unit, "initial": first}
        # With a delay, tqdm does not draw a bar before its position is set.
        self._options |= {"unit_scale": True, "file": sys.stderr, "delay": 1e-9}
        if not is_counted:
            self._options |= {"bar_format": "{desc}: {elapsed}", "miniters": 0}
        self._started = time.time()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._bar: Any = None
        self._has_ended = False

    def __enter__(self) -> Self:
        self.move(self.done)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, number: int) -> None:
        """Move the bar forward."""
        self.move(self.done + number)

    def move(self, done: int, total: int | None = None) -> None:
        """Move the bar to a position, and its end too if ``total`` is passed."""
        # A fork copies the lock in any state, and the terminal belongs to the parent.
        if os.getpid() != self._pid:
            return
        with self._lock:
            self.done = done
            self._total = total or self._total
            if self._has_ended:
                return
            try:
                self._draw()
            except (OSError, ValueError):
                # Nobody reads standard error any more; the work goes on.
                self._has_ended = True

    def _draw(self) -> None:
        if self._bar is None:
            if time.time() - self._started < DELAY_SECONDS:
                return
            self._bar = _new_bar(total=self._total, **self._options)
            if self._bar is None:
                self._has_ended = True
                return
            # The bar has been running since its work began.
            self._bar.start_t = self._started
            self._bar.n = self.done
            self._bar.refresh()
        self._bar.total = self._total
        if self._postfix is not None:
            self._bar.set_postfix_str(self._postfix(), refresh=False)
        self._bar.update(self.done - self._bar.n)

    def close(self) -> None:
        """Leave the bar where it is."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            has_ended, self._has_ended = self._has_ended, True
            if self._bar is not None and not has_ended:
                with suppress(OSError, ValueError):
                    self._bar.close()


def _new_bar(**options: Any) -> Any:
    """Return a tqdm bar for a terminal or a notebook, or ``None`` without tqdm."""
    try:
        check_bar()
    except ImportError as error:
        # Asked for by the environment: the work must not fail for a bar.
        if not _state["has_warned"]:
            _state["has_warned"] = True
            message = str(error).replace("progress=True", f"{VARIABLE}=1")
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
    from tqdm.auto import tqdm

    return tqdm(**options)


def progress_over(
    batches: Iterable[T],
    num_rows: int | None,
    what: str,
    *,
    enabled: Progress | None,
    rows_of: Callable[[T], int],
    unit: str = " rows",
    first: int = 0,
    postfix: Callable[[], str] | None = None,
    rank: int | None = None,
) -> Iterator[T]:
    """Yield batches, with a progress bar that counts their rows or another unit.

    Args:
        batches: The batches.
        num_rows: The total number of rows including the first ``first``, or ``None`` if it is
            unknown.
        what: The title of the bar.
        enabled: Whether to show a bar, as for ``is_wanted``; or a function to call instead, with
            the number of rows done so far and in all.
        rows_of: Returns the number of rows of a batch.
        unit: The unit that the bar counts.
        first: The number of rows that were done before.
        postfix: Returns the text after the bar.
        rank: The rank of this process, as for ``is_wanted``.

    Raises:
        ImportError: If ``enabled`` is true and tqdm is not installed.
    """
    if callable(enabled):
        done = first
        enabled(done, num_rows)
        for batch in batches:
            yield batch
            done += rows_of(batch)
            enabled(done, num_rows)
        return
    if not is_wanted(enabled, rank):
        yield from batches
        return
    check_bar(enabled)
    with Bar(what, num_rows, unit=unit, first=first, postfix=postfix) as bar:
        for batch in batches:
            yield batch
            bar.add(rows_of(batch))


@contextmanager
def reported(
    what: str, progress: Progress | None, *, unit: str
) -> Iterator[Callable[[int, int | None], object]]:
    """Yield a function to call with how much is done and how much there is.

    Args:
        what: The title of the bar.
        progress: Whether to show a bar, as for ``is_wanted``; or the function to yield.
        unit: The unit that the bar counts.

    Raises:
        ImportError: If ``progress`` is true and tqdm is not installed.
    """
    check_progress(progress)
    if callable(progress):
        yield progress
    elif is_wanted(progress):
        check_bar(progress)
        with Bar(what, unit=unit) as bar:
            yield bar.move
    else:
        yield lambda _done, _total: None


@contextmanager
def polled(
    what: str,
    poll: Callable[[], tuple[int, int | None] | None],
    *,
    unit: str = " rows",
    is_counted: bool = True,
) -> Iterator[None]:
    """Show a bar for work of other threads, or for a call that does not return.

    Args:
        what: The title of the bar.
        poll: Returns how much is done and how much there is, from a thread; ``None`` at the end.
        unit: The unit that the bar counts.
        is_counted: Whether the bar counts anything; otherwise it shows the time.
    """
    has_ended = threading.Event()
    started = Bar(what, unit=unit, is_counted=is_counted)

    def follow() -> None:
        with started as bar:
            while (found := poll()) is not None:
                bar.move(*found)
                if has_ended.wait(POLL_SECONDS):
                    break

    thread = threading.Thread(target=follow, name="lanceloader-progress", daemon=True)
    pid = os.getpid()
    thread.start()
    try:
        yield
    finally:
        # In a fork, the thread is gone and the lock of the event may be held.
        if os.getpid() == pid:
            has_ended.set()
            thread.join()


def waiting(
    what: str, progress: Progress | None = None
) -> AbstractContextManager[None]:
    """Show the time of a call that cannot say how far it is.

    Args:
        what: What is being done.
        progress: Whether to show it, as for ``is_wanted``.
    """
    if not is_wanted(progress):
        return nullcontext()
    return polled(what, lambda: (0, None), is_counted=False)
