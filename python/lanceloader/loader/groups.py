"""Options of ``loader()`` that belong together, as one object each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

from lanceloader._typing import Tail
from lanceloader.choices import check_choice
from lanceloader.options import repr_of_options
from lanceloader.stages.error_policy import UNSET, ErrorPolicy
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader.stages.error_policy import OnError

__all__ = ["ErrorOptions", "RankOptions"]


@dataclass(frozen=True, repr=False)
class RankOptions:
    """Which part of every batch a process gets, for ``loader(ranks=...)``.

    ``None`` means the default of ``Permutation.loader``, which describes the options.

    Attributes:
        rank: The rank of this process.
        world_size: The number of ranks.
        mesh: A one-dimensional ``DeviceMesh`` or a ``ProcessGroup``, in place of both.
        tail: How a shorter last batch is divided among the ranks.

    Raises:
        ValueError: If options are mutually exclusive or are out of range.
        TypeError: If one is of the wrong type.

    Example:
        >>> ranks = ll.RankOptions(rank=1, world_size=2, tail="drop")
        >>> [len(batch) for batch in perm.loader(4, ranks=ranks)]
        [4, 1]
    """

    rank: SupportsIndex | None = None
    world_size: SupportsIndex | None = None
    mesh: Any = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        World.of(self.rank, self.world_size, self.mesh)
        if self.tail is not None:
            check_choice("tail", self.tail, Tail)

    def __repr__(self) -> str:
        return repr_of_options(self)


@dataclass(frozen=True, repr=False, eq=False)
class ErrorOptions:
    """What to do with rows for which the transform raises, for ``loader(errors=...)``.

    Attributes:
        on_error: ``"raise"``, ``"skip"``, ``"warn"``, ``"fill"`` or a function of the exception;
            see ``Permutation.loader``, as for the others.
        error_value: With ``"fill"``, the result of the transform for a batch of one such row.
        repair: With ``"fill"``, in place of ``error_value``: a function of the exception and the
            batch of one row that returns this result.

    Raises:
        ValueError: If ``on_error`` is unknown, or the other options do not fit it.

    Example:
        >>> errors = ll.ErrorOptions("fill", error_value=[-1])
        >>> def halves(rows):
        ...     return [10 // row["x"] for row in rows]
        >>> next(iter(perm.loader(4, transform=halves, errors=errors)))
        [-1, 10, 5, 3]
    """

    on_error: OnError = "raise"
    error_value: Any = UNSET
    repair: Callable[[Exception, Any], Any] | None = None

    def __post_init__(self) -> None:
        ErrorPolicy(self.on_error, self.error_value, self.repair)

    def __repr__(self) -> str:
        return repr_of_options(self)
