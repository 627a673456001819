"""The methods that choose how rows are read, and ``explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lanceloader.options import ReadOptions
from lanceloader.verbs.base import View
from lanceloader.verbs.explaining import explanation
from lanceloader.verbs.warming import WarmReport, fetch_now, is_fetched, pack_now

if TYPE_CHECKING:
    import os

    from lanceloader._typing import Progress, Read, Size

__all__ = ["OptionVerbs"]


class OptionVerbs(View):
    """Methods that choose how rows are read."""

    def with_read(
        self,
        read: Read | None = None,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> Self:
        """Return a permutation that is read in another way; without arguments, in the default way.

        All four options are replaced. ``loader(read=...)`` replaces only the options that are passed.

        Args:
            read: The strategy, one of

                * ``"auto"``, the default: chooses one of the others by the size of the rows, the
                  available memory and the order; ``explain()`` returns the choice;
                * ``"resident"``: packs all rows once, in the background, and keeps them in memory.
                  Workers, ranks and later runs on a machine share them through files in
                  ``cache_dir``;
                * ``"external"``: a ``loader`` shuffles by writing packed rows to scratch files
                  and reading them back in order, within ``memory_limit``;
                * ``"direct"``: reads rows from the files of the table each time.
            memory_limit: The most bytes of rows to hold in memory, as a number or a string like
                ``"4GiB"``. Defaults to ``LANCELOADER_MEMORY_LIMIT``, or half of the free memory,
                also within a control group. Rows never take more than this limit, 256 MiB and
                three times the longest row of a batch together. With ``"resident"`` and
                ``"external"``, the first batch raises ``ValueError`` if the limit is too low.
            cache_dir: The folder of packed rows. Defaults to ``LANCELOADER_CACHE_DIR``, or
                ``~/.cache/lanceloader/rows``. An empty string keeps them in memory of the
                process. The folder holds at most ``LANCELOADER_CACHE_LIMIT`` bytes, by default
                half of the free disk space; the least recently used files are removed first.
            threads: The number of threads that read ahead, and of threads that pack rows.
                Defaults to one per core, of which at most four read.

        Raises:
            ValueError: If the strategy is unknown, or a size cannot be parsed.
            TypeError: If ``memory_limit`` or ``threads`` is neither a number nor a string of one.

        Example:
            >>> perm.with_read("direct", memory_limit="1GiB").head(1)
            [{'x': 0}]
        """
        options = ReadOptions(read, memory_limit, cache_dir, threads)
        return self._replace(read_options=options)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return a permutation with other read options; options that are ``None`` keep their values."""
        if options == ReadOptions():
            return self
        return self._replace(read_options=self.read_options.merged(options))

    def explain(self) -> str:
        """Return a description of the source, the order, how rows are read, why, and the cost.

        Reads a few hundred rows if the columns have values of variable length.
        """
        return explanation(self)

    def warm(
        self,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> WarmReport:
        """Pack or fetch the rows of the table now, so that a first epoch does not have to.

        The selected columns of all rows of the table are packed, as ``read="resident"`` does it
        in the background, and this returns when the last row is packed. Filters and orders
        make no difference. Packed rows of 8 MiB and more are kept in the cache folder, for other
        processes and later runs, until others need the room; fewer are kept in memory while
        this permutation, or one made from it, is in use.

        Rows of a table in object storage that are not read from packed rows, such as images, are
        fetched and kept in the cache folder as they are.

        Args:
            memory_limit: As for ``with_read``.
            cache_dir: As for ``with_read``.
            threads: As for ``with_read``; those that pack rows.
            progress: Whether to show a bar, by default as ``LANCELOADER_PROGRESS`` says; or a
                function, called with the bytes packed so far and in all.

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
        options = ReadOptions(None, memory_limit, cache_dir, threads)
        view = self._replace(read_options=self.read_options.merged(options))
        if is_fetched(view):
            report = fetch_now(view, progress)
        else:
            options = ReadOptions("resident")
            view = view._replace(read_options=view.read_options.merged(options))
            report = pack_now(view, progress)
        self._warm = view.reader
        return report
