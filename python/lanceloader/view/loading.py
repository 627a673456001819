"""Training: batches read ahead by Rust threads, how they are read, and what happened."""

from __future__ import annotations

import os
import time
import warnings
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from lanceloader import _native
from lanceloader._progress import progress_over
from lanceloader.errors import DegradedWarning
from lanceloader.materialize import write_table
from lanceloader.numbers import count
from lanceloader.options import ReadOptions
from lanceloader.sources import open_source
from lanceloader.stats import Stats
from lanceloader.view.explaining import explanation
from lanceloader.view.splitting import SplitVerbs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._typing import Format, Nulls, Read, Size, StorageOptions
    from lanceloader.permutation import Permutation

__all__ = ["LoadVerbs", "Loader"]


class LoadVerbs(SplitVerbs):
    """Loading, and choosing how rows are read."""

    def with_read(
        self,
        read: Read | None = None,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> Self:
        """Choose how rows are read; without arguments, let the table decide again.

        Args:
            read: One of

                * ``"auto"``, the default: by the width and number of rows, the memory there is,
                  and how rows are asked for; ``explain()`` says what that comes to;
                * ``"resident"``: all rows are packed once, in the background, and kept in memory.
                  Workers, ranks and later runs on a machine share them through files in
                  ``cache_dir``;
                * ``"external"``: a ``loader`` shuffles by writing packed rows to scratch files
                  and reading them back in order, within ``memory_limit``;
                * ``"direct"``: rows are read from the table's files each time.
            memory_limit: Bytes of rows that may be held in memory, or a text like ``"4GiB"``;
                by default ``LANCELOADER_MEMORY_LIMIT``, or half of what is free, also under a
                limit of the control group.
            cache_dir: Where packed rows are kept; by default ``LANCELOADER_CACHE_DIR``, or
                ``~/.cache/lanceloader/rows``. An empty text keeps them in memory of the process.
                It holds at most ``LANCELOADER_CACHE_LIMIT`` bytes, by default half of the disk's
                free space; what was not used for longest goes first.
            threads: Threads that read; by default one per core.

        Raises:
            ValueError: If there is no such strategy, or a size is none.
        """
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def explain(self) -> str:
        """Say where the rows come from, in which order, how they are read, why, and the cost.

        Looks at some hundred rows if their types do not say how long they are.
        """
        return explanation(self)

    def materialize(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: StorageOptions | None = None,
        progress: bool = False,
    ) -> Permutation:
        """Write the rows, with these columns and in this order, as a new Lance table.

        All of it or nothing: a table that is interrupted leaves nothing behind, and one whose
        process is killed leaves a hidden folder that the next attempt removes. Memory is
        bounded, however many rows there are: see ``with_read``.

        Args:
            uri: Path or URI of the new table; ``"db/name.lance"`` is the table ``name`` of the
                LanceDB database ``db``.
            storage_options: Options of the object store of a URI.
            progress: Whether to show a bar.

        Returns:
            The new table, in storage order, with the format of this permutation.

        Raises:
            FileExistsError: If there is something at ``uri`` already.
            UnsupportedError: If neither pylance nor lancedb is installed.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> copy = perm.shuffle(seed=7).materialize(f"{folder}/shuffled.lance")
            >>> copy.head(2) == perm.shuffle(seed=7).head(2)
            True
        """
        uri = os.fspath(uri)
        batches = self._bulk("writing", progress=progress)
        write_table(self.schema, batches, uri, storage_options)
        source = open_source(uri, storage_options=storage_options)
        new = cast("Permutation", self._replace())
        new._assign(source, source.all_rows(), 0)
        new._base_table, new._permutation_table = uri, None
        new.batch_size, new.transform_fn = self.batch_size, self.transform_fn
        new._options = self._options
        return new

    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        *,
        drop_last: bool = False,
        shuffle: bool = False,
        seed: SupportsIndex | None = None,
        format: Format | None = None,  # noqa: A002
        nulls: Nulls | None = None,
        fill_value: Any = None,
        read: Read | None = None,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> Loader:
        """Load batches for training, without worker processes.

        Rust threads read ahead, a few batches at a time; batches come in order.

        Args:
            batch_size: Rows of a batch; by default that of the permutation.
            drop_last: Whether to leave a short last batch out.
            shuffle: Whether to shuffle the rows, as ``shuffle(seed)`` does.
            seed: Chooses the order, with ``shuffle``; by default at random.
            format: As for ``with_format``; by default that of the permutation.
            nulls: As for ``with_format``.
            fill_value: As for ``with_format``.
            read: As for ``with_read``; by default as it was chosen there.
            memory_limit: As for ``with_read``.
            cache_dir: As for ``with_read``.
            threads: As for ``with_read``.
            progress: Whether to show a bar for each epoch.

        Raises:
            ValueError: If ``batch_size`` is 0, or a seed is given without ``shuffle``.

        Example:
            >>> loader = perm.loader(batch_size=4, shuffle=True, seed=7, format="numpy_dict")
            >>> for epoch in range(2):
            ...     for batch in loader.set_epoch(epoch):
            ...         print(len(batch["x"]), end=" ")
            4 4 2 4 4 2
        """
        size = count(self.batch_size if batch_size is None else batch_size)
        if size == 0:
            raise ValueError("batch_size 0: wanted at least 1 row")
        if seed is not None and not shuffle:
            message = f"seed={seed!r} without shuffle: wanted shuffle=True"
            raise ValueError(message)
        view = self.shuffle(seed) if shuffle else self
        if format is not None:
            view = view.with_format(format, nulls=nulls, fill_value=fill_value)
        elif nulls is not None or fill_value is not None:
            raise ValueError(
                "nulls and fill_value are options of a format: wanted format= too"
            )
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        if options != ReadOptions():
            view = view._replace(_options=self._options.merged(options))
        return Loader(view, size, drop_last=drop_last, progress=progress)


_SAID: set[str] = set()
"""What this process was warned of."""


class Loader:
    """The batches of a permutation, read ahead by threads; ``Permutation.loader`` makes one.

    Each iteration gives the current epoch from its start. Several may run at once, also in
    several threads.

    Attributes:
        batch_size: Rows of a batch.
        drop_last: Whether a short last batch is left out.
        epoch: The epoch, as ``set_epoch`` set it, or ``None`` for that of the permutation.
    """

    def __init__(
        self, view: LoadVerbs, batch_size: int, *, drop_last: bool, progress: bool
    ) -> None:
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.epoch: int | None = None
        self._view = view
        self._progress = progress
        self._is_advancing = False
        self._running: tuple[_native.Watch, _native.ReadStats, float] | None = None

    @property
    def permutation(self) -> Permutation:
        """What is served: the permutation, in the order of the epoch."""
        view = self._view
        if self.epoch is not None:
            view = view._with_epoch(self.epoch)
        return cast("Permutation", view)

    @property
    def num_rows(self) -> int:
        """The number of rows of an epoch."""
        rows = self._view.num_rows
        return rows - rows % self.batch_size if self.drop_last else rows

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-self.num_rows // self.batch_size)

    def set_epoch(self, epoch: SupportsIndex) -> Self:
        """Serve another epoch: the same rows, shuffled anew. Constant time, at any size.

        A shuffle that rows were filtered, split, sampled or
        sliced from afterwards is not made anew. Without a shuffle all epochs are the same. An iteration that has begun is not changed.

        Returns:
            This loader.
        """
        before, self.epoch = self.epoch, count(epoch)
        self._is_advancing = before is not None and self.epoch == before + 1
        return self

    def __iter__(self) -> Iterator[Any]:
        # All epochs share the reader, and what it keeps.
        self._view._ensure_open()
        view = self.permutation
        reader = view._open_for_format()
        if isinstance(reader, _native.Reader):
            # Whoever went from one epoch to the next will go on.
            after = self._view._with_epoch((self.epoch or 0) + 1)._order
            own = reader.load(
                view._order,
                self.batch_size,
                self.drop_last,
                after if self._is_advancing else None,
            )
            self._running = own.watch(), reader.stats(), time.monotonic()
            batches: Iterator[Any] = own
        else:
            batches = reader.load(view._order, self.batch_size, self.drop_last)
        served = progress_over(
            map(view._converter(), batches),
            len(self),
            "loading" if self.epoch is None else f"epoch {self.epoch}",
            enabled=self._progress,
            rows_of=lambda _: 1,
            unit=" batches",
        )
        return self._watched(served)

    def _watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass batches on, and say once what did not go as it should."""
        try:
            for batch in batches:
                yield batch
                break
            self._say()
            yield from batches
        except GeneratorExit:
            self._say()
            raise
        self._say()

    def _say(self) -> None:
        failure = self.stats().failure
        if failure is not None and failure not in _SAID:
            _SAID.add(failure)
            message = f"rows were read in another way than explain() says: {failure}"
            warnings.warn(message, DegradedWarning, stacklevel=3)

    def explain(self) -> str:
        """Say how rows are read, why, and what it will cost; see ``Permutation.explain``."""
        return self.permutation.explain()

    def stats(self) -> Stats:
        """Say what the iteration that was begun last did so far."""
        if self._running is None:
            return Stats()
        watch, before, started = self._running
        reader = self._view._ensure_open()
        after = reader.stats() if isinstance(reader, _native.Reader) else before
        return Stats.of(watch.stats(), before, after, time.monotonic() - started)

    def __repr__(self) -> str:
        return f"<Loader of {len(self):,} batches of {self.batch_size:,} of {self._view!r}>"
