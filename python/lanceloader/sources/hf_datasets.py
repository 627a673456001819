"""Hugging Face datasets as sources: their Arrow tables, with the rows that their indices choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from lanceloader._native import Order
from lanceloader.errors import UnsupportedError
from lanceloader.numbers import numpy_of
from lanceloader.sources.native import MemorySource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._typing import Format

__all__ = ["DatasetSource", "raise_not_a_dataset", "settings_of"]

FORMATS: dict[str | None, Format] = {
    None: "python",
    "python": "python",
    "numpy": "numpy_dict",
    "torch": "torch_dict",
    "arrow": "arrow",
    "pandas": "pandas",
    "polars": "polars",
}
"""Formats by their names in datasets."""


class DatasetSource(MemorySource):
    """A ``datasets.Dataset``, whose files stay mapped into memory: rows are not copied.

    Its pickle is that of the dataset, which names these files.
    """

    def __init__(self, dataset: Any) -> None:
        """Wrap a dataset with its columns as they are stored.

        Args:
            dataset: A ``datasets.Dataset``.
        """
        self.dataset = dataset
        schema = dataset.features.arrow_schema
        # The metadata has the features, such as the names of classes.
        table = dataset.data.table.replace_schema_metadata(schema.metadata)
        split = dataset.split
        super().__init__(table, name="dataset" if split is None else str(split))

    def all_rows(self) -> Order:
        """Return the rows of the dataset, in its order."""
        indices = self.dataset._indices
        if indices is None:
            return super().all_rows()
        return Order.listed(numpy_of(indices.table.column(0)))

    def describe(self) -> str:
        """Return what the dataset is."""
        return f"{self.name} of Hugging Face datasets"

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        DatasetSource.__init__(self, **state)


def settings_of(dataset: Any) -> tuple[Format, Sequence[str] | None]:
    """Return the format of a dataset, and the columns of it, or ``None`` for all.

    Raises:
        UnsupportedError: If the dataset has a format that permutations lack.
    """
    kind = dataset.format["type"]
    if kind not in FORMATS:
        what = "a transform" if kind == "custom" else f"the format {kind!r}"
        message = (
            f"the dataset has {what}, which is not supported: pass dataset.with_format(None), and "
            "call map() or loader(transform=...)"
        )
        raise UnsupportedError(message)
    columns = dataset.format["columns"]
    return FORMATS[kind], None if columns == dataset.column_names else columns


def raise_not_a_dataset(dataset: Any) -> NoReturn:
    """Raise the error for a dictionary of datasets, or for one that is streamed.

    Raises:
        TypeError: Always.
    """
    if isinstance(dataset, dict):
        names = ", ".join(repr(name) for name in dataset)
        first = next(iter(dataset), "train")
        message = (
            f"`table` is a dictionary of the datasets {names}: pass one of them, as in "
            f"ll.open(dataset[{first!r}])"
        )
    else:
        message = (
            "`table` is an IterableDataset, which has no rows by position: load it without "
            "streaming=True, or write its rows to a Lance table"
        )
    raise TypeError(message)
