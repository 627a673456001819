"""Windows over episodes of robot data, shuffled: ours, plain rows, and a dataset that takes them one by one.

Each yields the number of windows of a batch. Libraries are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEPS, NUMBERS, BATCH = 16, 14, 256
LENGTH = 300
TABLE = "episodes"
COLUMNS = ["action", "state"]
OPTIONS: dict[str, Any] = {
    "shuffle": True,
    "seed": 1,
    "epochs": None,
    "drop_last": True,
    "format": "torch_dict",
}


@dataclass(frozen=True)
class Episodes:
    """Episodes of 300 frames in a LanceDB table, each frame with its action and its state."""

    folder: Path
    num_episodes: int


def make(episodes: Episodes, home: Path) -> None:
    """Write the table to a folder."""
    import lancedb
    import pyarrow as pa

    rng = np.random.default_rng(0)
    count = episodes.num_episodes * LENGTH

    def numbers() -> pa.Array:
        values = pa.array(rng.random(count * NUMBERS, dtype=np.float32))
        return pa.FixedSizeListArray.from_arrays(values, NUMBERS)

    data = pa.table(
        {
            "episode": np.arange(count) // LENGTH,
            "frame": np.arange(count) % LENGTH,
            "action": numbers(),
            "state": numbers(),
        }
    )
    lancedb.connect(home).create_table(TABLE, data)


def opened(episodes: Episodes) -> Any:
    import lanceloader as ll

    perm = ll.open(episodes.folder / f"{TABLE}.lance")
    return perm.select_columns(COLUMNS)


def windows(episodes: Episodes) -> Iterator[int]:
    found = opened(episodes).windows(
        {"action": range(STEPS), "state": [-1, 0]}, by="episode", order="frame"
    )
    for batch in found.loader(BATCH, **OPTIONS):
        yield len(batch["action"])


def plain_rows(episodes: Episodes) -> Iterator[int]:
    """Gather as many rows as windows have steps: the limit."""
    for batch in opened(episodes).loader(BATCH * STEPS, **OPTIONS):
        yield len(batch["action"]) // STEPS


def one_by_one(episodes: Episodes) -> Iterator[int]:
    import lancedb
    from lancedb.permutation import Permutation
    from torch.utils.data import DataLoader

    table = lancedb.connect(episodes.folder).open_table(TABLE)
    dataset = OneByOne(Permutation.identity(table), table.count_rows())
    while True:
        for batch in DataLoader(dataset, BATCH, shuffle=True):
            yield len(batch["action"])


class OneByOne:
    """Windows as a dataset takes them that knows where episodes end: one take of lancedb for each."""

    def __init__(self, perm: Any, num_rows: int) -> None:
        self.perm = perm.select_columns(COLUMNS).with_format("arrow")
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, at: int) -> dict[str, Any]:
        import torch

        first = at // LENGTH * LENGTH
        steps = [-1, *range(STEPS)]
        places = [min(max(at + step, first), first + LENGTH - 1) for step in steps]
        rows = self.perm.__getitems__(sorted(set(places)))
        picked = [sorted(set(places)).index(place) for place in places]
        action, state = (
            rows[name].flatten().to_numpy().reshape(-1, NUMBERS)[picked]
            for name in COLUMNS
        )
        return {
            "action": torch.from_numpy(action[1:]),
            "state": torch.from_numpy(state[:2]),
            "action_is_pad": torch.arange(at, at + STEPS) >= first + LENGTH,
        }
