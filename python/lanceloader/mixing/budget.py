"""The division of memory and threads among the readers of several tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader.options import ReadOptions
from lanceloader.sources.core_readers import core_readers
from lanceloader.stages.pipeline import num_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._permutation import Permutation

__all__ = ["with_options", "with_shared_memory"]

WINDOWS = 64 << 20
"""The bytes for windows of rows in flight, which each reader needs if they are available."""


def with_shared_memory(
    views: Sequence[Permutation], limit: int | None
) -> list[Permutation]:
    """Return views that read with their shares of memory and threads.

    Memory that a small table does not need is given to the others, so that as many tables as possible
    fit. Read options that a view already has are kept.

    Args:
        views: The views that read at the same time.
        limit: The most bytes of all together; by default those of a single reader.
    """
    if len(views) == 1:
        return [with_options(views[0], ReadOptions(memory_limit=limit))]
    needs, limits = [], []
    for view in views:
        choices = [each.choice() for each in core_readers(view.open_reader()) or []]
        packed = sum(choice.row_bytes * choice.num_rows for choice in choices)
        needs.append(max(packed, WINDOWS))
        # The readers of windows share the memory of one.
        limits.append(sum(choice.memory_bytes for choice in choices))
    shares = divided(max(limits) if limit is None else limit, needs)
    found = []
    for view, share in zip(views, shares, strict=True):
        own = view.read_options if limit is None else ReadOptions()
        threads = view.read_options.for_native()["threads"] or num_cpus()
        options = ReadOptions(
            memory_limit=share if own.memory_limit is None else own.memory_limit,
            threads=view.read_options.threads or max(1, -(-threads // len(views))),
        )
        found.append(with_options(view, options))
    return found


def with_options(view: Permutation, options: ReadOptions) -> Permutation:
    """Return a view with other read options, or the same view if they do not change."""
    merged = view.read_options.merged(options)
    return view if merged == view.read_options else view.with_read_options(options)


def divided(total: int, needs: Sequence[int]) -> list[int]:
    """Return the shares of ``total``: each need in full, or an equal part of what smaller needs leave."""
    shares = [0] * len(needs)
    left = total
    by_need = sorted(range(len(needs)), key=lambda k: needs[k])
    for place, k in enumerate(by_need):
        even = left // (len(needs) - place)
        # The largest need gets the rest.
        shares[k] = left if place == len(needs) - 1 else min(needs[k], even)
        left -= shares[k]
    return shares
