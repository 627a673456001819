"""The lock that allows one live iterator per dataset, be it of a loader or of a loop."""

from __future__ import annotations

from typing import Any, NamedTuple

from lanceloader.sources.secrets import may_travel
from lanceloader.streaming.replaceable import namespace


class _ConsumerIteratorLease(NamedTuple):
    owner_token: int
    owner_thread: int


class IteratorLock:
    """Held by the live iterator of a dataset."""

    def __init__(self) -> None:
        self._mutex = namespace.threading.Lock()
        self._num_acquired = 0
        self.lease: _ConsumerIteratorLease | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker reads under the lease of the loader that starts it. Anywhere else, the
        # dataset is a copy that nobody reads yet.
        lease = self.lease if may_travel() else None
        return {"_num_acquired": self._num_acquired, "lease": lease}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._mutex = namespace.threading.Lock()

    @property
    def owner(self) -> int | None:
        """The token of the live iterator; ``None`` if there is none."""
        lease = self.lease
        return None if lease is None else lease.owner_token

    @property
    def owner_thread(self) -> int | None:
        """The thread that acquired the lock; ``None`` if there is no live iterator."""
        lease = self.lease
        return None if lease is None else lease.owner_thread

    def acquire(self, *, is_reading: bool) -> int:
        """Acquire the lock, and return the token that releases it.

        Args:
            is_reading: Whether an iteration without a lease is under way.

        Raises:
            RuntimeError: If another iterator is live.
        """
        with self._mutex:
            refuse_second_iterator(is_live=is_reading or self.lease is not None)
            thread = namespace.threading.get_ident()
            self._num_acquired += 1
            self.lease = _ConsumerIteratorLease(self._num_acquired, thread)
            return self._num_acquired

    def release(self, owner_token: int) -> None:
        """Release the lock if ``owner_token`` still holds it."""
        with self._mutex:
            if self.owner == owner_token:
                self.lease = None

    def release_after_failed_acquire(
        self, previous_lease: _ConsumerIteratorLease | None
    ) -> None:
        """Release a lock whose ``acquire`` was interrupted before it returned a token.

        Args:
            previous_lease: The lease before that ``acquire``.
        """
        thread = namespace.threading.current_thread().ident
        with self._mutex:
            lease = self.lease
            is_new = lease is not previous_lease
            if lease is not None and is_new and lease.owner_thread == thread:
                self.lease = None


def refuse_second_iterator(*, is_live: bool) -> None:
    """Raise if an iterator is live.

    Raises:
        RuntimeError: If ``is_live``.
    """
    if is_live:
        raise RuntimeError(
            "StreamingDataset does not support concurrent iteration: only one active iterator "
            "per dataset is allowed. Exhaust or close the other iterator first"
        )
