"""Random resized crops of JPEG files with flips, as batches of uint8: ours, and others' on the processor.

Worker processes import this file: libraries are imported where they are used.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZE, BATCH, WORKERS = 224, 64, 2
HEIGHT, WIDTH = 375, 500
TABLE = "images"
COSTLY = 50
"""How many times as many pixels a straggler has."""
STRAGGLER_EVERY = 100

Batches = Iterator[Any]


@dataclass(frozen=True)
class Images:
    """The same JPEG files in a LanceDB table and in a folder."""

    folder: Path
    num_rows: int

    @property
    def database(self) -> Path:
        return self.folder / "db"

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{number}.jpg" for number in range(self.num_rows)]


def make(images: Images, home: Path, *, stragglers: bool) -> None:
    """Write the table and the files to a folder."""
    import lancedb
    import pyarrow as pa

    made = Images(home, images.num_rows)
    files = files_of(images.num_rows, stragglers=stragglers)
    for path, file in zip(made.paths, files, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    column = pa.array(files, pa.large_binary())
    lancedb.connect(made.database).create_table(TABLE, pa.table({"image": column}))


def files_of(num_rows: int, *, stragglers: bool) -> list[bytes]:
    different = [jpeg(HEIGHT, WIDTH, seed) for seed in range(min(num_rows, 64))]
    files = list(itertools.islice(itertools.cycle(different), num_rows))
    if stragglers:
        side = math.sqrt(COSTLY)
        large = jpeg(int(HEIGHT * side), int(WIDTH * side), 1)
        files[::STRAGGLER_EVERY] = [large] * len(files[::STRAGGLER_EVERY])
    return files


def jpeg(height: int, width: int, seed: int) -> bytes:
    """Return a JPEG file of smooth colours with some noise, as long as a photograph's."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-9, 10, (height, width, 3))
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


# Ours


def decoder(images: Images) -> Batches:
    """Decode batches that are in memory, one after another: the limit."""
    import lanceloader as ll
    import pyarrow as pa
    from lanceloader.images import decode_threads

    options = ll.image(SIZE, crop="random", flip=True)
    files = [path.read_bytes() for path in images.paths]
    table = pa.table({"image": pa.array(files, pa.large_binary())})
    keys, threads = np.arange(BATCH, dtype=np.uint64), decode_threads()
    while True:
        for start in range(0, len(files) - BATCH + 1, BATCH):
            rows = table.slice(start, BATCH)
            yield options.recipe.decode(rows, keys, threads)


def loader(images: Images) -> Batches:
    import lanceloader as ll

    perm = ll.open(images.database / f"{TABLE}.lance")
    options = ll.image(SIZE, crop="random", flip=True)
    yield from perm.loader(
        BATCH, shuffle=True, seed=1, epochs=None, drop_last=True,
        decode={"image": options}, format="torch_dict",
    )  # fmt: skip


# Others


def lancedb_rows(images: Images, decode: str) -> Batches:
    import lancedb
    from lancedb.permutation import Permutation

    table = lancedb.connect(images.database).open_table(TABLE)
    return in_workers(Permutation.identity(table), decode)


def files(images: Images, decode: str) -> Batches:
    return in_workers(Files(images.paths), decode)


def in_workers(dataset: Any, decode: str) -> Batches:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS,
        multiprocessing_context="spawn", persistent_workers=True,
        collate_fn=functools.partial(collate, decode=decode),
    )  # fmt: skip
    while True:
        yield from loader


class Files:
    """A dataset of images in files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> dict[str, bytes]:
        return {"image": self.paths[at].read_bytes()}


def collate(rows: list[dict[str, bytes]], decode: str) -> Any:
    augment = AUGMENTATIONS[decode]
    return augment([row["image"] for row in rows])


def by_pillow(files: list[bytes]) -> Any:
    """Crop and resize as torchvision's RandomResizedCrop does with Pillow's images."""
    import torch
    from PIL import Image

    def cropped(file: bytes) -> Any:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        image = image.crop(box_of(*image.size))
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    pixels = np.stack([cropped(file) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def box_of(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def by_torchvision(files: list[bytes]) -> Any:
    import torch
    from torchvision.io import decode_jpeg

    return augmented(
        decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8))
        for file in files
    )


def by_torchcodec(files: list[bytes]) -> Any:
    import torch
    from torchcodec.decoders import decode_jpeg

    return augmented(
        decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8))
        for file in files
    )


def by_simplejpeg(files: list[bytes]) -> Any:
    import simplejpeg
    import torch

    return augmented(
        torch.from_numpy(simplejpeg.decode_jpeg(file)).permute(2, 0, 1)
        for file in files
    )


def augmented(images: Iterator[Any]) -> Any:
    import torch

    crop = torchvision_crop()
    return torch.stack([crop(image) for image in images])


@functools.cache
def torchvision_crop() -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(SIZE, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


AUGMENTATIONS = {
    "Pillow": by_pillow,
    "torchvision": by_torchvision,
    "torchcodec": by_torchcodec,
    "simplejpeg": by_simplejpeg,
}


def dali(images: Images) -> Batches:
    """Decode the crops only, on two threads: what it gives for the processor."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        files, _ = fn.readers.file(
            files=list(map(str, images.paths)), random_shuffle=True, name="files"
        )
        found = fn.decoders.image_random_crop(
            files, device="cpu", random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
        )  # fmt: skip
        found = fn.resize(
            found, size=(SIZE, SIZE), interp_type=types.DALIInterpType.INTERP_LINEAR,
            antialias=True,
        )  # fmt: skip
        found = fn.flip(found, horizontal=fn.random.coin_flip())
        return fn.transpose(found, perm=[2, 0, 1])

    running = pipeline()
    running.build()
    while True:
        (found,) = running.run()
        yield found.as_array()
