"""Images per second, decoded, cropped, resized and flipped: ours, and others' on as many cores.

JPEG files of 500 x 375 pixels, random resized crops of 224 with flips, shuffled, batches of 64 as
uint8. In some files one image of a hundred has 50 times as many pixels.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.bench import Bench, Figures
from harness.child import function
from harness.process import child
from harness.tables import make_once
from peers import images as peer
from peers.images import WORKERS, Images

IMAGES = "images"
ROWS = 2048
LIMIT = "the decoder alone, files in memory"
OURS = "lanceloader, loader(decode=)"
LANCEDB = f"lancedb Permutation, Pillow, {WORKERS} workers"
FILES = "files, {}, " + f"{WORKERS} workers"
STRAGGLERS = "1 % cost 50 times: "
TURNS = 3
"""A turn is so many times longer than those of other parts: batches take longer."""


@dataclass(frozen=True)
class Way:
    """How images become batches: a function of ``peers.images``."""

    opened: str
    options: dict[str, str] = field(default_factory=dict)
    venv: str = ""


WAYS = {
    LIMIT: Way("decoder"),
    OURS: Way("loader"),
    LANCEDB: Way("lancedb_rows", {"decode": "Pillow"}),
    **{FILES.format(each): Way("files", {"decode": each}) for each in peer.AUGMENTATIONS},
    f"NVIDIA DALI on the processor, {WORKERS} threads": Way("dali", venv="dali"),
}  # fmt: skip
OF_STRAGGLERS = (LIMIT, OURS, LANCEDB)


def run(bench: Bench) -> None:
    for stragglers in (False, True):
        images = made(bench, stragglers=stragglers)
        prefix = STRAGGLERS if stragglers else ""
        cases = {
            f"{prefix}{name}": functools.partial(one, bench, images, way)
            for name, way in WAYS.items()
            if not stragglers or name in OF_STRAGGLERS
        }
        bench.measure(IMAGES, cases, bench.rounds)


def made(bench: Bench, *, stragglers: bool) -> Images:
    rows = ROWS // (8 if bench.quick else 1)
    name = f"jpeg-{rows}{'-stragglers' if stragglers else ''}"
    images = Images(bench.folder / name, rows)
    make_once(
        images.folder, functools.partial(peer.make, images, stragglers=stragglers)
    )
    return images


def one(bench: Bench, images: Images, way: Way, number: int) -> Figures:
    del number
    arguments = {"images": images, "way": way, "seconds": bench.seconds * TURNS}
    job = "scenarios.images:timed"
    with (
        bench.empty_folder() as cache,
        child(job, cache=cache, venv=way.venv, **arguments) as running,
    ):
        return running.next()


def timed(images: Images, way: Way, seconds: float) -> Iterator[Any]:
    """Time batches, after as many as may lie ready at first."""
    opened = function(f"peers.images:{way.opened}")
    yield
    start = time.perf_counter()
    batches = opened(images, **way.options)
    next(batches)
    first_batch_s = time.perf_counter() - start
    for _ in itertools.islice(batches, 2 * peer.WORKERS):
        pass
    start, num_batches = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(batches)
        num_batches += 1
    took = time.perf_counter() - start
    rate = num_batches * peer.BATCH / took
    yield {"images_per_s": rate, "first_batch_s": first_batch_s}
