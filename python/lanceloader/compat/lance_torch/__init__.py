"""The names of ``lance.torch.data`` and ``lance.sampler``, read by the core.

    from lanceloader.compat.lance_torch import LanceDataset, ShardedFragmentSampler

Rows, their order and their distribution over ranks and workers are those of pylance.
``docs/coming-from/lance.md`` lists the differences.
"""

# First: this import says which extra is missing where torch is not installed.
from lanceloader.compat.lance_torch.ranks import (  # isort: skip
    get_global_rank,
    get_global_world_size,
)
from lanceloader.compat.lance_torch.dataset import LanceDataset
from lanceloader.compat.lance_torch.safe import SafeLanceDataset, get_safe_loader
from lanceloader.compat.lance_torch.samplers import (
    FragmentSampler,
    FullScanSampler,
    Sampler,
    ShardedBatchSampler,
    ShardedFixedBatchSampler,
    ShardedFragmentSampler,
)
from lanceloader.compat.lance_torch.sampling import maybe_sample
from lanceloader.compat.lance_torch.tensors import to_tensor

__all__ = [
    "FragmentSampler",
    "FullScanSampler",
    "LanceDataset",
    "SafeLanceDataset",
    "Sampler",
    "ShardedBatchSampler",
    "ShardedFixedBatchSampler",
    "ShardedFragmentSampler",
    "get_global_rank",
    "get_global_world_size",
    "get_safe_loader",
    "maybe_sample",
    "to_tensor",
]
