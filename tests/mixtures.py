"""Mixtures the obvious way: row by row, as ``docs/determinism.md`` says."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter

import lanceloader as ll
import pyarrow as pa


def tree(weights):
    """Put the two lightest together until one is left: (weight, age, source or sides)."""
    heap = [(weight, at, at) for at, weight in enumerate(weights) if weight]
    heapq.heapify(heap)
    age = len(weights)
    while len(heap) > 1:
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        sides = (other, one) if other[0] > one[0] else (one, other)
        heapq.heappush(heap, (one[0] + other[0], age, sides))
        age += 1
    return heap[0]


def place(node, k):
    """The source of row ``k`` of a node, and which of its rows it is."""
    weight, _, sides = node
    if not isinstance(sides, tuple):
        return sides, k
    first, second = sides
    before, after = (
        (2 * n * first[0] + weight) // (2 * weight) for n in (k, k + 1)
    )
    return place(first, before) if after > before else place(second, k - before)


def seed_of(seed, name):
    text = f"{seed} {name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def mixed(sources, weights, num_rows, *, epoch=None, seed=None):
    """The rows of an epoch: ``(name, row)`` for each, rows as ``head`` gives them."""
    names = list(sources)
    root = tree(weights)
    passes = {}
    rows = []
    for k in range(num_rows):
        at, row = place(root, k)
        view = sources[names[at]]
        lap, row = divmod(row, len(view))
        if (at, lap) not in passes:
            order = view if seed is None else view.shuffle(seed_of(seed, names[at]))
            if epoch is not None or lap:
                order = order._with_epoch((epoch or 0) + (lap << 32))
            passes[at, lap] = order.with_format("python_col")[:]["id"]
        rows.append((names[at], passes[at, lap][row]))
    return rows


def shorter(weights):
    """Weights as their smallest whole numbers, for tests that give whole numbers."""
    import math

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


def counted(rows):
    return dict(Counter(name for name, _ in rows))
