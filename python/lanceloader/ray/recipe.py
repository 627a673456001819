"""Permutations as tasks get them: pickled descriptions, which each process opens once."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader._native import __version__
from lanceloader.errors import LanceloaderError, StorageDeniedError
from lanceloader.ray import arrival
from lanceloader.ray.batches import for_parts
from lanceloader.sources.secrets import travelling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader._permutation import Permutation

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]]

__all__ = ["Recipe", "credentials_hint", "reduce_for_nodes"]

MOST_BYTES = 32 << 10
"""Longer pickles, such as those with filters or Arrow data, are put into the object store once."""

MOST_OPENED = 8
"""The maximum number of permutations that a process keeps open."""


@dataclass(frozen=True)
class Recipe:
    """A permutation as a task gets it.

    Attributes:
        version: The version of lanceloader that wrote it.
        pickled: The pickle of the permutation, or a reference to it in Ray's object store.
    """

    version: str
    pickled: Any

    @classmethod
    def of(cls, perm: Permutation, *, send_credentials: bool = False) -> Recipe:
        """Return the recipe of a permutation.

        Args:
            perm: The permutation.
            send_credentials: Whether the recipe may hold credentials of storage options.
        """
        import ray
        from ray import cloudpickle

        with travelling(is_allowed=send_credentials):
            pickled = cloudpickle.dumps(perm)
        if len(pickled) > MOST_BYTES:
            pickled = ray.put(pickled)
        return cls(__version__, pickled)

    def open(self, columns: tuple[str, ...] | None = None) -> Permutation:
        """Return the permutation with some of its columns, the same object for all tasks of a process.

        Args:
            columns: The names of the columns, or ``None`` for all.

        Raises:
            RuntimeError: If the recipe is from another release, and cannot be loaded.
        """
        try:
            return opened(self.pickled, columns)
        except LanceloaderError:
            # An error of the table, not of the pickle.
            raise
        except Exception as error:
            if self.version == __version__:
                raise
            message = (
                f"this node has lanceloader {__version__}, which cannot load a permutation of the "
                f"driver's {self.version}: install the same release on all nodes ({error})"
            )
            raise RuntimeError(message) from error

    def __reduce__(self) -> Reduced:
        return reduce_for_nodes(type(self), self.version, self.pickled)


def reduce_for_nodes(kind: type, *arguments: Any) -> Reduced:
    """Return the result of ``__reduce__`` for an object that nodes without the package may get."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(arrival)
    name = kind.__name__
    return arrival.arrive, (__version__, kind.__module__, name, arguments)


@contextmanager
def credentials_hint() -> Iterator[None]:
    """Add a note to errors of denied access: tasks do not get credentials of the driver by default."""
    try:
        yield
    except StorageDeniedError as error:
        error.add_note(
            "Tasks do not get the credentials among the storage options of the driver: set them on "
            "every node, in its environment or as its role, or pass send_credentials=True"
        )
        raise


@functools.lru_cache(maxsize=MOST_OPENED)
def opened(pickled: Any, columns: tuple[str, ...] | None) -> Permutation:
    """Open a permutation, whose reader is shared by all tasks of this process."""
    import ray
    from ray import cloudpickle

    data = pickled if isinstance(pickled, bytes) else ray.get(pickled)
    perm: Permutation = cloudpickle.loads(data)
    if columns is not None:
        perm = perm.select_columns(list(columns))
    return for_parts(perm)
