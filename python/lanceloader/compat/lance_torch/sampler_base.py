"""What a sampler is: a function of a dataset to batches, mostly by row offsets that the core reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from lanceloader.compat.lance_torch.tables import arrow_batches
from lanceloader.numbers import count

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import pyarrow as pa

    from lanceloader.compat.lance_torch.fragments import CutRows
    from lanceloader.compat.lance_torch.tables import ScanTable

__all__ = ["FragmentSampler", "FullScanSampler", "NativeSampler", "Sampler"]

LISTING = (__name__, f"{__package__}.samplers")
"""The modules whose ``iter_fragments`` only list fragments, for which pylance need not be imported."""


class Sampler(ABC):
    """What chooses the rows that a ``LanceDataset`` reads: a function of a dataset to batches.

    Subclasses define ``__call__``, and are called with a ``lance.LanceDataset``.

    Example:
        >>> from lanceloader.compat.lance_torch import Sampler
        >>> class FirstRows(Sampler):
        ...     def __call__(self, dataset, *, batch_size=128, columns=None, **options):
        ...         yield from dataset.head(10, columns=columns).to_batches()
    """

    @abstractmethod
    def __call__(
        self,
        ds: Any,
        *args: Any,
        batch_size: int = 128,
        columns: list[str] | dict[str, str] | None = None,
        filter: str | None = None,  # noqa: A002
        batch_readahead: int = 16,
        with_row_id: bool = False,
        **kwargs: Any,
    ) -> Generator[pa.RecordBatch]:
        """Iterate over batches of the dataset."""


class NativeSampler(Sampler):
    """A sampler that chooses row offsets, so that the core reads the rows."""

    @abstractmethod
    def cut_rows(self, table: ScanTable, batch_size: int) -> CutRows:
        """Return the rows to read, and where batches end."""

    def __call__(
        self,
        ds: Any,
        *args: Any,
        batch_size: int = 128,
        columns: list[str] | dict[str, str] | None = None,
        filter: str | None = None,  # noqa: A002
        batch_readahead: int = 16,
        with_row_id: bool | None = False,
        **kwargs: Any,
    ) -> Generator[pa.RecordBatch]:
        """Iterate over batches of a dataset, a table or a path.

        Args:
            ds: The dataset, or whatever ``lanceloader.open`` opens.
            args: Unused, as in pylance.
            batch_size: The most rows in a batch.
            columns: The columns to read; by default all.
            filter: An SQL predicate of the rows to read.
            batch_readahead: Unused: the core decides how far it reads ahead.
            with_row_id: Whether to add the column ``_rowid``.
            kwargs: Unused, as in pylance.
        """
        del args, kwargs, batch_readahead
        size = count(batch_size, "batch_size", least=1)
        yield from arrow_batches(
            ds,
            lambda table: self.cut_rows(table, size),
            columns=columns,
            filter=filter,
            with_row_id=bool(with_row_id),
        )


class FragmentSampler(NativeSampler):
    """A sampler of whole fragments.

    Subclasses define ``iter_fragments``. Batches end where a fragment ends, unless there is a
    filter.

    Example:
        >>> from lanceloader.compat.lance_torch import FragmentSampler
        >>> class LastFirst(FragmentSampler):
        ...     def iter_fragments(self, ds, **options):
        ...         yield from reversed(ds.get_fragments())
    """

    @abstractmethod
    def iter_fragments(self, ds: Any, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """Iterate over the fragments to read, in order.

        Args:
            ds: The ``lance.LanceDataset``.
            args: Unused.
            kwargs: Unused.

        Returns:
            Fragments of the dataset, or their ids.
        """

    def cut_rows(self, table: ScanTable, batch_size: int) -> CutRows:
        """Return the rows of the fragments."""
        does_list = type(self).iter_fragments.__module__ in LISTING
        dataset = table if does_list else table.dataset
        return table.rows_of(self.iter_fragments(dataset), batch_size)


class FullScanSampler(FragmentSampler):
    """The sampler of all fragments, in storage order.

    Example:
        >>> from lanceloader.compat.lance_torch import FullScanSampler
        >>> [batch.num_rows for batch in FullScanSampler()(table, batch_size=4)]
        [4, 4, 2]
    """

    def iter_fragments(self, ds: Any, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """Iterate over all fragments."""
        del args, kwargs
        return ds.get_fragments()  # type: ignore[no-any-return]
