"""What random operations on the rows of a mixture draw from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from lanceloader.numbers import numbers_of, numpy_of, rows_at

if TYPE_CHECKING:
    import numpy as np

    from lanceloader.mixing.base import MixedSources
    from lanceloader.units.share import Share

    Numbers = np.ndarray[Any, Any]

__all__ = ["keyed_rows", "seed_of"]

PASS = 2**32
"""The difference between the epochs of two passes over a source."""


def seed_of(seed: int, name: Any) -> int:
    """Return the seed of a source."""
    text = f"{seed} {name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def keyed_rows(
    mixture: MixedSources, epoch: int | None, share: Share, number: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Return the seeds, the epochs and the places of the rows of a batch, each for its source.

    A source that starts again within an epoch draws anew, as it is also read in another order.
    """
    import numpy as np

    parts = [
        rows_between(mixture, epoch, start, end) for start, end in share.runs(number)
    ]
    sources, passes, places = (
        np.concatenate([np.zeros(0, np.uint64), *(part[at] for part in parts)])
        for at in range(3)
    )
    chosen = mixture._randomness or [(0, 0)] * len(mixture.names)
    named = zip(chosen, mixture.names, strict=True)
    seeds = np.array([seed_of(seed, name) for (seed, _), name in named], np.uint64)
    epochs = np.array([own if epoch is None else epoch for _, own in chosen], np.uint64)
    at = sources.astype(np.intp)
    return seeds[at], epochs[at] + passes * np.uint64(PASS), places


def rows_between(
    mixture: MixedSources, epoch: int | None, start: int, end: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Return the sources, the passes and the places of the rows at some positions of an epoch."""
    import numpy as np

    mix = mixture._epochs.of(epoch)
    sources = numpy_of(numbers_of(mix.sources(start, end))).astype(np.intp)
    before = np.array(mix.counts(start), np.uint64)
    groups = np.array(mixture._groups)
    sizes = np.array([order.num_rows for order in mixture._orders], np.uint64)
    rows, places = np.zeros((2, len(sources)), np.uint64)
    for source in np.unique(sources):
        mine = np.flatnonzero(sources == source)
        rows[mine] = before[source] + np.arange(len(mine), dtype=np.uint64)
    for group in np.unique(groups[sources]):
        mine = np.flatnonzero(groups[sources] == group)
        first = int(before[groups == group].sum())
        order = mixture._order(int(group), epoch)
        places[mine] = rows_at(order, range(first, first + len(mine)))
    return sources, rows // sizes[sources], places
