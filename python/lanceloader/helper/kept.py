"""The helper process of a loader, which is reused from one iteration to the next."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from lanceloader.helper.child import GRACE_S
from lanceloader.helper.client import HelperClient
from lanceloader.helper.link import ChildLink, check_can_start
from lanceloader.helper.producer import PickledProducer

if TYPE_CHECKING:
    from lanceloader.helper.producer import Producer

__all__ = ["KeptHelper"]

DEPTH = 2
"""The number of messages that a helper makes ahead."""


class KeptHelper:
    """Iterates in a helper process, which ends when this object is dropped.

    Concurrent iterations have a process each, of which one is kept. A process that raised an
    exception is not reused.
    """

    def __init__(self) -> None:
        # Only appended to and popped, which is atomic: the garbage collector may call ``_release`` at
        # any point.
        self._idle: list[ChildLink] = []
        weakref.finalize(self, end_all, self._idle)

    def iterate(self, producer: Producer, argument: bytes) -> HelperClient:
        """Begin an iteration.

        Args:
            producer: The producer of the items, which is pickled. A process that has a producer with
                an equal pickle keeps it.
            argument: The pickled argument of the producer's ``items``.

        Raises:
            Exception: If the producer cannot be pickled.
            UnsupportedError: If the system is not Linux.
            RuntimeError: If this process is a daemon, such as a worker of a ``DataLoader``.
        """
        check_can_start()
        pickled = PickledProducer(producer)
        link = self._pop_ready() or ChildLink("spawn", DEPTH)
        client = HelperClient(link, self._release)
        link.begin(pickled, argument)
        return client

    def _pop_ready(self) -> ChildLink | None:
        """Return an idle process that is ready for an iteration, or ``None`` if there is none."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                break
            is_ready = False
            try:
                # The last iteration may still be in a call that takes long.
                is_ready = link.owner == os.getpid() and link.settle(GRACE_S)
            finally:
                if not is_ready:
                    link.end()
            if is_ready:
                return link
        return None

    def _release(self, link: ChildLink) -> None:
        """Keep a process whose iteration has ended or was dropped, and end surplus idle ones."""
        if link.is_closed or link.owner != os.getpid():
            return
        link.stop()
        self._idle.append(link)
        while len(self._idle) > 1:
            try:
                self._idle.pop(0).end()
            except IndexError:
                break


def end_all(links: list[ChildLink]) -> None:
    """End processes."""
    for link in links:
        link.end()
