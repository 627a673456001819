"""The methods that choose how rows are read, and say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lanceloader.options import ReadOptions
from lanceloader.verbs.explaining import explanation
from lanceloader.verbs.splitting import SplitVerbs
from lanceloader.verbs.warming import WarmReport, pack_now

if TYPE_CHECKING:
    import os

    from lanceloader._typing import Progress, Read, Size

__all__ = ["OptionVerbs"]


class OptionVerbs(SplitVerbs):
    """Choose how rows are read."""

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
                limit of the control group. Rows take no more than this, 256 MiB, and three times
                the longest row of a batch. ``"resident"`` and ``"external"`` raise ``ValueError``
                on the first batch if they cannot do with it.
            cache_dir: Where packed rows are kept; by default ``LANCELOADER_CACHE_DIR``, or
                ``~/.cache/lanceloader/rows``. An empty text keeps them in memory of the process.
                It holds at most ``LANCELOADER_CACHE_LIMIT`` bytes, by default half of the disk's
                free space; what was not used for longest goes first.
            threads: Threads that read ahead, as far as there are batches for them, and threads
                that pack rows; by default one per core, of those that read at most four.

        Raises:
            ValueError: If there is no such strategy, or a size is none.
        """
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Read with options; those that ``options`` leaves open stay as they are."""
        if options == ReadOptions():
            return self
        return self._replace(_options=self._options.merged(options))

    def explain(self) -> str:
        """Say where the rows come from, in which order, how they are read, why, and the cost.

        Looks at some hundred rows if their types do not say how long they are.
        """
        return explanation(self)

    def warm(
        self,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Progress = False,
    ) -> WarmReport:
        """Pack the rows of the table now, so that a first epoch does not have to.

        The selected columns of all rows of the table are packed, as ``read="resident"`` does it
        in the background, and this returns when the last row is packed. Filters and orders
        make no difference. Packed rows of 8 MiB and more are kept in the cache folder, for other
        processes and later runs, until others need the room; fewer are kept in memory while
        this permutation, or one made from it, is in use.

        Args:
            memory_limit: As for ``with_read``.
            cache_dir: As for ``with_read``.
            threads: As for ``with_read``; those that pack rows.
            progress: Whether to show a bar; or a function, called with the bytes packed so
                far and in all.

        Returns:
            What was packed, how long it took, and where it is kept.

        Raises:
            StorageError: If the rows cannot be written to the cache folder.
            UnsupportedError: If the native reader does not read these columns.
            ValueError: If the packed rows need more memory than ``memory_limit``.

        Example:
            >>> report = perm.warm()
            >>> report.rows, report.is_shared
            (10, False)
        """
        options = ReadOptions.of("resident", memory_limit, cache_dir, threads)
        view = self._replace(_options=self._options.merged(options))
        report = pack_now(view, progress)
        self._warm = view.reader
        return report
