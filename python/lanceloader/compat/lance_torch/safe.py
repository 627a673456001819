"""Rows by position, for ``DataLoader`` workers of any start method."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

from torch.utils.data import DataLoader, Dataset

from lanceloader.compat.lance_torch.tables import ScanTable
from lanceloader.numbers import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lanceloader._permutation import Permutation

__all__ = ["SafeLanceDataset", "get_safe_loader"]


class SafeLanceDataset(Dataset[dict[str, Any]]):
    """A map-style dataset of the rows of a table, as dicts of Python objects.

    All workers read the version that is current when the dataset is made. torch's default collate
    makes tensors of whole columns, without making the dicts.

    Attributes:
        uri: The address of the table.
        dataset_options: The options with which it was opened.

    Example:
        >>> import lance, pyarrow as pa
        >>> from lanceloader.compat.lance_torch import SafeLanceDataset
        >>> _ = lance.write_dataset(pa.table({"x": range(10)}), "rows.lance")
        >>> rows = SafeLanceDataset("rows.lance")
        >>> len(rows), rows[3]
        (10, {'x': 3})
    """

    def __init__(
        self,
        uri: Any,
        *,
        dataset_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a table.

        Args:
            uri: A path or URI, or whatever ``lanceloader.open`` opens.
            dataset_options: Arguments of ``lance.dataset``, such as ``version`` and
                ``storage_options``.

        Raises:
            FileNotFoundError: If the table does not exist.
        """
        super().__init__()
        self.dataset_options = dict(dataset_options or {})
        self._table = ScanTable(uri, self.dataset_options)
        self.uri = uri if isinstance(uri, str | os.PathLike) else self._table.uri
        self._rows: Permutation | None = self._table.view()

    @property
    def rows(self) -> Permutation:
        """The rows as a permutation, from which orders, columns and formats can be chosen."""
        if self._rows is None:
            self._rows = self._table.view()
        return self._rows

    def __len__(self) -> int:
        return self.rows.num_rows

    def __getitem__(self, idx: SupportsIndex) -> dict[str, Any]:
        return self.rows.row(idx)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows at some positions; ``DataLoader`` calls this for each batch."""
        return cast("list[dict[str, Any]]", self.rows.__getitems__(indices))

    def __repr__(self) -> str:
        return f"<SafeLanceDataset of {len(self):,} rows of {self._table.source.describe()}>"  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        options = self._table.picklable_options()
        return self.__dict__ | {"_rows": None, "dataset_options": options}


def get_safe_loader(
    dataset: Any, batch_size: int | None = 32, num_workers: int = 4, **kwargs: Any
) -> DataLoader[Any]:
    """Return a ``DataLoader`` whose workers are spawned, and stay for the following epochs.

    Our datasets work with forked workers as well, which start faster: pass
    ``multiprocessing_context="fork"``.

    Args:
        dataset: The dataset.
        batch_size: The number of rows in a batch.
        num_workers: The number of workers; 0 reads in this process.
        kwargs: Further arguments of ``DataLoader``, which override the defaults.

    Example:
        >>> import lance, pyarrow as pa
        >>> from lanceloader.compat.lance_torch import SafeLanceDataset, get_safe_loader
        >>> _ = lance.write_dataset(pa.table({"x": range(6)}), "safe.lance")
        >>> loader = get_safe_loader(SafeLanceDataset("safe.lance"), 4, num_workers=0)
        >>> [batch["x"].tolist() for batch in loader]
        [[0, 1, 2, 3], [4, 5]]
    """
    defaults: dict[str, Any] = {}
    if count(num_workers, "num_workers") > 0:
        defaults["persistent_workers"] = True
        defaults["multiprocessing_context"] = multiprocessing.get_context("spawn")
    options = defaults | kwargs
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, **options)  # fmt: skip
