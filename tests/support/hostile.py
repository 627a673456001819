"""Arguments that nobody should pass, and what a call with them may do: right rows or a clear error."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import lanceloader as ll
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from lanceloader import errors

DOCUMENTED = (
    ImportError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
    errors.LanceloaderError,
)
# Texts that name no argument, of Python, NumPy and PyO3 for the most part.
FOREIGN = (
    # Of `count`-free arguments of the core, which users do not reach.
    "can't convert negative int to unsigned",
    "int too big to convert",
    "only 0-dimensional arrays can be converted to Python scalars",
    "only integer scalar arrays can be converted to a scalar index",
    "embedded null byte",
    # Of NumPy, for an array in the place of a boolean.
    "The truth value of an array with more than one element is ambiguous",
    # Of LanceDB, for no columns.
    "Must select at least one column",
)
COLLECTIONS = (list, tuple, dict, set, bytes)
MOST_ROWS = 1000

HOSTILE = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64,
    -(2**70),
    1.5,
    float("nan"),
    float("inf"),
    "",
    "nothing",
    "\0",
    "💥" * 50,
    b"bytes",
    [],
    [None],
    [-1],
    [2**64],
    ["x"],
    (),
    {},
    {"x": "y"},
    {1, 2},
    object(),
    len,
    np.zeros((2, 2)),
    np.array([-1]),
    pa.array([1]),
    slice(0, 5),
]


def public_methods(cls) -> list[str]:
    return [
        name
        for name, member in inspect.getmembers(cls)
        if callable(member)
        and (not name.startswith("_") or name in ("__getitem__", "__getitems__"))
    ]


def names(error, subjects) -> bool:
    """Whether the text of an error has a subject: a parameter, or a value, its type or its items."""
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    for subject in subjects:
        if isinstance(subject, Parameter):
            if re.search(rf"\b{subject}\b", text):
                return True
            continue
        items = subject if isinstance(subject, COLLECTIONS) else []
        if isinstance(subject, np.ndarray):
            items = subject.ravel().tolist()
        words = [type(subject).__name__]
        for value in (subject, *items):
            words.append(repr(value)[:12])
            if isinstance(value, str):
                words += [f"`{value}`", str(Path(value).absolute())]
        if any(re.search(rf"(?<!\w){re.escape(word)}", text) for word in words):
            return True
    return False


class Parameter(str):
    """The name of a parameter, or another word that an error may name."""

    __slots__ = ()


def parameters_of(function) -> list[Parameter]:
    return [Parameter(name) for name in inspect.signature(function).parameters]


def result_of(call, *subjects):
    """The result of a call, or None where it raises a documented error that names a subject."""
    try:
        result = call()
        return list(result) if inspect.isgenerator(result) else result
    except errors.InternalError as error:
        raise AssertionError(f"an internal error: {error}") from error
    except AssertionError as error:
        # As LanceDB does where an argument is None.
        if not re.fullmatch(r"\w+ is required", str(error)):
            raise
    except DOCUMENTED as error:
        words = (*subjects, Parameter("argument"), Parameter("arguments"))
        if not (names(error, words) or str(error).startswith(FOREIGN)):
            raise AssertionError(f"names none of {subjects}: {error!r}") from error
    return None


class Rows:
    """The rows of a table, to compare with whatever a call returned."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.known: dict[tuple[str, ...], set] = {}

    def __contains__(self, row: dict) -> bool:
        columns = tuple(row)
        if columns not in self.known:
            selected = self.table.select(list(columns)).to_pylist()
            self.known[columns] = {tuple(each.values()) for each in selected}
        return tuple(row.values()) in self.known[columns]

    def check(self, result) -> int:
        """Compare every row in a result with the table; return how many there were."""
        if isinstance(result, ll.Permutation):
            if result.num_rows > MOST_ROWS:
                result = result.with_take(MOST_ROWS)
            found = result.to_arrow()
            assert len(found) == len(result)
            return self.check(found)
        if isinstance(result, ll.Loader):
            assert len(result.permutation) == len(self.table)
            return self.check(result.permutation)
        if isinstance(result, pa.Table | pa.RecordBatch):
            return self.check(result.to_pylist())
        if isinstance(result, pd.DataFrame):
            return self.check(result.to_dict("records"))
        if isinstance(result, pl.DataFrame):
            return self.check(result.to_dicts())
        if isinstance(result, dict):
            if set(result) <= set(self.table.column_names):
                assert result in self, result
                return 1
            return sum(map(self.check, result.values()))
        if hasattr(result, "__iter__") and not isinstance(result, str | bytes):
            return sum(map(self.check, result))
        return 0
