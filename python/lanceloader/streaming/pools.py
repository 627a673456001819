"""The thread pools of one iteration, and their end."""

from __future__ import annotations

from concurrent.futures import Executor, Future, wait
from typing import Any

from lanceloader.streaming.replaceable import namespace

# Seconds to wait for running reads and transforms when an iteration is closed. Calls that take
# longer, such as a transform that hangs, are left in the background.
GRACE = 1.0


class Pools:
    """Makes thread pools, of the class that a program may have replaced, and ends them."""

    def __init__(self) -> None:
        self._pools: list[tuple[Any, Any]] = []

    def new(self, num_threads: int) -> Any:
        """Return a new pool."""
        pool = namespace.ThreadPoolExecutor(max_workers=num_threads)
        entered = pool.__enter__()
        self._pools.append((pool, entered))
        return entered

    def close(self, under_way: list[Future[Any]], *reason: Any) -> None:
        """End the threads, except those that do not end in time.

        ``Executor.__exit__`` would wait for every call that was submitted.

        Args:
            under_way: The calls that may not have ended.
            *reason: The exception for which the iteration ends, as ``__exit__`` is passed it.
        """
        pools, self._pools = self._pools[::-1], []
        ours = [pool for pool, entered in pools if is_executor(pool, entered)]
        for pool in ours:
            pool.shutdown(wait=False, cancel_futures=True)
        left = None
        if ours:
            running = [future for future in under_way if not future.cancelled()]
            left = wait(running, timeout=GRACE).not_done
        for pool, _ in pools:
            if pool not in ours:
                pool.__exit__(*(reason or (None, None, None)))
            elif not left:
                pool.shutdown()
        if left:
            namespace.logger.warning(
                "%d reads or transforms continue in the background: they did not end within "
                "%g s after the iteration was closed",
                len(left),
                GRACE,
            )


def is_executor(pool: Any, entered: Any) -> bool:
    """Return whether a pool is an ``Executor``, not a replacement that only has ``submit``."""
    return pool is entered and isinstance(pool, Executor)
