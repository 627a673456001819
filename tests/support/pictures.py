"""Images for tests, and their files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image


def pattern(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return an image with slopes and edges, from whole numbers only."""
    y, x = np.mgrid[:height, :width]
    red = (x * 7 + y * 3 + seed * 31) % 256
    green = (x * y // 5 + seed * 17) % 256
    blue = np.where((x // 9 + y // 7 + seed) % 2, 230, 40)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return an image such as cameras take: slopes, noise and an edge."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(large).astype(int) + rng.integers(-6, 7, (height, width, 3))
    values[height // 3 : height // 2, width // 4 : width // 2] = 200, 30, 40
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def table_of(files: list[bytes | None]) -> pa.Table:
    """Return a table of files, with the number of each."""
    return pa.table(
        {"image": pa.array(files, pa.binary()), "number": list(range(len(files)))}
    )
