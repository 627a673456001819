"""A progress bar for work over many rows, for those who ask for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["progress_over"]

T = TypeVar("T")


def progress_over(
    batches: Iterable[T],
    num_rows: int,
    what: str,
    *,
    enabled: bool,
    rows_of: Callable[[T], int],
    unit: str = " rows",
) -> Iterator[T]:
    """Pass ``batches`` on, with a bar that counts their rows, or something else.

    Raises:
        ImportError: If a bar is wanted and tqdm is not installed.
    """
    if not enabled:
        yield from batches
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        message = "progress=True: pip install lanceloader[progress]"
        raise ImportError(message) from None
    with tqdm(total=num_rows, desc=what, unit=unit, unit_scale=True) as bar:
        for batch in batches:
            yield batch
            bar.update(rows_of(batch))
