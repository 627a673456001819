"""Arguments of ``PermutationBuilder``, checked with LanceDB's error messages."""

from __future__ import annotations

import secrets
from typing import Any

from lanceloader.numbers import count

__all__ = ["check_lsm", "check_string", "check_strings", "shuffle_of", "sizes_of"]


def sizes_of(
    ratios: list[float] | None, counts: list[int] | None, fixed: int | None
) -> dict[str, Any]:
    """Return the sizes of splits as the only keyword argument of ``_native.split_counts``.

    Raises:
        ValueError: If not exactly one kind of size is passed.
    """
    sizes: dict[str, Any] = {}
    if ratios is not None:
        sizes["ratios"] = [float(ratio) for ratio in ratios]
    if counts is not None:
        sizes["counts"] = [count(rows, "counts") for rows in counts]
    if fixed is not None:
        sizes["fixed"] = count(fixed, "fixed")
    if len(sizes) != 1:
        message = "Exactly one of 'ratios', 'counts', or 'fixed' must be provided"
        raise ValueError(message)
    return sizes


def shuffle_of(seed: int | None, clump_size: int | None) -> tuple[int, int]:
    """Return the seed and the clump size of a shuffle, with a random seed by default.

    Raises:
        ValueError: If ``clump_size`` is 0.
    """
    clump = 1 if clump_size is None else count(clump_size, "clump_size")
    if clump == 0:
        message = "Invalid input, `clump_size` must be at least 1, got 0"
        raise ValueError(message)
    return (secrets.randbits(64) if seed is None else count(seed, "seed")), clump


def check_string(value: Any, name: str) -> str:
    """Return an argument that must be a string.

    Raises:
        TypeError: If it is not a string.
    """
    if not isinstance(value, str):
        message = f"`{name}` must be a string, not {value!r}"
        raise TypeError(message)
    return value


def check_strings(values: Any, name: str) -> list[str]:
    """Return an argument that must be a list of strings.

    Raises:
        TypeError: If it is not a list of strings.
    """
    if isinstance(values, str):
        message = f"`{name}` must be a list of strings; pass [{values!r}] instead of {values!r}"
        raise TypeError(message)
    return [check_string(value, name) for value in values]


def check_lsm(table: Any) -> None:
    """Raise an error for a table that may have unflushed rows, which have no row id.

    Raises:
        NotImplementedError: If the table has an LSM write spec.
    """
    if not hasattr(table, "get_lsm_write_spec"):
        return
    try:
        spec = table.get_lsm_write_spec()
    except NotImplementedError:
        return
    if spec is not None:
        message = (
            "the data loader does not support tables with an LSM write spec: rows that have "
            "not been flushed to the base table have no row id, so a permutation cannot "
            "reference them"
        )
        raise NotImplementedError(message)
