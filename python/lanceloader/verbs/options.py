"""The methods that choose how rows are read, and ``explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lanceloader.options import ReadOptions
from lanceloader.verbs.explaining import explanation
from lanceloader.verbs.splitting import SplitVerbs

if TYPE_CHECKING:
    import os

    from lanceloader._typing import Read, Size

__all__ = ["OptionVerbs"]


class OptionVerbs(SplitVerbs):
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
            cache_dir: The directory of packed rows. Defaults to ``LANCELOADER_CACHE_DIR``, or
                ``~/.cache/lanceloader/rows``. An empty string keeps them in memory of the
                process. The directory holds at most ``LANCELOADER_CACHE_LIMIT`` bytes, by default
                half of the free disk space; the least recently used files are removed first.
            threads: The number of threads that read ahead, and of threads that pack rows.
                Defaults to one per core, of which at most four read.

        Raises:
            ValueError: If the strategy is unknown, or a size cannot be parsed.

        Example:
            >>> perm.with_read("direct", memory_limit="1GiB").head(1)
            [{'x': 0}]
        """
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return a permutation with other read options; options that are ``None`` keep their values."""
        if options == ReadOptions():
            return self
        return self._replace(_options=self._options.merged(options))

    def explain(self) -> str:
        """Return a description of the source, the order, how rows are read, why, and the cost.

        Reads a few hundred rows if the columns have values of variable length.
        """
        return explanation(self)
