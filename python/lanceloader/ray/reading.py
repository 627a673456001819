"""``read``: a permutation as a dataset of Ray Data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader._permutation import Permutation
from lanceloader.ray.batches import row_bytes_of
from lanceloader.ray.nodes import task_count
from lanceloader.ray.recipe import Recipe

if TYPE_CHECKING:
    import ray.data

__all__ = ["check_permutation", "read"]

LEAST_BYTES, MOST_BYTES = 1 << 20, 64 << 20
"""The minimum and maximum bytes of rows per read task, if there are as many."""


def read(
    perm: Permutation,
    *,
    preserve_order: bool = False,
    send_credentials: bool = False,
    **options: Any,
) -> ray.data.Dataset:
    """Return the rows of a permutation as a dataset of Ray Data.

    Each read task is a range of positions. A task computes on its node which rows to read, so a shuffle
    moves no rows between nodes. Every row is read once, from the version of the
    table that the permutation is pinned to. Processes of a node share its cache.

    The dataset has all columns of the permutation, after functions of ``map``, as Arrow blocks;
    other formats are ignored. Columns that are not used downstream are not read.

    Args:
        perm: The permutation: for another epoch, pass ``perm.shuffle(seed, epoch=...)``.
        preserve_order: Whether blocks are yielded in the order of the permutation. Otherwise, they
            are yielded as they become ready.
        send_credentials: Whether tasks get the credentials among the storage options of the table,
            which Ray then keeps in its object store. Otherwise, every node needs its own, in its
            environment or as its role.
        **options: Options of ``ray.data.read_datasource``, such as ``override_num_blocks``,
            ``concurrency`` and ``num_cpus``.

    Raises:
        ImportError: If Ray is not installed.
        TypeError: If ``perm`` is not a permutation.

    Example:
        >>> dataset = ll.ray.read(perm.shuffle(seed=7), preserve_order=True)  # doctest: +SKIP
        >>> dataset.take(2)  # doctest: +SKIP
        [{'x': 6}, {'x': 3}]
    """
    need("ray", "lanceloader.ray")
    check_permutation(perm)
    import ray.data

    from lanceloader.ray.datasource import PermutationDatasource

    if options.get("override_num_blocks") is None:
        sizes = row_bytes_of(perm), LEAST_BYTES, MOST_BYTES
        options["override_num_blocks"] = task_count(perm.num_rows, *sizes)
    recipe = Recipe.of(perm, send_credentials=send_credentials)
    dataset = ray.data.read_datasource(PermutationDatasource(perm, recipe), **options)
    if preserve_order:
        dataset.context.execution_options.preserve_order = True
    return dataset


def check_permutation(perm: Any) -> None:
    """Check the type of an argument ``perm``.

    Raises:
        TypeError: If it is not a permutation.
    """
    if not isinstance(perm, Permutation):
        message = (
            f"`perm` must be a Permutation, not of type {type(perm).__name__}: "
            "lanceloader.open(...) opens tables and data"
        )
        raise TypeError(message)
