"""Mistakes of new users: the message says what to pass instead."""

from __future__ import annotations

import multiprocessing

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.sources.mistakes import warn_of_misspelt
from lanceloader.streaming import StreamingDataset

pytest.importorskip("lancedb")

DATA = pa.table({"hour": list(range(10)), "name": ["a"] * 10})


@pytest.fixture(scope="module")
def perm():
    return ll.open(DATA)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"x": [1]}, r"not of type dict: pass pyarrow\.table\(data\)"),
        ([{"x": 1}], r"not of type list: pass pyarrow\.Table\.from_pylist\(rows\)"),
        (iter([]), r"not of type list_iterator: .*from_pylist\(list\(rows\)\)"),
        (np.zeros(3), r"not of type ndarray: .*a column for each array"),
        (None, "not of type NoneType$"),
    ],
)
def test_what_is_not_a_table(value, words):
    with pytest.raises(TypeError, match=words):
        ll.open(value)


def test_a_connection_is_not_a_table(tmp_path):
    import lancedb

    with pytest.raises(TypeError, match=r"pass connection\.open_table\(name\)"):
        ll.open(lancedb.connect(tmp_path))


def test_a_permutation_is_open_already(perm):
    with pytest.raises(TypeError, match="use it as it is, or pass its `base_table`"):
        ll.open(perm)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3a://bucket/t.lance", "write s3:// instead of s3a://"),
        ("https://host/bucket/t.lance", "the storage option `aws_endpoint`"),
    ],
)
def test_addresses_that_lance_does_not_read(uri, words):
    with pytest.raises(ValueError, match=words):
        ll.open(uri)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("aws_regoin", "aws_region"),
        ("AWS_ACESS_KEY_ID", "aws_access_key_id"),
        ("endpont", "endpoint"),
    ],
)
def test_storage_options_that_are_misspelt(name, meant):
    with pytest.warns(UserWarning, match=f"'{name}', .* did you mean '{meant}'"):
        warn_of_misspelt({name: "value"})


@pytest.mark.parametrize(
    "name", ["AWS_REGION", "endpoint", "allow_http", "client_max_retries", "timeout"]
)
def test_storage_options_that_are_not_misspelt(name, recwarn):
    warn_of_misspelt({name: "value"})
    assert not recwarn


@pytest.mark.parametrize("uri", ["s3://bucket/t.lance", "hf://datasets/a/b/t.lance"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_retry_timeout", "5s"),
        ("CLIENT_RETRY_TIMEOUT", "1.5"),
        ("client_max_retries", "-1"),
        ("client_max_retries", ""),
    ],
)
def test_storage_options_that_should_be_numbers(uri, name, value):
    """Lance and object_store take their defaults for them."""
    words = rf"`{name.lower()}` is \"{value}\": wanted a whole number, such as \"30?\""
    with pytest.raises(ValueError, match=words):
        ll.open(uri, storage_options={name: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 0.9, "val": 0.1}, "pass the parts as a dict"),
        ({"sizes": [1], "stratify": "name"}, "pass `stratify_by`"),
        ({"sizes": [1], "sead": 7}, "did you mean `seed`"),
    ],
)
def test_arguments_that_a_split_does_not_have(perm, options, words):
    with pytest.raises(TypeError, match=rf"^split\(\) got an unexpected .*{words}"):
        perm.split(**options)


@pytest.mark.parametrize(
    ("folds", "words"),
    [(1, "`folds` must be at least 2, got 1"), (11, "`folds`=11 exceeds .* rows, 10")],
)
def test_numbers_of_folds(perm, folds, words):
    with pytest.raises(ValueError, match=words):
        perm.kfold(folds, seed=1)


def test_text_in_double_quotes_is_a_column(perm):
    with pytest.raises(
        ll.errors.ColumnNotFoundError, match="a string has single quotes: 'jazz'"
    ):
        perm.filter('name = "jazz"')


def test_columns_that_are_near(perm):
    with pytest.raises(ll.errors.ColumnNotFoundError, match=r"did you mean `hour`\?$"):
        perm.select_columns(["hours"])
    wide = ll.open(pa.table({"label_a": [1], "label_b": [2]}))
    with pytest.raises(
        ll.errors.ColumnNotFoundError,
        match=r"did you mean `label_[ab]` or `label_[ab]`\?$",
    ):
        wide.select_columns(["label"])


@pytest.mark.parametrize(
    ("predicate", "words"),
    [
        (3, "a function or a boolean array .* not 3 of type int"),
        (np.ones(10, int), r"filter\(mask\.astype\(bool\)\), or select\(positions\)"),
        (np.ones(5, bool), r"not an array of dtype bool and shape \(5,\)$"),
    ],
)
def test_what_is_not_a_filter(perm, predicate, words):
    with pytest.raises(ValueError, match=words):
        perm.filter(predicate)


def test_a_transform_that_returns_nothing(perm):
    with pytest.warns(
        UserWarning, match="`transform` returned None, .*: return the batch"
    ):
        batches = list(perm.loader(5, transform=lambda batch: None))
    assert batches == [None, None]


def test_progress_is_no_text(perm):
    with pytest.raises(TypeError, match=r"`progress` must be .* not 'yes'"):
        perm.warm(progress="yes")


def test_labels_are_a_dict(perm):
    with pytest.raises(TypeError, match=r"`labels` must be a dict, .* not 'train'"):
        perm.loader(5).stats().to_prometheus("train")


def test_tables_in_place_of_permutations(perm):
    from lanceloader.torch import DataLoader

    with pytest.raises(TypeError, match=r"not Table: pass lanceloader\.open\(table\)"):
        DataLoader(DATA, 5)


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_lambdas_are_not_sent_to_workers(perm):
    from lanceloader.torch import DataLoader

    loader = DataLoader(
        perm,
        5,
        transform=lambda batch: batch,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    with pytest.raises(Exception, match="pickle") as found:
        next(iter(loader))
    assert "define them at the top level of a module" in found.value.__notes__[-1]


def test_arguments_of_streaming(tmp_path):
    import lancedb

    table = lancedb.connect(tmp_path).create_table("t", DATA)
    with pytest.raises(TypeError, match="`shuffle` must be True or False, not 'yes'"):
        StreamingDataset(table, shuffle="yes")
    with pytest.raises(TypeError, match="`epoch` must be a whole number, not '1'"):
        StreamingDataset(table).set_epoch("1")
