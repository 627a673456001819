"""Functions of rows and of columns for ``map``, which other processes import by name."""

from __future__ import annotations


def double(row):
    return {"double": 2 * row["id"]}


def halves(columns):
    return {"half": [x / 2 for x in columns["id"]]}
