"""Tables of episodes, and the windows over them as a plain loop finds them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def episodes(lengths, seed: int = 0, *, shuffled: bool = True) -> pa.Table:
    """A table of episodes, their rows anywhere in it, with gaps between the numbers of frames."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"e{episode}", 3 * frame + episode)
        for episode, length in enumerate(lengths)
        for frame in range(length)
    ]
    if shuffled:
        rows = [rows[at] for at in rng.permutation(len(rows))]
    count = len(rows)
    state = rng.random((count, 3), dtype=np.float32)
    return pa.table(
        {
            "id": pa.array(np.arange(count, dtype=np.int64)),
            "episode": pa.array([episode for episode, _ in rows], pa.string()),
            "frame": pa.array([frame for _, frame in rows], pa.int32()),
            "state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 3),
            "text": pa.array([f"row {at}" for at in range(count)]),
        }
    )


def window_of(rows, at, steps):
    """The ids of the rows at some steps from a row, ``None`` beyond its episode.

    Args:
        rows: Rows with ``id``, ``episode`` and ``frame`` that may be neighbours.
        at: The id of the row.
        steps: The steps.
    """
    (own,) = [row for row in rows if row["id"] == at]
    same = [row for row in rows if row["episode"] == own["episode"]]
    same.sort(key=lambda row: row["frame"])
    place = same.index(own)
    return [
        same[place + step]["id"] if 0 <= place + step < len(same) else None
        for step in steps
    ]


def edge_of(rows, at, step):
    """The id of the first or the last row of the episode of a row, in the direction of a step."""
    (own,) = [row for row in rows if row["id"] == at]
    same = [row for row in rows if row["episode"] == own["episode"]]
    pick = min if step < 0 else max
    return pick(same, key=lambda row: row["frame"])["id"]


def edge_window(rows, at, steps):
    """As ``window_of``, with the rows at the ends repeated."""
    return [
        edge_of(rows, at, step) if found is None else found
        for step, found in zip(steps, window_of(rows, at, steps), strict=True)
    ]
