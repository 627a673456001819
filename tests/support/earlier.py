"""What the files in ``tests/data/earlier`` were made of."""

from __future__ import annotations

import pyarrow as pa


def data() -> pa.Table:
    """Forty rows with a null, a class and tokens."""
    return pa.table(
        {
            "x": pa.array(
                [None if row == 11 else row for row in range(40)], pa.int64()
            ),
            "y": [row % 3 for row in range(40)],
            "tokens": [list(range(row, row + row % 5)) for row in range(40)],
        }
    )


def open_earlier(name: str) -> pa.Table:
    """Open the table of any name, as a connection factory does."""
    del name
    return data()


def double(batch: dict) -> dict:
    """Transform a batch of the loaders."""
    return batch | {"twice": batch["y"] * 2}
