"""``table_info``: the features of a table, and which library reads each."""

from __future__ import annotations

import json
import subprocess
import sys

import lance
import lance_features
import lancedb
import lanceloader as ll
import pyarrow as pa
import pytest
from lancedb.index import BTree
from remote_server import Connect, serving


def test_a_table_in_fragments_with_deletions(table):
    table.create_index("id", config=BTree())
    info = ll.table_info(table.uri)
    assert info.num_rows == table.count_rows() == 100
    assert info.num_deleted_rows == 11
    assert info.num_fragments == 3
    assert info.num_data_files == 3
    assert info.version == info.latest_version == table.version
    assert info.num_versions == len(table.list_versions())
    assert info.data_bytes > 0
    assert info.file_versions == (lance.dataset(table.uri).data_storage_version,)
    assert [column.name for column in info.columns] == table.schema.names
    assert [column.type for column in info.columns] == list(
        map(str, table.schema.types)
    )
    assert info.is_native
    assert all(column.is_native and column.reason is None for column in info.columns)
    (index,) = info.indices
    assert (index.name, index.columns, index.rows) == ("id_idx", ("id",), 100)
    assert index.type == "BTree"


def test_handles_say_the_same_as_their_path(table):
    by_path = ll.table_info(table.uri)
    assert ll.table_info(table) == by_path
    dataset = lance.dataset(table.uri)
    assert ll.table_info(dataset).columns == by_path.columns
    assert ll.table_info(dataset).num_deleted_rows == by_path.num_deleted_rows


def test_an_old_version_a_tag_and_a_branch(table):
    dataset = lance.dataset(table.uri)
    dataset.tags.create("first", 1)
    dataset.create_branch("exp", 1)
    old = ll.table_info(table.uri, version=1)
    assert (old.version, old.latest_version) == (1, table.version)
    assert (old.num_rows, old.num_fragments, old.num_deleted_rows) == (50, 1, 0)
    assert old.tags == {"first": 1}
    assert old.branches == ("exp",)
    assert ll.table_info(table.uri, tag="first").num_rows == 50
    branch = ll.table_info(table.uri, branch="exp")
    assert (branch.branch, branch.num_rows) == ("exp", 50)


@pytest.mark.parametrize("name", lance_features.FEATURES)
def test_it_says_who_reads_each_feature(name, tmp_path):
    """What is called native is read natively, and nothing else."""
    dataset = lance_features.FEATURES[name](tmp_path / "t.lance")
    info = ll.table_info(dataset)
    assert info.num_rows == dataset.count_rows()
    assert info.is_native == (info.reason is None)
    for column in info.columns:
        if column.is_native:
            plan = ll.Permutation.identity(dataset).select_columns([column.name])
            assert "by the table's own library" not in plan.explain()


def test_an_old_file_format_is_read_by_its_library(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"x": range(5)}), uri, data_storage_version="0.1")
    info = ll.table_info(uri)
    assert not info.is_native
    assert info.reason
    assert [(c.is_native, c.reason) for c in info.columns] == [(False, info.reason)]
    assert info.num_rows == 5
    assert info.num_fragments == 1
    assert info.file_versions == ("0.1",)


def test_arrow_data_has_no_versions():
    info = ll.table_info(pa.table({"x": [1, 2], "s": ["a", None]}))
    assert (info.version, info.num_versions, info.indices) == (None, None, None)
    assert (info.num_rows, info.is_native) == (2, True)


def test_a_table_on_a_server(tmp_path, monkeypatch):
    lancedb.connect(tmp_path).create_table("t", pa.table({"x": range(7)}))
    with serving(tmp_path) as server:
        info = ll.table_info(Connect(server.url)("t"))
    assert (info.num_rows, info.is_native) == (7, False)
    assert "server" in info.reason


def test_a_table_info_converts_to_json(table):
    found = json.loads(json.dumps(ll.table_info(table.uri).to_dict()))
    assert found["columns"][0]["name"] == "id"
    assert found["num_deleted_rows"] == 11


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        ll.table_info(tmp_path / "none.lance")


WITHOUT = """
import importlib.util, json, sys
real = importlib.util.find_spec
gone = sys.argv[2].split(",")
importlib.util.find_spec = lambda name, *a: None if name in gone else real(name, *a)
import lanceloader as ll
print(json.dumps(ll.table_info(sys.argv[1]).to_dict()))
"""


@pytest.mark.parametrize("gone", ["lance", "lance,lancedb"])
def test_without_the_table_s_library_less_is_known(table, gone):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, table.uri, gone],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["num_rows"], found["num_fragments"]) == (100, 3)
    assert found["data_bytes"] > 0
    assert found["file_versions"] is None
    assert 'pip install "lanceloader[lance]"' in found["hint"]
    is_known = gone == "lance"
    assert (found["num_versions"] is not None) == is_known
    assert found["num_deleted_rows"] == (11 if is_known else None)
