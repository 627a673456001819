"""How several readers share the memory and the cores of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader._native import Reader
from lanceloader.options import ReadOptions
from lanceloader.stages.pipeline import num_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._permutation import Permutation

__all__ = ["shared", "with_options"]

WINDOWS = 64 << 20
"""Bytes for windows of rows on their way, where there are as many."""


def shared(views: Sequence[Permutation], limit: int | None) -> list[Permutation]:
    """Let each view read with its share of memory and threads.

    What a small table does not need goes to the others, so that as many as possible are kept in
    memory. A limit or a number of threads that a view was given itself stays.

    Args:
        views: What is read at the same time.
        limit: Bytes that all may hold; by default what one would have on its own.
    """
    if len(views) == 1:
        return [with_options(views[0], ReadOptions(memory_limit=limit))]
    needs, limits = [], []
    for view in views:
        reader = view._ensure_open()
        choice = reader.choice() if isinstance(reader, Reader) else None
        packed = choice.row_bytes * choice.num_rows if choice else 0
        needs.append(max(packed, WINDOWS))
        limits.append(choice.memory_bytes if choice else 0)
    shares = divided(max(limits) if limit is None else limit, needs)
    found = []
    for view, share in zip(views, shares, strict=True):
        own = view._options if limit is None else ReadOptions()
        threads = view._options.for_native()["threads"] or num_cpus()
        given = ReadOptions(
            memory_limit=share if own.memory_limit is None else own.memory_limit,
            threads=view._options.threads or max(1, -(-threads // len(views))),
        )
        found.append(with_options(view, given))
    return found


def with_options(view: Permutation, options: ReadOptions) -> Permutation:
    """Give a view read with other options; the same one if there are none."""
    merged = view._options.merged(options)
    return view if merged == view._options else view._replace(_options=merged)


def divided(total: int, needs: Sequence[int]) -> list[int]:
    """Divide bytes: to each what it needs, or an equal part of what the smaller ones leave."""
    shares = [0] * len(needs)
    left = total
    by_need = sorted(range(len(needs)), key=lambda k: needs[k])
    for place, k in enumerate(by_need):
        even = left // (len(needs) - place)
        # The largest takes the rest.
        shares[k] = left if place == len(needs) - 1 else min(needs[k], even)
        left -= shares[k]
    return shares
