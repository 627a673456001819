"""The attributes of torch's ``DataLoader`` that trainers use, for a ``Loader``."""

from __future__ import annotations

import functools
import sys
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from lanceloader.transport.blocks import share
from lanceloader.transport.workers import arguments_of_worker, is_worker_of_torch

if TYPE_CHECKING:
    from types import FrameType

__all__ = [
    "Sampler",
    "check_collation",
    "raise_no_dataset",
    "sampler_of",
    "sends_unchanged",
]


class Sampler:
    """The sampler and the batch sampler of a ``Loader``, for trainers.

    Trainers call ``set_epoch``. They must not replace it by a sampler of their own, so it is a
    ``DistributedSampler`` to torch: rows are divided among the ranks already.
    """

    def __init__(self, loader: Any) -> None:
        # The loader refers to its sampler, so a strong reference would be a cycle.
        self._loader = weakref.proxy(loader)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Set the epoch of the next iteration; see ``Loader.set_epoch``."""
        self._loader.set_epoch(epoch)

    @property
    def num_replicas(self) -> int:
        """The number of ranks."""
        return int(self._loader.world.world_size)

    @property
    def rank(self) -> int:
        """The rank of the loader."""
        return int(self._loader.world.rank)

    @property
    def batch_size(self) -> int:
        """The number of rows in a batch of this rank."""
        return int(self._loader.batch_size)

    @property
    def drop_last(self) -> bool:
        """Whether a shorter last batch is dropped."""
        return bool(self._loader.drop_last)

    @property
    def sampler(self) -> Sampler:
        """This sampler, as the sampler of a batch sampler."""
        return self

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "the sampler of a Loader cannot be iterated, as a Loader chooses its rows itself: "
            "iterate the Loader, and pass shuffle=True to shuffle"
        )


def sampler_of(loader: Any) -> Sampler:
    """Return the sampler of a loader, a ``DistributedSampler`` if torch was imported."""
    has_torch = "torch.utils.data" in sys.modules
    return (torch_sampler() if has_torch else Sampler)(loader)


@functools.cache
def torch_sampler() -> type[Sampler]:
    """Return the subclass of ``Sampler`` that is also a ``DistributedSampler``."""
    from torch.utils.data import DistributedSampler

    # `Sampler` comes first, as the methods of `DistributedSampler` need its attributes.
    return type("Sampler", (Sampler, DistributedSampler), {"__module__": __name__})


def raise_no_dataset() -> NoReturn:
    """Raise the error for ``Loader.dataset``, from which trainers would make another loader.

    Raises:
        AttributeError: Always, so that ``hasattr`` is false.
    """
    raise AttributeError(
        "a Loader has no `dataset` to make another DataLoader of: to skip batches, call "
        "`loader.skip_batches(n)`; for the rows, use `loader.permutation`; if a DataLoader is "
        "needed, pass `lanceloader.torch.DataLoader(loader)`"
    )


def sends_unchanged(loader: Any, frame: FrameType) -> bool:
    """Return whether a worker of torch's ``DataLoader`` sends the batches of a loader unchanged.

    If so, the memory of these batches is shared as the loader makes them.

    Args:
        loader: The loader.
        frame: The frame that calls ``iter(loader)``.
    """
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    if data is None or info is None or info.dataset is not loader:
        return False
    arguments = arguments_of_worker() or {}
    if arguments.get("collate_fn") is not data.default_convert:
        return False
    if loader.pipeline.sends_in_place(loader.units, loader.batch_size):
        share()
    # Functions of the user in a worker may iterate the dataset, too.
    fetcher = fetcher_of_torch()
    if fetcher is None:
        return False
    return frame.f_code is fetcher.__init__.__code__ and is_worker_of_torch()


def fetcher_of_torch() -> Any:
    """Return the class of torch that iterates datasets, or ``None`` if torch is not imported or lacks it."""
    fetch = sys.modules.get("torch.utils.data._utils.fetch")
    return getattr(fetch, "_IterableDatasetFetcher", None)


def check_collation(frame: FrameType) -> None:
    """Check that torch's ``DataLoader`` does not collate the batches of a loader a second time.

    Args:
        frame: The frame that calls ``iter(loader)``.

    Raises:
        ValueError: If it belongs to a ``DataLoader`` with a ``batch_size`` and the default
            ``collate_fn``, or one of transformers.
    """
    fetcher = fetcher_of_torch()
    data = sys.modules.get("torch.utils.data")
    if fetcher is None or data is None:
        return
    # Compare code objects: `f_locals` of every frame would keep its variables alive, this loader too.
    while (
        frame.f_code is data.ChainDataset.__iter__.__code__ and frame.f_back is not None
    ):
        frame = frame.f_back
    # A `ChainDataset` calls iter() when the first batch is fetched.
    if frame.f_code not in (fetcher.__init__.__code__, fetcher.fetch.__code__):
        return
    caller = frame.f_locals["self"]
    if not caller.auto_collation:
        return
    if caller.collate_fn is data.default_collate:
        raise ValueError(
            "torch's DataLoader would collate the batches of this loader a second time: pass "
            "`batch_size=None`, as in DataLoader(loader, batch_size=None), and the number of rows "
            "in a batch to perm.loader(batch_size)"
        )
    if (getattr(caller.collate_fn, "__module__", None) or "").startswith(
        "transformers."
    ):
        raise ValueError(
            "transformers' Trainer would collate the batches of this loader a second time: pass the "
            "permutation as the dataset, or return `lanceloader.torch.DataLoader(loader)` from "
            "`get_train_dataloader`"
        )
