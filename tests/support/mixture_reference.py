"""Mixtures the obvious way: row by row, as ``docs/determinism.md`` says."""

from __future__ import annotations

import math

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa

page = determinism_page.load()


def mixed(sources, weights, num_rows, *, epoch=None, seed=None):
    """The rows of an epoch: ``(name, row)`` for each, rows as ``head`` gives them."""
    names = list(sources)
    root = page.tree(weights)
    passes = {}
    rows = []
    for k in range(num_rows):
        at, row = page.source_at(root, k)
        view = sources[names[at]]
        lap, row = divmod(row, len(view))
        if (at, lap) not in passes:
            order = (
                view if seed is None else view.shuffle(page.seed_of(seed, names[at]))
            )
            if epoch is not None or lap:
                order = order.with_epoch((epoch or 0) + (lap << 32))
            passes[at, lap] = order.with_format("python_col")[:]["id"]
        rows.append((names[at], passes[at, lap][row]))
    return rows


def shorter(weights):
    """Weights as their smallest whole numbers, for tests that give whole numbers."""
    divisor = math.gcd(*weights)
    return [weight // divisor for weight in weights]


def numbered(start, count, **columns):
    """A permutation of ``count`` rows in memory, with ids from ``start`` on."""
    ids = range(start, start + count)
    more = {name: [value(k) for k in ids] for name, value in columns.items()}
    table = pa.table({"id": pa.array(ids, pa.int64()), **more})
    return ll.Permutation.identity(table)


def served(loader):
    """The ids of each batch."""
    return [batch["id"] for batch in loader]


def flat(batches):
    return [row for batch in batches for row in batch]


NAMES = "abcdefgh"


def sources_of(sizes, *, one_table=False):
    """Sources of these numbers of rows, in tables of their own or all of one."""
    if not one_table:
        return {
            name: numbered(1000 * at, size)
            for at, (name, size) in enumerate(zip(NAMES, sizes, strict=False))
        }
    whole = numbered(0, sum(sizes))
    starts = np.cumsum([0, *sizes])
    parts = [
        whole.with_skip(int(start)).with_take(size)
        for start, size in zip(starts, sizes, strict=False)
    ]
    return dict(zip(NAMES, parts, strict=False))
