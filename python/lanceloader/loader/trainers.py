"""What torch and trainers look for on a loader, which is no ``DataLoader`` of torch's."""

from __future__ import annotations

import functools
import sys
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Sampler", "check_collation", "refuse_dataset", "sampler_of"]


class Sampler:
    """Stands where trainers look for a sampler and a batch sampler.

    They call ``set_epoch``, and must not put a sampler of their own in its place: to torch it is
    a ``DistributedSampler``, as rows are shared out among the ranks already.
    """

    def __init__(self, loader: Any) -> None:
        # The loader has it, and must go when nobody else holds it.
        self._loader = weakref.proxy(loader)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Serve another epoch: as for ``Loader``."""
        self._loader.set_epoch(epoch)

    @property
    def num_replicas(self) -> int:
        """The number of ranks."""
        return int(self._loader.world.world_size)

    @property
    def rank(self) -> int:
        """The rank that the loader serves."""
        return int(self._loader.world.rank)

    @property
    def batch_size(self) -> int:
        """Rows of a batch of this rank."""
        return int(self._loader.batch_size)

    @property
    def drop_last(self) -> bool:
        """Whether a short last batch is left out."""
        return bool(self._loader.drop_last)

    @property
    def sampler(self) -> Sampler:
        """Itself, as for a batch sampler."""
        return self

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._loader)

    def __iter__(self) -> NoReturn:
        message = "a Loader chooses its rows itself: iterate the Loader, or shuffle with shuffle=True"
        raise TypeError(message)


def sampler_of(loader: Any) -> Sampler:
    """Return the sampler of a loader, which is one to torch too if torch is there."""
    has_torch = "torch.utils.data" in sys.modules
    return (torch_sampler() if has_torch else Sampler)(loader)


@functools.cache
def torch_sampler() -> type[Sampler]:
    """Return the class of samplers that torch takes for such."""
    from torch.utils.data import DistributedSampler

    # Its own methods come last, and nothing of its state is there to be used.
    return type("Sampler", (Sampler, DistributedSampler), {"__module__": __name__})


def refuse_dataset() -> NoReturn:
    """Refuse to name a dataset, of which a trainer would make a loader that is not this one.

    Raises:
        AttributeError: So that ``hasattr`` is false.
    """
    raise AttributeError(
        "a Loader has no `dataset` of which another DataLoader could be made: to skip batches call "
        "`loader.skip_batches(n)`, for its rows use `loader.permutation`; where a DataLoader is "
        "needed, pass `lanceloader.torch.DataLoader(loader)`"
    )


def check_collation(frame: FrameType) -> None:
    """Refuse to give batches to torch's ``DataLoader`` if it would put them into batches again.

    Args:
        frame: Of the caller who asks for an iteration.

    Raises:
        ValueError: If it is torch's with a ``batch_size`` and no ``collate_fn``, or of transformers.
    """
    fetch = sys.modules.get("torch.utils.data._utils.fetch")
    data = sys.modules.get("torch.utils.data")
    if fetch is None or data is None:
        return
    # By their code: the dict of a frame's variables would keep the caller's alive, this loader too.
    while (
        frame.f_code is data.ChainDataset.__iter__.__code__ and frame.f_back is not None
    ):
        frame = frame.f_back
    fetcher = fetch._IterableDatasetFetcher
    # What is chained is begun as the first batch is fetched.
    if frame.f_code not in (fetcher.__init__.__code__, fetcher.fetch.__code__):
        return
    caller = frame.f_locals["self"]
    if not caller.auto_collation:
        return
    if caller.collate_fn is data.default_collate:
        raise ValueError(
            "torch's DataLoader would collate the batches of this loader into batches once more: "
            "pass `batch_size=None`, as in DataLoader(loader, batch_size=None); how many rows a "
            "batch has is chosen in perm.loader(batch_size)"
        )
    if (getattr(caller.collate_fn, "__module__", None) or "").startswith(
        "transformers."
    ):
        raise ValueError(
            "transformers' Trainer would collate the batches of this loader into batches once more: "
            "pass the permutation as the data set, or return `lanceloader.torch.DataLoader(loader)` "
            "from `get_train_dataloader`"
        )
