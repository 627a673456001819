"""``SharedEpoch``: the epoch of a sampler, in shared memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

__all__ = ["SharedEpoch"]


class SharedEpoch:
    """The number of an epoch, which a process and its ``DataLoader`` workers share.

    ``set_epoch`` thus reaches workers that are already running. A pickle for another use is a copy.
    """

    def __init__(self, epoch: int = 0) -> None:
        self._number = torch.tensor(epoch, dtype=torch.int64)
        self._share()

    def _share(self) -> None:
        # Where there is no shared memory, workers keep the epoch with which they were started.
        with suppress(RuntimeError, OSError):
            self._number.share_memory_()  # type: ignore[no-untyped-call]

    def get(self) -> int:
        """Return the number."""
        return int(self._number)

    def set(self, epoch: int) -> None:
        """Set the number, for all processes."""
        self._number.fill_(epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()
