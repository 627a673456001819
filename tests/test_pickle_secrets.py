"""Pickles hold no credentials; copies within a process and spawned children keep them."""

from __future__ import annotations

import copy
import copyreg
import functools
import pickle
import subprocess
import sys
from multiprocessing.context import set_spawning_popen

import cloudpickle
import importable
import lance
import lancedb
import lanceloader as ll
import lanceloader.torch
import pytest
from source_kinds import dataset, ids, lancedb_table, travelled

SECRETS = {
    "aws_secret_access_key": "hush-1",
    "AWS_SESSION_TOKEN": "hush-2",
    "aws_access_key_id": "hush-3",
    "azure_storage_account_key": "hush-4",
    "azure_storage_sas_token": "hush-5",
    "azure_client_secret": "hush-6",
    "google_service_account_key": "hush-7",
    "password": "hush-8",
    "hf_token": "hush-9",
    "bearer_token": "hush-10",
    "headers.authorization": "hush-11",
}
PLAIN = {"aws_region": "eu-west-1", "allow_http": "true", "timeout": "30s"}
# Says that there are no credentials: nothing is left to open a public bucket without it.
ANONYMOUS = {"aws_skip_signature": "true"}


def with_options(folder, kind, options):
    if kind == "path":
        return ll.open(dataset(folder).uri, storage_options=options)
    if kind == "dataset":
        return ll.open(lance.dataset(dataset(folder).uri, storage_options=options))
    table = lancedb_table(folder / "db")
    table = lancedb.connect(folder / "db", storage_options=options).open_table("t")
    if kind == "plan":
        plan = ll.permutation_builder(table).shuffle(seed=1).execute()
        return ll.Permutation.from_tables(table, plan)
    return ll.open(table)


@pytest.mark.parametrize("kind", ["path", "dataset", "lancedb", "plan"])
def test_pickles_hold_no_credentials(tmp_path, kind):
    """BUG-34."""
    perm = with_options(tmp_path, kind, {**SECRETS, **PLAIN})
    for view in (perm, perm.shuffle(seed=1), perm.filter("id > 3"), travelled(perm)):
        for pickled in (pickle.dumps(view), cloudpickle.dumps(view)):
            assert b"hush" not in pickled
            assert b"eu-west-1" in pickled
        assert ids(travelled(view)) == ids(view)


def test_other_storage_options_are_pickled(tmp_path):
    perm = with_options(tmp_path, "path", {**SECRETS, **PLAIN, **ANONYMOUS})
    assert travelled(perm).source.storage_options == PLAIN | ANONYMOUS


def test_spawned_children_get_the_credentials(tmp_path):
    options = {**SECRETS, **PLAIN}
    perm = with_options(tmp_path, "lancedb", options)
    set_spawning_popen("a child")
    try:
        pickled = pickle.dumps(perm)
    finally:
        set_spawning_popen(None)
    again = pickle.loads(pickled)
    assert options.items() <= again.source.storage_options.items()


def test_a_copy_in_this_process_keeps_its_credentials(tmp_path):
    perm = with_options(tmp_path, "lancedb", {**SECRETS, **PLAIN})
    options = perm.source.storage_options
    assert copy.copy(perm).source.storage_options == options
    assert perm.shuffle(seed=1).source.storage_options == options
    assert copy.deepcopy(perm).source.storage_options == options


def test_no_storage_option_is_pickled_with_a_factory(tmp_path):
    perm = with_options(tmp_path, "lancedb", {**SECRETS, **PLAIN})
    factory = functools.partial(importable.open_in, "moved")
    pickled = pickle.dumps(perm.with_connection_factory(factory))
    assert b"hush" not in pickled
    assert b"eu-west-1" not in pickled


SPAWNED = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    values = pickle.load(file)
for value in values:
    assert b"hush" not in pickle.dumps(value), value
"""


@pytest.fixture
def installed():
    lanceloader.torch.install()
    yield
    lanceloader.torch.uninstall()


@pytest.mark.usefixtures("installed")
def test_what_a_spawned_child_pickles_again_holds_no_credentials(tmp_path):
    perm = with_options(tmp_path, "lancedb", {**SECRETS, **PLAIN})
    dataset = copyreg.dispatch_table[lancedb.table.LanceTable](perm.base_table)
    dataset = dataset[0](*dataset[1])
    file = tmp_path / "values.pickle"
    set_spawning_popen("a child")
    try:
        pickled = pickle.dumps([perm, perm.shuffle(seed=1), dataset])
    finally:
        set_spawning_popen(None)
    assert b"hush" in pickled
    file.write_bytes(pickled)
    subprocess.run([sys.executable, "-c", SPAWNED, file], check=True, timeout=50)
