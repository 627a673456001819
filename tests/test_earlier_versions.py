"""Pickles and states of version 0.1.0 load and return what the same objects return today."""

from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path

import lanceloader as ll
import pytest
from earlier import data, double, open_earlier
from lanceloader import _moved

FOLDER = Path(__file__).parent / "data" / "earlier"
FILL = {"format": "numpy_dict", "nulls": "fill", "fill_value": -1}
ALONE = {"rank": 0, "world_size": 1}


def perm() -> ll.Permutation:
    return ll.Permutation.identity(data())


def tokens() -> ll.Permutation:
    return perm().select_columns(["tokens"])


def mixture() -> ll.Mixture:
    sources = {"a": perm().with_take(20), "b": perm().with_skip(20)}
    return ll.mix(sources, weights={"a": 2, "b": 1})


def rows_loader(**options):
    return perm().loader(4, shuffle=True, seed=7, **FILL, **ALONE, **options)


def tokens_loader():
    budget = {"batch_tokens": 16, "length": "tokens"}
    return tokens().loader(**budget, shuffle=True, seed=2, **FILL, **ALONE)


def packed_loader():
    packed = tokens().pack(8, column="tokens", eos_id=0)
    return packed.loader(2, shuffle=True, seed=2, **FILL, **ALONE)


LOADERS = {
    "loader": lambda: rows_loader(transform=double),
    "loader_tokens": tokens_loader,
    "loader_packed": packed_loader,
    "loader_mixture": lambda: mixture().loader(4, **FILL, **ALONE),
    "loader_epochs": lambda: rows_loader(epochs=3),
}

VIEWS = {
    "plain": perm,
    "shuffled": lambda: perm().shuffle(seed=7).select_columns(["x", "y"]),
    "read_options": perm,
    "factory": lambda: ll.Permutation.identity(open_earlier("")).shuffle(seed=3),
}


def earlier(name):
    return pickle.loads((FOLDER / f"{name}.pickle").read_bytes())


def plain(value):
    """A batch of any format as Python objects."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def served(loader):
    return [plain(batch) for batch in loader]


@pytest.mark.parametrize("name", VIEWS)
def test_permutations(name):
    rows = [row for batch in earlier(name).iter(7) for row in batch]
    assert rows == [row for batch in VIEWS[name]().iter(7) for row in batch]
    assert len(rows) == 40


def test_formats():
    names = ("python", "python_col", "pandas", "polars", "arrow", "torch_dict")
    found = {type(each[:3]).__name__ for each in earlier("formats")}
    wanted = [perm().with_format(name) for name in names]
    assert {type(each.take_offsets([1])).__name__ for each in wanted[:5]} <= found
    filled = earlier("filled")[:40]
    assert filled["x"].tolist() == [0 if x == 11 else x for x in range(40)]


def test_options_of_reading():
    assert "direct" in earlier("read_options").explain()


def test_splits_and_strata():
    wanted = perm().split([0.5, 0.5], seed=1)
    for part, other in zip(earlier("splits"), wanted, strict=True):
        assert part.head(40) == other.head(40)
    strata = earlier("strata")
    assert {key: len(part) for key, part in strata.items()} == {0: 14, 1: 13, 2: 13}


def test_mixtures_and_packed_documents():
    assert earlier("mixture").counts() == mixture().counts()
    packed = earlier("packed")
    assert (
        packed.num_blocks() == tokens().pack(8, column="tokens", eos_id=0).num_blocks()
    )


@pytest.mark.parametrize("name", LOADERS)
def test_loaders(name):
    wanted = served(LOADERS[name]())
    if name == "loader":
        again = earlier(name)
        assert len(again) == len(wanted) == 10
        assert served(again) == wanted
        return
    # It was pickled in the middle of an iteration: the next one begins anew.
    again = earlier(name)
    assert again.state_dict() == states()[name.removeprefix("loader_")]
    assert served(again) == wanted


def test_a_loader_pickled_in_the_middle_stands_there():
    again = earlier("loader_begun")
    assert again.state_dict() == states()["rows"]
    fresh = rows_loader(transform=double)
    fresh.load_state_dict(again.state_dict())
    assert served(fresh) == served(rows_loader(transform=double))[2:]


def states():
    return json.loads((FOLDER / "states.json").read_text())


@pytest.mark.parametrize(
    ("name", "make", "num_batches"),
    [
        ("rows", rows_loader, 2),
        ("tokens", tokens_loader, 1),
        ("packed", packed_loader, 1),
        ("mixture", LOADERS["loader_mixture"], 1),
        ("epochs", LOADERS["loader_epochs"], 12),
    ],
)
def test_states(name, make, num_batches):
    loader = make()
    loader.load_state_dict(states()[name])
    assert served(loader) == served(make())[num_batches:]


def test_names_of_0_1_0_are_those_of_today():
    from lanceloader.loader.loader import Loader
    from lanceloader.loading.finishing import Finish  # type: ignore[import-not-found]
    from lanceloader.loading.loader import Loader as Earlier
    from lanceloader.stages.pipeline import BatchPipeline

    assert Earlier is Loader
    assert Finish is BatchPipeline
    with pytest.raises(ModuleNotFoundError):
        import lanceloader.loading.nothing  # noqa: F401


@pytest.mark.parametrize("name", _moved.MOVED)
def test_every_name_leads_somewhere(name):
    module, classes = _moved.MOVED[name]
    today = importlib.import_module(module)
    assert all(isinstance(getattr(today, new), type) for new in classes.values())
    importlib.import_module(name)
