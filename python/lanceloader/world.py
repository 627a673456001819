"""Which of several training processes this one is."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

from lanceloader.numbers import count

__all__ = ["World", "is_starting"]


@dataclass(frozen=True)
class World:
    """One of several processes that train together, each on its part of every batch.

    Attributes:
        rank: This process, in ``range(world_size)``.
        world_size: The number of processes, at least 1.

    Raises:
        ValueError: If there is no such rank.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            message = (
                f"`rank` must be below `world_size`, got rank {self.rank} of world_size "
                f"{self.world_size}"
            )
            raise ValueError(message)

    @classmethod
    def of(
        cls, rank: SupportsIndex | None, world_size: SupportsIndex | None, mesh: Any
    ) -> Self | None:
        """Give the world that a user named, or ``None`` if it is to be found.

        Args:
            rank: As for ``Permutation.loader``.
            world_size: As for ``Permutation.loader``.
            mesh: As for ``Permutation.loader``.

        Raises:
            ValueError: If only one of ``rank`` and ``world_size`` is given, or a mesh too, or
                the mesh has several dimensions.
            TypeError: If ``mesh`` is neither a mesh nor a process group.
        """
        if mesh is not None:
            if rank is not None or world_size is not None:
                raise ValueError("mesh and rank: wanted one of them")
            return cls._of_mesh(mesh)
        if rank is None and world_size is None:
            return None
        if (
            world_size is not None
            and rank is None
            and count(world_size, "world_size") == 1
        ):
            return cls()
        if rank is None or world_size is None:
            message = f"rank={rank!r}, world_size={world_size!r}: wanted both or none"
            raise ValueError(message)
        return cls(count(rank, "rank"), count(world_size, "world_size", least=1))

    @classmethod
    def _of_mesh(cls, mesh: Any) -> Self:
        dims = getattr(mesh, "ndim", None)
        if dims is not None and hasattr(mesh, "get_local_rank"):
            if dims != 1:
                names = getattr(mesh, "mesh_dim_names", None) or ("...",)
                message = (
                    f"a mesh of {dims} dimensions {names}: wanted one, as in "
                    f'mesh["{names[0]}"]; ranks that differ in the others get the same rows'
                )
                raise ValueError(message)
            return cls(mesh.get_local_rank(), mesh.size())
        try:
            return cls(mesh.rank(), mesh.size())
        except (AttributeError, TypeError):
            kind = type(mesh).__name__
            message = f"mesh of type {kind}: wanted a DeviceMesh or a ProcessGroup"
            raise TypeError(message) from None

    @classmethod
    def found(cls) -> Self:
        """Ask ``torch.distributed``, if it is in use; a process that trains alone is rank 0 of 1."""
        return cls.in_use() or cls()

    @classmethod
    def in_use(cls) -> Self | None:
        """Ask ``torch.distributed``; ``None`` if it is not in use."""
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available():
            return None
        if not distributed.is_initialized():
            return None
        return cls(distributed.get_rank(), distributed.get_world_size())

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def is_starting() -> bool:
    """Whether ``multiprocessing`` has begun this process, which has yet to be told what to run.

    What fails now ends it without a word to its parent.
    """
    return hasattr(multiprocessing.current_process(), "_inheriting")
