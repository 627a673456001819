"""A progress bar for work over many rows, for those who ask for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from lanceloader._extras import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lanceloader._typing import Progress

__all__ = ["check_bar", "progress_over"]

T = TypeVar("T")


def progress_over(
    batches: Iterable[T],
    num_rows: int | None,
    what: str,
    *,
    enabled: Progress,
    rows_of: Callable[[T], int],
    unit: str = " rows",
    first: int = 0,
    said: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Pass ``batches`` on, with a bar that counts their rows, or something else.

    Args:
        batches: What to pass on.
        num_rows: How many rows there are, those before ``first`` included, if it is known.
        what: What the bar is called.
        enabled: Whether there is one; or what to call instead, with the rows so far and in all.
        rows_of: Counts the rows of a batch.
        unit: What is counted.
        first: How many were there before.
        said: Gives what stands behind the bar.

    Raises:
        ImportError: If a bar is wanted and tqdm is not installed.
    """
    if not enabled:
        yield from batches
        return
    if callable(enabled):
        done = first
        enabled(done, num_rows)
        for batch in batches:
            yield batch
            done += rows_of(batch)
            enabled(done, num_rows)
        return
    bar = new_bar(total=num_rows, desc=what, unit=unit, unit_scale=True, initial=first)
    with bar:
        for batch in batches:
            yield batch
            if said is not None:
                bar.set_postfix_str(said(), refresh=False)
            bar.update(rows_of(batch))


def check_bar() -> None:
    """Find out whether there can be bars.

    Raises:
        ImportError: If tqdm is not installed.
    """
    need("tqdm", "progress=True", "progress")


def new_bar(**options: Any) -> Any:
    """Make a bar of tqdm, for a terminal or a notebook.

    Raises:
        ImportError: If tqdm is not installed.
    """
    check_bar()
    from tqdm.auto import tqdm

    return tqdm(**options)
