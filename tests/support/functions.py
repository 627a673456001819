"""Functions of rows and of columns for ``map``, which other processes import by name."""

from __future__ import annotations


def double(row):
    return {"double": 2 * row["id"]}


def halves(columns):
    return {"half": [x / 2 for x in columns["id"]]}


def first_bytes(batch):
    """The numbers and the first bytes of rows whose images are files."""
    return [
        (row["id"], b"" if row["image"].is_null else row["image"].read(1))
        for row in batch
    ]
