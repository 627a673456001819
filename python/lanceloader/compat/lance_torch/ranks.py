"""Which of all processes this is: ranks of ``torch.distributed``, times workers of a ``DataLoader``."""

from __future__ import annotations

from lanceloader._extras import need

try:
    from torch.utils.data import get_worker_info
except ModuleNotFoundError:
    need("torch", "lanceloader.compat.lance_torch")
    raise

from lanceloader.world import World

__all__ = ["get_global_rank", "get_global_world_size"]


def get_global_world_size() -> int:
    """Return the number of ranks times the number of workers of each.

    Example:
        >>> from lanceloader.compat.lance_torch import get_global_world_size
        >>> get_global_world_size()
        1
    """
    info = get_worker_info()
    return World.found().world_size * (1 if info is None else info.num_workers)


def get_global_rank() -> int:
    """Return the number of this process among the workers of all ranks.

    Example:
        >>> from lanceloader.compat.lance_torch import get_global_rank
        >>> get_global_rank()
        0
    """
    info = get_worker_info()
    rank = World.found().rank
    return rank if info is None else rank * info.num_workers + info.id
