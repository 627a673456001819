"""Options that belong together, as one object: the same loader as with single options."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.loader.options import DEFAULTS, GROUPS

ROWS = 23


@pytest.fixture
def perm():
    return ll.open(pa.table({"x": range(ROWS)})).with_format("numpy_dict")


def picky(batch):
    if (batch["x"] % 5 == 0).any():
        raise LookupError("five")
    return batch


def repaired(error, row):
    return {"x": np.array([-1])}


def allowed(error):
    return isinstance(error, LookupError)


def rows(loader):
    return [batch["x"].tolist() for batch in loader]


GIVEN = [
    ("reading", ll.ReadOptions, {"read": "direct"}),
    ("reading", ll.ReadOptions, {"memory_limit": "64MiB", "threads": 2}),
    ("reading", ll.ReadOptions, {"cache_dir": "", "read": "resident"}),
    ("ranks", ll.RankOptions, {"rank": 1, "world_size": 3}),
    ("ranks", ll.RankOptions, {"rank": 0, "world_size": 2, "tail": "drop"}),
    ("ranks", ll.RankOptions, {"tail": "uneven"}),
    ("errors", ll.ErrorOptions, {"on_error": "skip"}),
    ("errors", ll.ErrorOptions, {"on_error": allowed}),
    (
        "errors",
        ll.ErrorOptions,
        {"on_error": "fill", "error_value": {"x": np.array([7])}},
    ),
    ("errors", ll.ErrorOptions, {"on_error": "fill", "repair": repaired}),
]


@pytest.mark.parametrize(("name", "kind", "options"), GIVEN)
def test_an_object_says_the_same_as_its_options(perm, name, kind, options):
    transform = picky if name == "errors" else None
    flat = perm.loader(4, transform=transform, **options)
    group = perm.loader(4, transform=transform, **{name: kind(**options)})
    assert rows(group) == rows(flat)
    assert group.world == flat.world
    assert group._steps == flat._steps
    assert group.permutation.read_options == flat.permutation.read_options
    for other in ("on_error", "repair"):
        policy, wanted = group.pipeline.policy, flat.pipeline.policy
        assert getattr(policy, other) == getattr(wanted, other)


@pytest.mark.parametrize(("name", "kind", "options"), GIVEN)
def test_an_option_given_twice_is_refused(perm, name, kind, options):
    """Both are named. An option with the default of loader() is not noticed."""
    group = kind(**options)
    for option, value in options.items():
        if option == "on_error":
            # Alone, "fill" would lack a value.
            value = "warn"
        words = rf"`{option}`=.* and `{name}`={kind.__name__}.* both set `{option}`"
        with pytest.raises(ValueError, match=words):
            perm.loader(4, transform=picky, **{option: value, name: group})


@pytest.mark.parametrize(("name", "kind", "options"), GIVEN)
def test_objects_are_frozen_and_pickle(name, kind, options):
    group = kind(**options)
    for other in (pickle.loads(pickle.dumps(group)), copy.deepcopy(group)):
        assert repr(other) == repr(group)
        if kind is not ll.ErrorOptions:
            assert other == group
            assert hash(other) == hash(group)
    with pytest.raises(dataclasses.FrozenInstanceError):
        group.tail = "pad"


def test_representations_have_what_was_passed():
    assert repr(ll.ReadOptions()) == "ReadOptions()"
    assert repr(ll.RankOptions(tail="pad")) == "RankOptions(tail='pad')"
    assert repr(ll.ErrorOptions("skip")) == "ErrorOptions(on_error='skip')"
    options = ll.ReadOptions(memory_limit="1KiB", cache_dir="a", threads=3)
    assert eval(repr(options), vars(ll)) == options
    assert options.memory_limit == 1024
    assert options.cache_dir == str(Path("a").absolute())


def test_options_of_an_object_go_together_with_others(perm):
    loader = perm.loader(
        4,
        rank=1,
        world_size=2,
        ranks=ll.RankOptions(tail="drop"),
        reading=ll.ReadOptions(threads=1),
        read="direct",
    )
    assert loader.world.world_size == 2
    assert loader.permutation.read_options == ll.ReadOptions("direct", threads=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ll.ReadOptions("fast"), "`read` must be one of"),
        (lambda: ll.ReadOptions(memory_limit="much"), "`memory_limit` must be"),
        (lambda: ll.ReadOptions(threads=0), "`threads` must be at least 1"),
        (lambda: ll.RankOptions(rank=1), "must be passed together"),
        (lambda: ll.RankOptions(3, 2), "`rank` must be below"),
        (lambda: ll.RankOptions(tail="cut"), "`tail` must be one of"),
        (lambda: ll.ErrorOptions("ignore"), "`on_error` must be"),
        (lambda: ll.ErrorOptions("fill"), "exactly one of them"),
        (lambda: ll.ErrorOptions(error_value=[1]), "exactly one of them"),
    ],
)
def test_objects_check_their_options(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_objects_of_another_type_are_refused(perm):
    with pytest.raises(
        TypeError, match=r"`reading` must be a lanceloader\.ReadOptions"
    ):
        perm.loader(4, reading={"read": "direct"})
    with pytest.raises(TypeError, match=r"`ranks` must be .*not of type ReadOpt"):
        perm.loader(4, ranks=ll.ReadOptions())
    with pytest.raises(TypeError, match="`errors` must be"):
        ll.mix([perm, perm]).loader(4, errors="skip")


def test_mixtures_blocks_and_torch_s_loader_take_objects(perm):
    ranks = ll.RankOptions(1, 2)
    from lanceloader.torch import DataLoader

    assert ll.mix([perm, perm]).loader(4, ranks=ranks).world.rank == 1
    tokens = ll.open(pa.table({"t": [[1, 2], [3]]}))
    assert tokens.pack(4, eos_id=0).loader(1, ranks=ranks).world.rank == 1
    assert DataLoader(perm, 4, ranks=ranks).dataset.world.rank == 1


def test_every_option_of_an_object_is_one_of_the_loader():
    for kind in GROUPS.values():
        names = {field.name for field in dataclasses.fields(kind)}
        assert names <= DEFAULTS.keys()


def test_an_unknown_option_is_python_s_own_error(perm):
    with pytest.raises(TypeError, match="unexpected keyword argument 'bach_size'"):
        perm.loader(bach_size=4)
    with pytest.raises(TypeError, match=r"'bach_size'; did you mean `batch_size`\?"):
        ll.mix([perm, perm]).loader(bach_size=4)


DEPRECATED = """
import warnings
import pyarrow as pa
from lanceloader.permutation import Permutation
perm = Permutation.identity(pa.table({"x": range(4)}))
for _ in range(3):
    perm.skip(1)
perm.skip(1)
"""


def test_a_deprecated_name_warns_once_for_each_line(tmp_path):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(DEPRECATED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    )
    found = [line for line in done.stderr.splitlines() if "deprecated" in line]
    assert found == [
        f"{script}:{line}: DeprecationWarning: skip is deprecated. Use with_skip instead"
        for line in (7, 8)
    ]
