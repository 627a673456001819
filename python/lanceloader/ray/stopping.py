"""Stopping the tasks of a job that has failed.

``ray.cancel`` would end the process of the driver if a task is done at the same moment
(ray-project/ray#54785), so tasks check from time to time whether to stop.
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
    """A stop flag in the key-value store of the cluster, which the driver sets and tasks check.

    Attributes:
        key: The key of the flag.
    """

    key: bytes = field(default_factory=lambda: uuid.uuid4().bytes)

    def set(self) -> None:
        """Set the flag, which stops the tasks. It is never removed, as tasks may check it much later."""
        from ray.experimental import internal_kv

        # The error that is being raised must not be hidden by one of a lost cluster.
        with contextlib.suppress(Exception):
            internal_kv._internal_kv_put(self.key, b"", namespace=NAMESPACE)

    def check(self) -> None:
        """Raise an exception if the flag is set. The driver, which has failed, does not report it.

        Raises:
            RuntimeError: If the flag is set.
        """
        from ray.experimental import internal_kv

        if internal_kv._internal_kv_exists(self.key, namespace=NAMESPACE):
            message = (
                "another task of the job has failed, or its driver was interrupted"
            )
            raise RuntimeError(message)

    def before_each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items until the flag is set, which is checked first and then once a second.

        Raises:
            RuntimeError: If the flag is set.
        """
        last_check = -PERIOD_SECONDS
        iterator = iter(items)
        while True:
            if time.monotonic() - last_check >= PERIOD_SECONDS:
                self.check()
                last_check = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item
