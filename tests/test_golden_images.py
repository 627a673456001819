"""The pixels that ``docs/determinism.md`` publishes, wherever rows are decoded."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable

import determinism_page
import lance
import lanceloader as ll
import pytest
import torch
from lanceloader.torch import DataLoader
from pictures import file_of, pattern, table_of

ROWS = 10
IMAGES = next(
    rows for rows in determinism_page.tables() if rows[0][0].startswith("ll.image(")
)
"""Options of ``decode``, and the hash of the pixels of all rows."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("golden") / "t.lance")
    files = [file_of(pattern(60, 80, number)) for number in range(ROWS)]
    lance.write_dataset(table_of(files), path, max_rows_per_file=4)
    return path


def loader_of(path: str, options: str, size: int = 2, **others) -> ll.Loader:
    """Return the loader of the page, in epoch 3."""
    decode = {"image": eval(options, {"ll": ll})}
    perm = ll.open(path, format="torch_dict")
    loader = perm.loader(size, shuffle=True, seed=7, decode=decode, **others)
    return loader.set_epoch(3)


def digest(batches: Iterable[dict[str, torch.Tensor]]) -> str:
    """Return the hash of the pixels of all rows, in the order of the table."""
    images = {
        number: image
        for batch in batches
        for number, image in zip(batch["number"].tolist(), batch["image"], strict=True)
    }
    assert sorted(images) == list(range(ROWS))
    found = hashlib.sha256()
    for number in range(ROWS):
        image = images[number].contiguous()
        found.update(image.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(("options", "wanted"), IMAGES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_pixels_are_those_of_the_page(path, options, wanted, world_size):
    batches = [
        batch
        for rank in range(world_size)
        for batch in loader_of(path, options, rank=rank, world_size=world_size)
    ]
    assert digest(batches) == wanted


@pytest.mark.parametrize(("options", "wanted"), IMAGES)
@pytest.mark.parametrize("worlds", [(1, 2), (2, 3), (3, 1)])
def test_pixels_are_those_of_the_page_after_a_resume(path, options, wanted, worlds):
    first, second = worlds
    batches, states = [], []
    for rank in range(first):
        loader = loader_of(path, options, 1, rank=rank, world_size=first)
        batches.append(next(iter(loader)))
        states.append(pickle.dumps(loader.state_dict()))
    for rank in range(second):
        loader = loader_of(path, options, rank=rank, world_size=second)
        loader.load_state_dict(pickle.loads(states[0]))
        batches += loader
    assert digest(batches) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_pixels_are_those_of_the_page_in_workers(path, num_workers):
    (options, wanted), *_ = IMAGES
    batches = []
    for rank in range(2):
        loader = DataLoader(
            loader_of(path, options, 1, rank=rank, world_size=2),
            num_workers=num_workers,
            multiprocessing_context="spawn",
        )
        iterator = iter(loader)
        batches.append(next(iterator))
        state = loader.state_dict()
        del iterator
    # One process goes on where two with workers stopped.
    loader = loader_of(path, options, 3)
    loader.load_state_dict(state)
    batches += loader
    assert digest(batches) == wanted
