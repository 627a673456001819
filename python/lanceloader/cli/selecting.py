"""Columns, filter and order of a permutation, from the options of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader.cli.failures import UsageError
from lanceloader.cli.options import names_of

if TYPE_CHECKING:
    import lanceloader as ll

__all__ = ["selected"]


def selected(
    perm: ll.Permutation,
    columns: str | None,
    predicate: str | None = None,
    *,
    shuffle: bool = False,
    seed: int | None = None,
) -> ll.Permutation:
    """Return the rows and columns that the options of a command ask for.

    Raises:
        UsageError: If there is a seed and nothing to shuffle.
    """
    if seed is not None and not shuffle:
        raise UsageError("--seed without --shuffle: add --shuffle")
    names = names_of(columns)
    if predicate is not None:
        perm = perm.filter(predicate)
    if names is not None:
        perm = perm.select_columns(names)
    return perm.shuffle(seed=seed) if shuffle else perm
