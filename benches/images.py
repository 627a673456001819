"""How fast images are decoded for training, beside Pillow in the workers of torch's DataLoader.

JPEG files of 500 x 375 pixels, random resized crops of 224 with flips, batches of 64 as uint8. The arms take
turns, and the table shows the median of their rounds. With ``--stragglers``, one row of a hundred
is an image that costs 50 times as much.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lanceloader as ll
import numpy as np
import pyarrow as pa
import torch
from lanceloader.images import decode_threads
from PIL import Image
from torch.utils.data import DataLoader, Dataset

SIZE, BATCH, WORKERS = 224, 64, 2
OPTIONS = ll.image(SIZE, crop="random", flip=True)
LIMIT = "decoder alone"


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="lanceloader-images-") as folder:
        files = make_files(options.rows, stragglers=options.stragglers)
        arms = make_arms(Path(folder), files)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, batches in arms.items():
                rates[name].append(rate_of(batches(), options.seconds))
    medians = {name: statistics.median(of) for name, of in rates.items()}
    print(f"{'arm':<42} {'images/s':>9} {'of the limit':>13}")
    for name, rate in medians.items():
        print(f"{name:<42} {rate:>9,.0f} {rate / medians[LIMIT]:>13.2f}")


def make_arms(
    folder: Path, files: list[bytes]
) -> dict[str, Callable[[], Iterator[Any]]]:
    """Return functions that begin to yield batches, by the name of the arm."""
    import lancedb
    from lancedb.permutation import Permutation

    data = pa.table({"image": pa.array(files, pa.large_binary())})
    table = lancedb.connect(folder / "db").create_table("images", data)
    perm = ll.Permutation.identity(table)
    lancedbs = Permutation.identity(table)
    paths = [folder / f"{number}.jpg" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    threads = decode_threads()

    def decoder() -> Iterator[Any]:
        keys = np.arange(BATCH, dtype=np.uint64)
        while True:
            for start in range(0, len(files) - BATCH + 1, BATCH):
                yield OPTIONS.recipe.decode(data[start : start + BATCH], keys, threads)

    def ours() -> Iterator[Any]:
        yield from perm.loader(
            BATCH, shuffle=True, seed=1, epochs=None, drop_last=True,
            decode={"image": OPTIONS}, format="torch_dict",
        )  # fmt: skip

    def by_torch(dataset: Any) -> Callable[[], Iterator[Any]]:
        def batches() -> Iterator[Any]:
            loader = DataLoader(
                dataset, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS,
                multiprocessing_context="spawn", persistent_workers=True,
                collate_fn=augmented,
            )  # fmt: skip
            while True:
                yield from loader

        return batches

    return {
        LIMIT: decoder,
        "lanceloader": ours,
        f"lancedb, Pillow, {WORKERS} workers": by_torch(lancedbs),
        f"files, Pillow, {WORKERS} workers": by_torch(Files(paths)),
    }


class Files(Dataset[dict[str, bytes]]):
    """Images in files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> dict[str, bytes]:
        return {"image": self.paths[at].read_bytes()}


def augmented(rows: list[dict[str, bytes]]) -> torch.Tensor:
    """Return what torchvision makes of the files with RandomResizedCrop and a flip, by Pillow."""
    pixels = np.stack([cropped(Image.open(io.BytesIO(row["image"]))) for row in rows])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def cropped(image: Image.Image) -> np.ndarray[Any, Any]:
    image = image.convert("RGB").crop(box_of(*image.size))
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def box_of(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def make_files(num_rows: int, *, stragglers: bool) -> list[bytes]:
    files = [jpeg(375, 500, seed) for seed in range(min(num_rows, 64))]
    files = [files[number % len(files)] for number in range(num_rows)]
    if stragglers:
        side = math.sqrt(50)
        files[::100] = [jpeg(int(375 * side), int(500 * side), 1)] * len(files[::100])
    return files


def jpeg(height: int, width: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-9, 10, (height, width, 3))
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def rate_of(batches: Iterator[Any], seconds: float) -> float:
    """Return images per second, after the first batches."""
    for _ in range(2 * WORKERS):
        next(batches)
    start, num_batches = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(batches)
        num_batches += 1
    rate = num_batches * BATCH / (time.perf_counter() - start)
    batches.close()  # type: ignore[attr-defined]
    return rate


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stragglers", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
