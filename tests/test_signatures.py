"""What ``help`` shows: every public callable has a true signature; and hints for arguments of others."""

from __future__ import annotations

import inspect
import pydoc
import re

import lanceloader as ll
import lanceloader.cache
import lanceloader.permutation
import lanceloader.plots
import lanceloader.ray
import lanceloader.streaming
import lanceloader.torch
import lanceloader.transformers
import pyarrow as pa
import pytest
import torch
from lanceloader.loader.hints import INSTEAD_OF
from lanceloader.loader.options import DEFAULTS
from lanceloader.loader.packing import PackedView

MODULES = [
    *(ll, lanceloader.cache, lanceloader.permutation, lanceloader.plots),
    lanceloader.ray,
    *(lanceloader.streaming, lanceloader.torch, lanceloader.transformers),
]

# Callables that forward any arguments, and to what.
MEANT = {
    "read": "ray.data.read_datasource, whose options change with its releases",
    "StreamingDataLoader": "torch's DataLoader, as in LanceDB",
    "SetEpoch.on_epoch_begin": "transformers, which passes more in other releases",
}


def public_callables():
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or not value.__module__.startswith("lanceloader"):
                continue
            if inspect.isclass(value) and issubclass(value, Exception):
                continue
            yield name, value
            yield from methods(name, value)
    yield from methods("PackedView", PackedView)


def methods(name, cls):
    if not inspect.isclass(cls):
        return
    for member in dir(cls):
        value = getattr(cls, member)
        ours = (getattr(value, "__module__", None) or "").startswith("lanceloader")
        if member[0] != "_" and callable(value) and ours:
            yield f"{name}.{member}", value


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_signatures_name_every_argument(name):
    signature = inspect.signature(CALLABLES[name])
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    assert bool(kinds & variable) == (name in MEANT)


def test_the_methods_that_matter_are_checked():
    assert {"Permutation.split", "Permutation.loader", "Mixture.loader"} <= set(
        CALLABLES
    )
    assert {"PackedView.loader", "DataLoader", "Loader.state_dict"} <= set(CALLABLES)
    assert set(MEANT) <= set(CALLABLES)


@pytest.mark.parametrize(
    "function", [ll.Mixture.loader, PackedView.loader, ll.torch.DataLoader]
)
def test_forwarded_options_are_shown_as_they_are(function):
    shown = inspect.signature(function).parameters
    own = inspect.signature(ll.Permutation.loader).parameters
    for name, default in DEFAULTS.items():
        assert name in shown
        if shown[name].kind is inspect.Parameter.KEYWORD_ONLY and name in own:
            assert shown[name].default is default or name in ("seed", "drop_last")
            assert isinstance(shown[name].annotation, str)


def test_help_of_split():
    text = pydoc.render_doc(ll.Permutation.split, renderer=pydoc.plaintext)
    assert "split(self, sizes:" in text
    assert "stratify_by" in text
    whole = pydoc.render_doc(ll.Permutation, renderer=pydoc.plaintext)
    assert " split(self, sizes:" in whole


@pytest.fixture(scope="module")
def perm():
    return ll.open(pa.table({"x": range(10), "tokens": [[1]] * 10}))


SOURCES = {
    "rows": lambda perm: perm,
    "blocks": lambda perm: perm.pack(4, column="tokens"),
    "mixture": lambda perm: ll.mix([perm, perm]),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", INSTEAD_OF)
def test_arguments_of_other_loaders_are_answered(perm, source, name):
    with pytest.raises(TypeError) as caught:
        SOURCES[source](perm).loader(2, **{name: 1})
    message = str(caught.value)
    assert message.startswith(f"loader() got an unexpected keyword argument '{name}'; ")
    assert INSTEAD_OF[name] in message


def test_what_is_suggested_exists():
    assert not set(INSTEAD_OF) & set(DEFAULTS)
    named = re.findall(r"`(\w+)`|\b(\w+)=", " ".join(INSTEAD_OF.values()))
    for name in {one or other for one, other in named}:
        known = name in DEFAULTS or name == "num_workers"
        assert known, name


def test_every_argument_of_torch_s_loader_is_known_or_answered():
    theirs = set(inspect.signature(torch.utils.data.DataLoader).parameters)
    ours = set(inspect.signature(ll.Permutation.loader).parameters) | set(INSTEAD_OF)
    assert theirs - ours <= {"sampler", "batch_sampler"}


@pytest.mark.parametrize("source", SOURCES)
def test_unknown_arguments_list_those_that_exist(perm, source):
    with pytest.raises(TypeError, match=r"'colour'; it takes .*batch_size.*progress"):
        SOURCES[source](perm).loader(2, colour=1)


def test_two_batch_sizes_are_python_s_error(perm):
    with pytest.raises(TypeError, match="multiple values"):
        perm.loader(2, batch_size=3)
