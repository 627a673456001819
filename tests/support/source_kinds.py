"""Tables of every kind of source, and permutations that travel."""

from __future__ import annotations

import pickle
from pathlib import Path

import lance
import lancedb
import numpy as np
import polars as pl
import tables


def travelled(perm):
    return pickle.loads(pickle.dumps(perm))


def ids(perm) -> list[int]:
    return perm.to_arrow()["id"].to_pylist()


DELETED = "(id >= 10 and id < 20) or id = 65"


def lancedb_table(uri):
    data = tables.narrow(111)
    table = lancedb.connect(uri).create_table("t", data.slice(0, 50))
    table.add(data.slice(50))
    table.delete(DELETED)
    return table


def dataset(folder, **options):
    data = tables.narrow(111)
    path = folder / "d.lance"
    dataset = lance.write_dataset(data, path, max_rows_per_file=40, **options)
    dataset.delete(DELETED)
    return dataset


def branch(folder):
    table = lancedb_table(folder / "db").branches.create("exp")
    table.add(tables.narrow(5))
    table.delete("id < 5")
    return table


def old_version(folder):
    table = lancedb_table(folder / "db")
    version = table.version
    table.delete("id < 50")
    table.checkout(version)
    return table


def query(folder):
    return lancedb_table(folder / "db").search().where("id > 10")


# Name: what is opened. Each has 100 live rows but "query" and "arrow".
SOURCES = {
    "lancedb": lambda folder: lancedb_table(folder / "db"),
    "memory": lambda folder: lancedb_table("memory://"),
    "branch": branch,
    "old version": old_version,
    "dataset": dataset,
    "stable row ids": lambda folder: dataset(folder, enable_stable_row_ids=True),
    "path": lambda folder: dataset(folder).uri,
    "pathlib": lambda folder: Path(dataset(folder).uri),
    "arrow": lambda folder: tables.narrow(111),
    "polars": lambda folder: pl.from_arrow(tables.narrow(111)),
    "query": query,
}

SQL = ("lancedb", "memory", "branch", "old version", "dataset", "path")


def mask(perm):
    return perm.filter(np.arange(len(perm)) % 3 == 0)
