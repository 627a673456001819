"""pylance's samplers as ours, and reading by pylance itself of what the core does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.compat.lance_torch.samplers import (
    FragmentSampler,
    FullScanSampler,
    NativeSampler,
    ShardedBatchSampler,
    ShardedFragmentSampler,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["native_sampler", "pylance_dataset"]


def pylance_dataset(
    dataset: Any, batch_size: int, *, sampler: Any, **options: Any
) -> Iterable[Any]:
    """Return pylance's dataset, which yields Arrow data.

    Args:
        dataset: The ``lance.LanceDataset``.
        batch_size: The number of rows in a batch.
        sampler: A sampler of ours, or whatever pylance takes.
        options: Further arguments of pylance's class.

    Raises:
        ImportError: If pylance is not installed.
    """
    need("lance", "LanceDataset")
    from lance.torch import data

    found: Iterable[Any] = data.LanceDataset(
        dataset, batch_size, sampler=sampler_of(sampler), to_tensor_fn=None, **options
    )
    return found


def sampler_of(ours: Any) -> Any:
    """Return pylance's sampler for one of ours."""
    import lance.sampler as pylance

    if isinstance(ours, FullScanSampler):
        return pylance.FullScanSampler()
    if isinstance(ours, ShardedBatchSampler):
        return pylance.ShardedBatchSampler(*ours.arguments())
    if not isinstance(ours, FragmentSampler):
        return ours

    class Fragments(pylance.FragmentSampler):
        def iter_fragments(self, ds: Any, *args: Any, **kwargs: Any) -> Any:
            return ours.iter_fragments(ds, *args, **kwargs)

    return Fragments()


class PylanceFragments(FragmentSampler):
    """The fragments that a user's subclass of pylance's ``FragmentSampler`` chooses."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def iter_fragments(self, ds: Any, *args: Any, **kwargs: Any) -> Iterable[Any]:
        return self._sampler.iter_fragments(ds, *args, **kwargs)  # type: ignore[no-any-return]


def native_sampler(sampler: Any) -> NativeSampler | None:
    """Return the sampler of this module that chooses the same rows, or ``None``.

    There is none for functions and for classes with a ``__call__`` of their own, which read
    batches themselves.
    """
    called = type(sampler).__call__ if callable(sampler) else None
    if isinstance(sampler, NativeSampler) and called is NativeSampler.__call__:
        return sampler
    if getattr(called, "__module__", None) != "lance.sampler":
        return None
    import lance.sampler as pylance

    if type(sampler) is pylance.FullScanSampler:
        return FullScanSampler()
    for theirs, ours in (
        (pylance.ShardedFragmentSampler, ShardedFragmentSampler),
        (pylance.ShardedBatchSampler, ShardedBatchSampler),
    ):
        if type(sampler) is theirs:
            parts = sampler._rank, sampler._world_size, sampler._randomize, sampler._seed  # fmt: skip
            found: Any = ours(*parts)
            found.set_epoch(sampler._epoch)
            return found  # type: ignore[no-any-return]
    if called is pylance.FragmentSampler.__call__:
        return PylanceFragments(sampler)
    return None
