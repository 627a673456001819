"""Ending the tasks of a job that has failed.

``ray.cancel`` would end the process of the driver if a task is done at the same moment
(ray-project/ray#54785), so tasks ask from time to time whether they are still wanted.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Stop"]

T = TypeVar("T")

PERIOD_SECONDS = 1.0

NAMESPACE = b"lanceloader"


@dataclass(frozen=True)
class Stop:
    """A mark that the driver sets and tasks see, in the key-value store of the cluster.

    Attributes:
        key: The key of the mark.
    """

    key: bytes = field(default_factory=lambda: uuid.uuid4().bytes)

    def set(self) -> None:
        """Set the mark, at which tasks end. It stays, as some may look for it much later."""
        from ray.experimental import internal_kv

        # The error that is being raised says more than that the cluster is gone.
        with contextlib.suppress(Exception):
            internal_kv._internal_kv_put(self.key, b"", namespace=NAMESPACE)

    def check(self) -> None:
        """Raise an exception, which no one sees, if the mark is set.

        Raises:
            RuntimeError: If it is.
        """
        from ray.experimental import internal_kv

        if internal_kv._internal_kv_exists(self.key, namespace=NAMESPACE):
            message = (
                "another task of the job has failed, or its driver was interrupted"
            )
            raise RuntimeError(message)

    def before_each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items while the mark is not set: asks at first, and then once in a second.

        Raises:
            RuntimeError: If the mark is set.
        """
        asked = -PERIOD_SECONDS
        iterator = iter(items)
        while True:
            if time.monotonic() - asked >= PERIOD_SECONDS:
                self.check()
                asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item
