"""``Loader``: the batches of what is served, epoch by epoch, and where training stands."""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from lanceloader._progress import check_bar, progress_over
from lanceloader.errors import DegradedWarning
from lanceloader.loading.headspace import Headspace
from lanceloader.loading.running import Running
from lanceloader.loading.share import Share, share_of
from lanceloader.loading.state import At, Way, numbered, read_state, write_state
from lanceloader.loading.trace import Trace
from lanceloader.numbers import count
from lanceloader.stats import Stats
from lanceloader.world import World

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from lanceloader.loading.finishing import Finish
    from lanceloader.loading.served import Served
    from lanceloader.loading.steps import Steps
    from lanceloader.permutation import Permutation

__all__ = ["Loader"]


class Loader:
    """The batches of a permutation, read ahead by threads; ``Permutation.loader`` makes one.

    Each iteration gives the current epoch from its start, or from where ``load_state_dict`` or
    ``skip_batches`` left it. Several may run at once, also in several threads; the state is that
    of the one that was begun last.

    It is an ``IterableDataset`` to torch: ``DataLoader(loader, batch_size=None)`` works with
    any number of workers, as do torchdata's ``StatefulDataLoader`` and
    ``lanceloader.torch.DataLoader``, whose state is exact with workers too.

    Attributes:
        epoch: The epoch, as ``set_epoch`` set it, or ``None`` for that of the permutation.
    """

    def __init__(
        self,
        served: Served,
        steps: Steps,
        finish: Finish,
        *,
        progress: bool,
        in_process: bool = True,
    ) -> None:
        self.epoch: int | None = None
        self._served = served
        self._steps = steps
        self._finish = finish
        self._progress = progress
        self._in_process = in_process
        self._is_advancing = False
        self._at = self._start = At(None, 0)
        self._running: Running | None = None
        """The iteration that was begun last."""
        self._leading: Running | None = None
        """The one that says where training stands, if it goes on."""
        self._asked_last: Running | None = None
        """The one that was asked for last, until its first batch is."""
        self._trace: Trace | None = None
        self._signal: Any = None
        """Shared memory in which another process says where to start."""
        if progress:
            check_bar()
        steps.together(self.world)
        register_as_dataset()

    @property
    def world(self) -> World:
        """This process among those that train together."""
        return self._steps.world or World.found()

    @property
    def batch_size(self) -> int:
        """Rows of a batch of this rank."""
        share = self._share(0, 2**62)
        return share.size

    @property
    def global_batch_size(self) -> int:
        """Rows of a batch of all ranks together."""
        return self._steps.together(self.world)

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
        """The number of rows of an epoch, of this rank."""
        return self._share(0, self._served.num_units(self.epoch)).num_served

    @property
    def sampler(self) -> Self:
        """This loader: trainers look here for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        """The number of batches of an iteration that starts with an epoch.

        Raises:
            TypeError: If it never ends.
        """
        if self._steps.epochs is None:
            raise TypeError("a loader of epochs=None never ends, and has no length")
        epochs = (
            [self.epoch]
            if self._steps.epochs == 1
            else range(self._first_epoch(), self._first_epoch() + self._steps.epochs)
        )
        if self._served.unit == "row":
            units = self._served.num_units(self.epoch)
            return self._share(0, units).num_batches * len(epochs)
        return sum(
            self._share(0, self._served.num_units(epoch)).num_batches
            for epoch in epochs
        )

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Serve another epoch: the same rows, shuffled anew. Constant time, at any size.

        A shuffle that rows were filtered, split, sampled or sliced from afterwards is not made
        anew. Without a shuffle all epochs are the same. An iteration that gave a batch is not
        changed. A place that ``load_state_dict`` set is kept if it is in this epoch.

        Returns:
            This loader.
        """
        before, self.epoch = self.epoch, count(epoch)
        self._is_advancing = before is not None and self.epoch == before + 1
        if not self._serves(self._start.epoch):
            self._begin_at(At(self.epoch, 0))
        return self

    def skip_batches(self, num_batches: SupportsIndex) -> Self:
        """Start the next iteration so many steps later: after ``load_state_dict``, or an epoch.

        Constant time. Steps beyond the end of the epoch are none.

        Returns:
            This loader.
        """
        units = self._served.num_units(self._start.epoch)
        position = self._start.position + count(num_batches) * self.global_batch_size
        self._begin_at(replace(self._start, position=min(units, position)))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Give where training stands: after the batch that was handed out last.

        Plain numbers and texts, equal on all ranks: for ``torch.save``, JSON and anything else.
        It may be loaded at any ``world_size``, batch size and number of workers.
        """
        return write_state(self._at, self._served.plan())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration where a state was taken. Constant time.

        Raises:
            ValueError: If the state is of other rows or of another order, saying what differs, or
                is damaged.
            TypeError: If it is no dict.
        """
        at = read_state(state, self._served.plan())
        if at.turn is not None:
            at.turn.checked((worker_of() or (0, 1))[1])
        units = self._served.num_units(at.epoch)
        if at.position > units:
            message = (
                f"a state at position {at.position:,} of {units:,} {self._served.unit}s"
            )
            raise ValueError(message)
        if self._steps.epochs == 1:
            self.epoch = at.epoch
        elif at.epoch is None:
            at = numbered(at, self._served.plan())
        self._begin_at(at)

    def __iter__(self) -> Iterator[Any]:
        # All epochs share the reader, and what it keeps.
        self._served.view._ensure_open()
        running = Running(self._served, self.world, is_traced=self._trace is not None)
        if self._trace is not None:
            self._trace.add(running)
        starts = self._asked(running)
        return self._watched(self._batches(starts, running), running)

    def explain(self) -> str:
        """Say how rows are read, why, and what it will cost; see ``Permutation.explain``."""
        return self.permutation.explain()

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
            As many batches as this loader gives; its ``report()`` compares the steps per second.

        Raises:
            ValueError: If ``after`` is less than 5, or ``keep`` less than 1.

        Example:
            >>> trial = perm.loader(1).headspace(after=5)
            >>> print(len([batch for batch in trial]), trial.report().steps_replayed)
            10 5
        """
        return Headspace(self, count(after), count(keep))

    def __repr__(self) -> str:
        number = "endless" if self._steps.epochs is None else f"{len(self):,}"
        world = f", {self.world}," if self.world.world_size > 1 else ""
        return f"<Loader of {number} batches of {self.batch_size:,}{world} of {self._served.view!r}>"

    def __getstate__(self) -> dict[str, Any]:
        # A worker is not one of those that train; but a rank may be given its loader so, too.
        world = self._steps.world or World.in_use()
        steps = replace(self._steps, world=world)
        gone = ("_running", "_leading", "_asked_last", "_trace")
        away = dict.fromkeys(gone)
        return self.__dict__ | {"_steps": steps} | away

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register_as_dataset()

    def _asked(self, running: Running) -> Iterable[At]:
        """Say where the epochs of an iteration begin that was asked for."""
        start = self._signalled()
        if start is None:
            start, self._start = self._start, At(self.epoch, 0)
            self._at, self._asked_last = start, running
        self._running = self._leading = running
        return self._epochs(start)

    def _begun(self, starts: Iterable[At], running: Running) -> Iterable[At]:
        """Say it again, as its first batch is asked for: trainers set the epoch in between."""
        if self._asked_last is not running:
            return starts
        self._asked_last = None
        return starts if self._leading is running else self._asked(running)

    def _begin_at(self, at: At) -> None:
        self._start = self._at = at
        # An iteration that goes on no longer says where training stands.
        self._leading = None

    def _signalled(self) -> At | None:
        if self._signal is None:
            return None
        first, epoch, position = (int(number) for number in self._signal)
        before, self.epoch = self.epoch, None if first < 0 else first
        self._is_advancing = before is not None and self.epoch == before + 1
        return At(None if epoch < 0 else epoch, position)

    def _serves(self, epoch: int | None) -> bool:
        """Whether an epoch is one of those of an iteration, or to come in it."""
        num_epochs = self._steps.epochs
        if num_epochs == 1 or epoch is None:
            return epoch == self.epoch
        first = self._first_epoch()
        return epoch >= first and (num_epochs is None or epoch < first + num_epochs)

    def _first_epoch(self) -> int:
        return 0 if self.epoch is None else self.epoch

    def _share(self, start: int, num_units: int) -> Share:
        world = self.world
        return share_of(
            num_units,
            start,
            self._steps.together(world),
            world,
            tail=self._steps.tail,
            drop_last=self._steps.drop_last,
        )

    def _epochs(self, start: At) -> Iterable[At]:
        """List where each epoch of an iteration begins."""
        if self._steps.epochs == 1:
            return [start]
        first = self._first_epoch() if start.epoch is None else start.epoch
        rest: Iterable[int] = itertools.count(first + 1)
        if self._steps.epochs is not None:
            end = self._first_epoch() + self._steps.epochs
            if first >= end:
                return []
            rest = range(first + 1, end)
        begun = replace(start, epoch=first)
        return itertools.chain([begun], (At(epoch, 0) for epoch in rest))

    def _batches(self, starts: Iterable[At], running: Running) -> Iterator[Any]:
        """Give the batches of all epochs of an iteration."""
        begun = self._begun(starts, running)
        if not self._in_process:
            for start in itertools.islice(begun, 1):
                yield from self._by_helper(start, running)
            return
        worker, num_workers = worker_of() or (0, 1)
        turn = None
        for start in begun:
            if turn is None:
                of_state = start.turn
                turn = worker if of_state is None else of_state.checked(num_workers)
            way = self._way(start, turn)
            yield from self._epoch(way, self._following(start.epoch), running)
            # Workers take turns across epochs, so that batches stay in order.
            turn -= way.num_batches

    def _by_helper(self, start: At, running: Running) -> Iterator[Any]:
        """Give the batches of all epochs of an iteration, which a helper process makes."""
        from lanceloader.loading.elsewhere import batches_of_helper

        there = copy.copy(self)
        there._steps = replace(self._steps, world=self.world)
        there._finish = self._finish.elsewhere()
        there._in_process, there._progress, there._signal = True, False, None
        there._begin_at(start)
        batches = batches_of_helper(
            there,
            lambda values: self._finish.copied(values, running),
            running,
            lambda at: self._reached(at, running),
        )
        total = None if self._steps.epochs is None else len(self)
        step = start.position // self.global_batch_size
        yield from self._with_bar(batches, "loading", step, total, running)

    def _with_bar(
        self,
        values: Iterator[Any],
        what: str,
        first: int,
        total: int | None,
        running: Running,
    ) -> Iterator[Any]:
        return progress_over(
            values,
            total,
            what,
            # One of all ranks and workers: the others are about where it is.
            enabled=self._progress and self.world.rank == (worker_of() or (0,))[0] == 0,
            rows_of=lambda _: 1,
            unit=" batches",
            first=first,
            said=running.lap(),
        )

    def _following(self, epoch: int | None) -> int | None:
        """Guess which epoch will be loaded next."""
        if self._steps.epochs == 1:
            return self._first_epoch() + 1 if self._is_advancing else None
        following = None if epoch is None else epoch + 1
        return following if self._serves(following) else None

    def _epoch(
        self, way: Way, following: int | None, running: Running
    ) -> Iterator[Any]:
        """Give what is left of an epoch; of workers, this one begins with batch ``turn``."""
        start, turn, num_workers = way.start, way.turn, way.num_workers or 1
        share = self._share(start.position, way.num_units).of_worker(turn, num_workers)
        then = None
        if following is not None:
            after = self._share(0, self._served.num_units(following))
            then = following, after.of_worker(turn - way.num_batches, num_workers)
        raw = running.over(self._served.load(start.epoch, share, then))
        step = start.position // way.global_batch_size
        values = self._finish.over(raw, self._served, running, step)
        first = 0 if way.num_workers else step
        what = "loading" if start.epoch is None else f"epoch {start.epoch}"
        total = first + share.num_batches
        bar = self._with_bar(values, what, first, total, running)
        skipped = running.counts.batches_skipped
        for steps, value in enumerate(bar, 1):
            done = steps + running.reached() - skipped
            self._reached(way.after(done), running)
            yield value
        self._reached(way.end(), running)

    def _places(self, start: At) -> Iterator[At]:
        """Say where training stands after each batch that is left of an epoch."""
        way = self._way(start, 0)
        return map(way.after, range(1, way.num_batches + 1))

    def _end(self, at: At) -> At:
        """Say where training stands after the end of an epoch."""
        return self._way(at, 0).end()

    def _way(self, start: At, turn: int) -> Way:
        """Give where training stands after each step of what is left of an epoch."""
        units = self._served.num_units(start.epoch)
        worker = worker_of()
        num_batches = self._share(start.position, units).num_batches
        num_workers = None if worker is None else worker[1]
        together = self.global_batch_size
        return Way(start, units, together, num_batches, turn, num_workers)

    def _reached(self, at: At, running: Running) -> None:
        if self._leading is running:
            self._at = at

    def _watched(self, batches: Iterator[Any], running: Running) -> Iterator[Any]:
        """Pass batches on, measure the waits, and say once what did not go as it should."""
        try:
            while True:
                running.asked()
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                running.handed()
                yield batch
                if running.num_handed == 1:
                    self._say(running)
        finally:
            running.ended()
            self._say(running)

    def _say(self, running: Running) -> None:
        failure = running.stats().failure
        if failure is not None and failure not in _SAID:
            _SAID.add(failure)
            message = f"rows were read in another way than explain() says: {failure}"
            warnings.warn(message, DegradedWarning, stacklevel=3)


_SAID: set[str] = set()
"""What this process was warned of."""


def worker_of() -> tuple[int, int] | None:
    """Give the number of this worker process of a ``DataLoader``, and of how many, if it is one."""
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return None if info is None else (info.id, info.num_workers)


def register_as_dataset() -> None:
    """Be an ``IterableDataset`` to torch, if torch is there."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and not issubclass(Loader, data.IterableDataset):
        data.IterableDataset.register(Loader)
