"""One live iterator per dataset, whether a loader or a loop owns it."""

from __future__ import annotations

from typing import NamedTuple

from lanceloader import streaming
from lanceloader.streaming.fields import Fields


class _ConsumerIteratorLease(NamedTuple):
    owner_token: int
    owner_thread: int


class OneIterator(Fields):
    """The lease that an iterator holds while it lives."""

    def _start_leasing(self) -> None:
        self._consumer_iterator_lock = streaming.threading.Lock()
        self._consumer_iterator_generation = 0
        self._consumer_iterator_lease = None

    @property
    def _consumer_iterator_active(self) -> bool:
        return self._consumer_iterator_lease is not None

    @property
    def _consumer_iterator_owner(self) -> int | None:
        lease = self._consumer_iterator_lease
        return None if lease is None else lease.owner_token

    @property
    def _consumer_iterator_owner_thread(self) -> int | None:
        lease = self._consumer_iterator_lease
        return None if lease is None else lease.owner_thread

    def _acquire_consumer_iterator(self) -> int:
        """Take the lease; the token returned gives it back.

        Raises:
            RuntimeError: If another iterator has it.
        """
        with self._consumer_iterator_lock:
            self._refuse_second_iterator(
                is_live=self._consumer_iterator_active
                or self._raw_batches_ref is not None
            )
            thread = streaming.threading.get_ident()
            token = self._consumer_iterator_generation + 1
            lease = _ConsumerIteratorLease(token, thread)
            self._consumer_iterator_generation = token
            self._consumer_iterator_lease = lease
            return token

    def _release_consumer_iterator(self, owner_token: int) -> None:
        """Give the lease back, if it is still that of this token."""
        with self._consumer_iterator_lock:
            if self._consumer_iterator_owner == owner_token:
                self._consumer_iterator_lease = None

    def _release_consumer_iterator_after_failed_acquire(
        self, previous_lease: _ConsumerIteratorLease | None
    ) -> None:
        """Give back what an interrupted acquire took, but could not return the token of."""
        thread = streaming.threading.current_thread().ident
        with self._consumer_iterator_lock:
            lease = self._consumer_iterator_lease
            is_ours = lease is not previous_lease
            if lease is not None and is_ours and lease.owner_thread == thread:
                self._consumer_iterator_lease = None

    def _refuse_second_iterator(self, *, is_live: bool) -> None:
        if is_live:
            raise RuntimeError(
                "StreamingDataset does not support concurrent iteration: only one active "
                "iterator per dataset is allowed. Exhaust or close the other one first"
            )
