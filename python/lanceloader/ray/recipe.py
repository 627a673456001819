"""Permutations on their way to tasks: a description, opened once per process."""

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

    Travelling = tuple[Callable[..., Any], tuple[Any, ...]]

__all__ = ["Recipe", "noting_credentials", "travels"]

MOST_BYTES = 32 << 10
"""Longer pickles, such as those of filters and of Arrow data, are put into the object store once."""

MOST_OPENED = 8
"""The most permutations that a process keeps open."""


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
        """Return the permutation with some of its columns; the same object for all tasks of a process.

        Args:
            columns: The names of the columns, or ``None`` for all.

        Raises:
            RuntimeError: If another release wrote it, and it cannot be loaded.
        """
        try:
            return opened(self.pickled, columns)
        except LanceloaderError:
            # About the table, not about the pickle.
            raise
        except Exception as error:
            if self.version == __version__:
                raise
            message = (
                f"this node has lanceloader {__version__}, which cannot load a permutation of the "
                f"driver's {self.version}: install the same release on all nodes ({error})"
            )
            raise RuntimeError(message) from error

    def __reduce__(self) -> Travelling:
        return travels(type(self), self.version, self.pickled)


def travels(kind: type, *arguments: Any) -> Travelling:
    """Return what ``__reduce__`` returns of an object that nodes without the package may get."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(arrival)
    name = kind.__name__
    return arrival.arrive, (__version__, kind.__module__, name, arguments)


@contextmanager
def noting_credentials() -> Iterator[None]:
    """Add to errors of access what a task has of the driver's storage options."""
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
    """Open a permutation, whose reader then serves all tasks of this process."""
    import ray
    from ray import cloudpickle

    data = pickled if isinstance(pickled, bytes) else ray.get(pickled)
    perm: Permutation = cloudpickle.loads(data)
    if columns is not None:
        perm = perm.select_columns(list(columns))
    return for_parts(perm)
