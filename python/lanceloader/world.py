"""The rank of this process among the processes of a distributed training."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

from lanceloader.numbers import count

__all__ = ["World", "is_starting", "num_cpus", "num_workers"]


@dataclass(frozen=True)
class World:
    """The rank of a process and the number of processes of a distributed training.

    Each process trains on its part of every batch.

    Attributes:
        rank: The rank of this process, in ``range(world_size)``.
        world_size: The number of processes, at least 1.

    Raises:
        ValueError: If ``rank`` is not in ``range(world_size)``.
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
        """Return the world given by the arguments of ``Permutation.loader``.

        Args:
            rank: As for ``Permutation.loader``.
            world_size: As for ``Permutation.loader``.
            mesh: As for ``Permutation.loader``.

        Returns:
            The world, or ``None`` if no argument is given.

        Raises:
            ValueError: If ``rank`` is given without ``world_size`` or the reverse, if either is
                given together with ``mesh``, or if the mesh has several dimensions.
            TypeError: If ``mesh`` is neither a device mesh nor a process group.
        """
        if mesh is not None:
            if rank is not None or world_size is not None:
                message = "pass either `mesh` or `rank` and `world_size`, not both"
                raise ValueError(message)
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
            message = (
                "`rank` and `world_size` must be passed together, got "
                f"rank={rank!r} and world_size={world_size!r}"
            )
            raise ValueError(message)
        return cls(count(rank, "rank"), count(world_size, "world_size", least=1))

    @classmethod
    def _of_mesh(cls, mesh: Any) -> Self:
        dims = getattr(mesh, "ndim", None)
        if dims is not None and hasattr(mesh, "get_local_rank"):
            if dims != 1:
                names = getattr(mesh, "mesh_dim_names", None) or ("...",)
                message = (
                    f"`mesh` must have one dimension, not {dims} {names}; pass a submesh such as "
                    f'mesh["{names[0]}"], whose ranks divide the rows'
                )
                raise ValueError(message)
            return cls(mesh.get_local_rank(), mesh.size())
        try:
            return cls(mesh.rank(), mesh.size())
        except (AttributeError, TypeError):
            kind = type(mesh).__name__
            message = (
                f"`mesh` must be a DeviceMesh or a ProcessGroup, not of type {kind}"
            )
            raise TypeError(message) from None

    @classmethod
    def found(cls) -> Self:
        """Return the world of ``torch.distributed``, or rank 0 of 1 if it is not initialised."""
        return cls.in_use() or cls()

    @classmethod
    def in_use(cls) -> Self | None:
        """Return the world of ``torch.distributed``, or ``None`` if it is not initialised."""
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available():
            return None
        if not distributed.is_initialized():
            return None
        return cls(distributed.get_rank(), distributed.get_world_size())

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def is_starting() -> bool:
    """Return whether ``multiprocessing`` is starting this process and unpickling its arguments.

    An exception then ends the process without a message to its parent.
    """
    return hasattr(multiprocessing.current_process(), "_inheriting")


def num_cpus() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_workers() -> int:
    """Return the number of worker processes of torch's ``DataLoader`` beside this one, or 1."""
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return 1 if info is None else int(info.num_workers)
