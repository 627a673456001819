"""Optional progress bars for operations over many rows."""

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
    postfix: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield batches, with a progress bar that counts their rows or another unit.

    Args:
        batches: The batches.
        num_rows: The total number of rows including the first ``first``, or ``None`` if it is
            unknown.
        what: The title of the bar.
        enabled: Whether to show a bar; or a function to call instead, with the number of rows
            done so far and in all.
        rows_of: Returns the number of rows of a batch.
        unit: The unit that the bar counts.
        first: The number of rows that were done before.
        postfix: Returns the text after the bar.

    Raises:
        ImportError: If ``enabled`` and tqdm is not installed.
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
            if postfix is not None:
                bar.set_postfix_str(postfix(), refresh=False)
            bar.update(rows_of(batch))


def check_bar() -> None:
    """Check that progress bars can be shown.

    Raises:
        ImportError: If tqdm is not installed.
    """
    need("tqdm", "progress=True", "progress")


def new_bar(**options: Any) -> Any:
    """Return a tqdm bar for a terminal or a notebook.

    Raises:
        ImportError: If tqdm is not installed.
    """
    check_bar()
    from tqdm.auto import tqdm

    return tqdm(**options)
