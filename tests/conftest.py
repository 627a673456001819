"""Fixtures: seeded tables in LanceDB databases, on disk and in memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import lance
import lancedb
import pytest

# Pickles in ``data/earlier`` and other processes find these modules by name.
sys.path.insert(0, str(Path(__file__).parent / "support"))

import importable
import s3_folder
import tables
from lanceloader.monitor import progress

hypothesis.settings.register_profile(
    "fast", max_examples=20, deadline=None, print_blob=True
)
# The same examples in every run: whether a commit is green does not depend on luck.
hypothesis.settings.register_profile(
    "slow", max_examples=1000, deadline=None, derandomize=True, database=None
)
# Other examples in every run: how such faults are looked for.
hypothesis.settings.register_profile(
    "search", max_examples=5000, deadline=None, print_blob=True
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "fast")
hypothesis.settings.load_profile(PROFILE)


def pytest_collection_modifyitems(items):
    """More examples may take longer than other tests, on a machine that is busy."""
    if PROFILE == "fast":
        return
    seconds = {"slow": 900, "search": 3600}[PROFILE]
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Packed rows of tests are kept away from those of the user."""
    folder = str(tmp_path_factory.mktemp("rows"))
    os.environ["LANCELOADER_CACHE_DIR"] = folder
    # Servers of tests count requests, and may be slow: none is made twice.
    os.environ["LANCELOADER_HEDGED_REQUESTS"] = "0"
    return folder


@pytest.fixture
def no_credentials(monkeypatch):
    """Only the credentials that a test passes reach object storage."""
    s3_folder.forget_credentials(monkeypatch)


@pytest.fixture
def db(tmp_path):
    """An empty database on disk."""
    return lancedb.connect(tmp_path / "db")


@pytest.fixture(params=["disk", "memory"])
def any_db(request, tmp_path):
    """An empty database, on disk and in memory."""
    uri = "memory://" if request.param == "memory" else tmp_path / "db"
    return lancedb.connect(uri)


@pytest.fixture
def table(db):
    """100 rows in three fragments, some deleted: rows 10-19 and 65."""
    return fragmented(db)


@pytest.fixture
def any_table(any_db):
    """``table``, on disk and in memory."""
    return fragmented(any_db)


def fragmented(database):
    data = tables.narrow(111)
    table = database.create_table("t", data.slice(0, 50))
    table.add(data.slice(50, 40))
    table.add(data.slice(90))
    table.delete("(id >= 10 and id < 20) or id = 65")
    return table


@pytest.fixture
def opened(monkeypatch, table):
    monkeypatch.setenv("LANCELOADER_TEST_DB", table._conn.uri)
    monkeypatch.setattr(importable, "OPENED", [])
    return importable.OPENED


@pytest.fixture
def folder(tmp_path):
    """A dataset of 5,000 rows, some deleted, and a LanceDB table of the same."""
    data = tables.narrow(5000)
    dataset = lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=1500)
    dataset.delete("id % 7 = 3")
    table = lancedb.connect(tmp_path / "db").create_table("t", data)
    table.delete("id % 7 = 3")
    return tmp_path


@pytest.fixture
def bars_at_once(monkeypatch):
    """Bars do not wait for a second."""
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
