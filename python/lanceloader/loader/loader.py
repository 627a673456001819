"""``Loader``: the batches of what is served, epoch by epoch, and where training stands."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex, cast

from lanceloader.loader.checkpoint import numbered, read_state, write_state
from lanceloader.loader.iterating import Iterating
from lanceloader.loader.trainers import check_collation, refuse_dataset
from lanceloader.monitor.metrics import Metrics
from lanceloader.monitor.replay import Headspace
from lanceloader.monitor.stats import Stats
from lanceloader.monitor.trace import Trace
from lanceloader.numbers import count
from lanceloader.world import World

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from lanceloader._permutation import Permutation

__all__ = ["Loader"]


class Loader(Iterating):
    """The batches of a permutation, read ahead by threads; ``Permutation.loader`` makes one.

    Each iteration gives the current epoch from its start, or from where ``load_state_dict`` or
    ``skip_batches`` left it. Several may run at once, also in several threads, and several threads
    may ask one; the state is that of the one that was begun last.

    It is an ``IterableDataset`` to torch: ``DataLoader(loader, batch_size=None)`` works with
    any number of workers, as do torchdata's ``StatefulDataLoader`` and
    ``lanceloader.torch.DataLoader``, whose state is exact with workers too.

    Attributes:
        epoch: The epoch, as ``set_epoch`` set it, or ``None`` for that of the permutation.
        sampler: Where trainers look for ``set_epoch``, and see that rows are shared out already.
        batch_sampler: The same, for trainers that look there.
    """

    @property
    def batch_size(self) -> int:
        """Rows of a batch of this rank."""
        return self._share(0, self.global_batch_size).size

    @property
    def drop_last(self) -> bool:
        """Whether a short last batch is left out."""
        return self._steps.drop_last

    @property
    def epochs(self) -> int | None:
        """How many epochs an iteration gives; ``None`` never ends."""
        return self._steps.epochs

    @property
    def permutation(self) -> Permutation:
        """The rows of all ranks, in the order of the epoch."""
        view: Any = self._served.view
        if self.epoch is not None:
            view = view._with_epoch(self.epoch)
        return cast("Permutation", view)

    @property
    def num_rows(self) -> int:
        """The number of rows of an epoch, of this rank; of packed documents, of blocks."""
        share = self._share(0, self._served.num_units(self.epoch))
        # Of batches, say, each has its own number.
        count_rows = getattr(self._served, "num_rows", None)
        return share.num_served if count_rows is None else count_rows(self.epoch, share)

    @property
    def dataset(self) -> NoReturn:
        """Not there: the rows are those of ``permutation``.

        Raises:
            AttributeError: Saying what trainers that ask for it need instead.
        """
        refuse_dataset()

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Serve another epoch: the same rows, shuffled anew. Constant time, at any size.

        A shuffle that rows were filtered, split, sampled or sliced from afterwards is not made
        anew. Without a shuffle all epochs are the same. An iteration that gave a batch is not
        changed, and its next batch says again where training stands. A place that
        ``load_state_dict`` set is kept if it is in this epoch.

        Returns:
            This loader.
        """
        before, self.epoch = self.epoch, count(epoch, "epoch")
        self._is_advancing = before is not None and self.epoch == before + 1
        self._renumbered()
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration so many steps later: after ``load_state_dict``, or an epoch.

        Constant time. Steps beyond the end of the epoch are none.

        Returns:
            This loader.
        """
        units = self._served.num_units(self._start.epoch)
        position = (
            self._start.position
            + count(num_batches, "num_batches") * self.global_batch_size
        )
        self._begin_at(replace(self._start, position=min(units, position)))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Give where training stands: after the batch that was handed out last.

        Plain numbers and texts, equal on all ranks: for ``torch.save``, JSON and anything else.
        It may be loaded at any ``world_size``, batch size and number of workers. In the body of
        the loop, what is left of the pass after its last batch is nothing; behind the loop, the
        next pass begins, if epochs have no numbers.
        """
        return write_state(self._at, self._served.plan())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken. Constant time.

        Of several epochs in one iteration the state knows the first, as ``set_epoch`` set it.

        Raises:
            ValueError: If the state is of other rows or of another order, saying what differs, or
                is damaged.
            TypeError: If it is no dict.
        """
        at = read_state(state, self._served.plan())
        self._check_turn(at)
        units = self._served.num_units(at.epoch)
        if at.position > units:
            message = (
                f"a state at position {at.position:,} of {units:,} {self._served.unit}s"
            )
            raise ValueError(message)
        if self._steps.epochs != 1 and at.epoch is None:
            at = numbered(at, self._served.plan())
        if self._steps.epochs == 1:
            self.epoch = at.epoch
        elif at.first is not None:
            self.epoch = at.first
        self._begin_at(at if self._has_several else replace(at, first=None))

    def __iter__(self) -> Iterator[Any]:
        check_collation(sys._getframe(1))
        # All epochs share the reader, and what it keeps.
        self._served.view._ensure_open()
        running = Metrics(self._served, self.world, is_traced=self._trace is not None)
        if self._trace is not None:
            self._trace.add(running)
        starts = self._asked(running)
        return self._watched(self._batches(starts, running), running)

    def explain(self) -> str:
        """Say how rows are read, why, and what it will cost; see ``Permutation.explain``."""
        explain = getattr(self._served, "explain", None)
        mine = "" if explain is None else f"{explain()}\n"
        return mine + self.permutation.explain()

    def stats(self) -> Stats:
        """Say what the iteration that was begun last did so far."""
        return Stats() if self._running is None else self._running.stats()

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Write what each thread did, and when, for chrome://tracing and ui.perfetto.dev.

        Rows are the threads that read, those that transform and copy, and the training loop with
        its waits. Costs some microseconds a batch, and memory: about 200 bytes for each thing
        that took time, of which the first million are kept.

        Args:
            path: The JSON file, which is written at the end of the block.

        Returns:
            A context manager; iterations that begin in its block are traced.

        Raises:
            RuntimeError: From ``with``, if this loader is being traced already.

        Example:
            >>> loader = perm.loader(5)
            >>> with loader.trace("trace.json"):
            ...     for batch in loader:
            ...         pass
        """
        return Trace(self, path)

    def headspace(
        self, after: SupportsIndex = 100, *, keep: SupportsIndex = 8
    ) -> Headspace:
        """Try what the fastest loader there could be would give: batches that are there already.

        Args:
            after: Batches to read first. A fifth of them is not timed, for training to warm up.
            keep: How many of the last ones of them are kept, at most, and served again and again.

        Returns:
            As many batches as this loader gives next; its ``report()`` compares the steps per second.

        Raises:
            ValueError: If ``after`` is less than 5, or ``keep`` less than 1.

        Example:
            >>> trial = perm.loader(1).headspace(after=5)
            >>> print(len([batch for batch in trial]), trial.report().steps_replayed)
            10 5
        """
        return Headspace(self, count(after, "after"), count(keep, "keep"))

    def __repr__(self) -> str:
        number = "endless" if self._steps.epochs is None else f"{len(self):,}"
        world = f", {self.world}," if self.world.world_size > 1 else ""
        return f"<Loader of {number} batches of {self.batch_size:,}{world} of {self._served.view!r}>"

    def __getstate__(self) -> dict[str, Any]:
        # A worker is not one of those that train; but a rank may be given its loader so, too.
        world = self._steps.world or World.in_use()
        steps = replace(self._steps, world=world)
        gone = ("_running", "_leading", "_asked_last", "_trace")
        state = self.__dict__ | {"_steps": steps} | dict.fromkeys(gone)
        # They know this loader.
        del state["sampler"], state["batch_sampler"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._meet_torch()
