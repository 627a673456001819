"""``Permutation``: an immutable view of the rows of a table in some order.

Its methods are in ``lanceloader.verbs``, by topic. ``lanceloader.permutation`` has subclasses with
LanceDB's names, whose iteration drops a shorter last batch as LanceDB's does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from lanceloader import pickling
from lanceloader.compat_lancedb.plan_table import (
    PlanTable,
    rows_of_split,
    split_names,
)
from lanceloader.loader.verbs import LoadVerbs
from lanceloader.monitor.progress import requested
from lanceloader.numbers import count
from lanceloader.sources import open_source
from lanceloader.sources.hf_datasets import DatasetSource, settings_of
from lanceloader.verbs.datasets import DatasetVerbs
from lanceloader.verbs.features import FeatureVerbs
from lanceloader.verbs.materializing import MaterializeVerbs
from lanceloader.verbs.sampling import SampleVerbs
from lanceloader.verbs.showing import page_of
from lanceloader.verbs.taking import TakeVerbs
from lanceloader.verbs.windowing import WindowVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lanceloader._typing import Format, StorageOptions, Transform
    from lanceloader.sources import RowReader

__all__ = ["Permutation", "Permutations", "open"]


class Permutation(
    LoadVerbs,
    SampleVerbs,
    DatasetVerbs,
    TakeVerbs,
    MaterializeVerbs,
    WindowVerbs,
    FeatureVerbs,
):
    """A view of the rows of a table, with an order, columns and a format.

    A permutation is immutable: methods that choose or order rows or columns return a new one. It reads
    one version of the table, so later writes, deletions and compaction do not change it. Its pickle
    describes the table and the order, without rows of the table. It is a map-style dataset for
    ``torch.utils.data.DataLoader``, with workers of all start methods, and several threads may use it.

    Use ``identity``, ``from_tables`` or ``lanceloader.open`` to make one.

    Attributes:
        selection: The columns, as a dict of names to columns of the table.
        batch_size: The default number of rows in a batch.
        transform_fn: Converts a ``pyarrow.RecordBatch`` to the format of a batch.
        offset: The number of rows to skip, as ``with_skip`` set it.
        limit: The number of rows to keep, as ``with_take`` set it.
        connection_factory: Opens the table after unpickling, from its name.

    Example:
        >>> import lancedb, lanceloader as ll
        >>> db = lancedb.connect("memory://")
        >>> table = db.create_table("t", [{"x": x} for x in range(10)])
        >>> perm = ll.Permutation.identity(table)
        >>> perm.shuffle(seed=7).head(2)
        [{'x': 6}, {'x': 3}]
    """

    def __init__(
        self,
        base_table: Any,
        permutation_table: Any | None,
        split: int,
        selection: dict[str, str],
        batch_size: int,
        transform_fn: Transform,
        offset: int | None = None,
        limit: int | None = None,
        connection_factory: Callable[[str], Any] | None = None,
        _reader: RowReader | None = None,
    ) -> None:
        """Internal, with LanceDB's signature. Use ``identity`` or ``from_tables``."""
        if base_table is None:
            raise AssertionError("base_table is required")
        if selection is None:
            raise AssertionError("selection is required")
        self.assign(*rows_of_split(base_table, permutation_table, split), split)
        self._base_table = base_table
        self._permutation_table = permutation_table
        self.selection = selection
        self.batch_size = batch_size
        self.transform_fn = transform_fn
        self.offset = offset
        self.limit = limit
        self.connection_factory = connection_factory
        self.order = self.sliced_order(offset, limit)

    @classmethod
    def identity(cls, table: Any) -> Self:
        """Return a permutation of all rows of a table, in storage order.

        Args:
            table: A LanceDB table, a ``lance.LanceDataset``, a path or URI, Arrow data (any object
                with ``__arrow_c_stream__``) or a query result. Its current version is read. Or a
                ``datasets.Dataset``, with its rows, columns and format, and without copying its
                files; features are stored values, so a class is an integer.

        Raises:
            AssertionError: If ``table`` is ``None``.
            TypeError: If ``table`` is of another type.
            FileNotFoundError: If no table exists at the path or URI.
        """
        return cls.from_tables(table, None, None)

    @classmethod
    def from_tables(
        cls,
        base_table: Any,
        permutation_table: Any | None = None,
        split: str | int | None = None,
    ) -> Self:
        """Return a permutation of the rows of a permutation table, in its order.

        Args:
            base_table: The table with the data; see ``identity``.
            permutation_table: The table that ``permutation_builder(...).execute()`` returned, here
                or in LanceDB, or Arrow data with the same columns; by default all rows.
            split: The name or the number of a split; by default the first one.

        Raises:
            ValueError: If the split does not exist or has no rows.
            TypeError: If ``split`` is neither a string nor an int.
            TableChangedError: If the version of the table that the permutation table was made
                from no longer exists.
        """
        if base_table is None:
            raise AssertionError("base_table is required")
        number = split_number(permutation_table, split)
        new = cls.__new__(cls)
        new.assign(*rows_of_split(base_table, permutation_table, number), number)
        new._base_table = base_table
        new._permutation_table = permutation_table
        if isinstance(new.source, DatasetSource):
            format, columns = settings_of(new.source.dataset)  # noqa: A001
            new = new.with_format(format)
            return new if columns is None else new.select_columns(columns)
        return new

    @property
    def base_table(self) -> Any:
        """The table with the data, which is opened on first access after unpickling."""
        if isinstance(self._base_table, pickling.LazyTable):
            self._base_table = self._base_table.make(self)
        return self._base_table

    @property
    def permutation_table(self) -> Any | None:
        """The permutation table, or ``None``. After unpickling, it only has the rows of this split."""
        if isinstance(self._permutation_table, pickling.LazyTable):
            self._permutation_table = self._permutation_table.make(self)
        return self._permutation_table

    def _repr_html_(self) -> str:
        return page_of(self)

    def __getstate__(self) -> dict[str, Any]:
        return pickling.to_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickling.from_state(self, state)


class Permutations:
    """The splits of a permutation table, by name or number.

    Attributes:
        base_table: The table with the data.
        permutation_table: The table that defines the splits.
        split_names: The names of the splits, in order; empty if they have no names.
        split_dict: The numbers of the splits, by name.

    Example:
        >>> builder = ll.permutation_builder(table)
        >>> plan = builder.split_random(ratios=[0.7, 0.3], seed=1, split_names=["a", "b"]).execute()
        >>> permutations = ll.Permutations(table, plan)
        >>> len(permutations["a"]), len(permutations[1])
        (7, 3)
    """

    _permutation: ClassVar[type[Permutation]] = Permutation

    def __init__(self, base_table: Any, permutation_table: Any) -> None:
        self.base_table = base_table
        self.permutation_table = permutation_table
        names = split_names(permutation_table)
        self.split_names: list[str] = names or []
        self.split_dict = {name: number for number, name in enumerate(self.split_names)}

    def get_by_name(self, name: str) -> Permutation:
        """Return a split by its name.

        Raises:
            ValueError: If no split has this name.
        """
        number = self.split_dict.get(name)
        if number is None:
            known = ", ".join(f"`{known}`" for known in self.split_names) or "no names"
            message = f"No split named `{name}` found; there are {known}"
            raise ValueError(message)
        return self.get_by_index(number)

    def get_by_index(self, index: int) -> Permutation:
        """Return a split by its number.

        Raises:
            ValueError: If the split has no rows.
        """
        tables = self.base_table, self.permutation_table
        return self._permutation.from_tables(*tables, index)

    def __getitem__(self, name: str | int) -> Permutation:
        if isinstance(name, str):
            return self.get_by_name(name)
        if isinstance(name, int):
            return self.get_by_index(name)
        message = f"Invalid split name or index: {name}"
        raise TypeError(message)

    def __len__(self) -> int:
        """Return the number of splits: that of names if there are any, otherwise of numbers in use."""
        return len(self.split_names) or PlanTable.of(self.permutation_table).num_splits

    def __iter__(self) -> Iterator[Permutation]:
        """Iterate over the splits, in order."""
        return map(self.get_by_index, range(len(self)))


def open(  # noqa: A001
    table: Any,
    *,
    version: int | None = None,
    branch: str | None = None,
    tag: str | None = None,
    storage_options: StorageOptions | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    filter: str | None = None,  # noqa: A002
    format: Format | None = None,  # noqa: A002
    progress: bool | None = None,
) -> Permutation:
    """Open one version of a table as a permutation of all its rows, in storage order.

    Args:
        table: A path or URI, or another argument of ``Permutation.identity``.
        version: The version of the table at a path or URI; by default the latest.
        branch: The branch of the table at a path or URI.
        tag: The tag of the table at a path or URI, in place of a version.
        storage_options: Options of the object store of a path or URI, with Lance's names.
        columns: The columns to select, or SQL expressions by new names; see ``select_columns``.
        filter: An SQL predicate of the rows to keep; see ``filter``.
        format: The format of batches; see ``with_format``.
        progress: Whether to show how long opening and filtering take, after a second; by default
            as ``LANCELOADER_PROGRESS`` says.

    Raises:
        FileNotFoundError: If the table does not exist.
        TableChangedError: If the version does not exist.

    Example:
        >>> perm = ll.open("s3://bucket/table.lance", version=7)  # doctest: +SKIP
    """
    if filter is not None and not isinstance(filter, str):
        message = (
            f"`filter` must be an SQL string, not {filter!r}; for a boolean mask call "
            "`filter` of the permutation"
        )
        raise TypeError(message)
    if version is not None:
        version = count(version, "version")
    with requested(progress):
        source = open_source(
            table,
            version=version,
            branch=branch,
            tag=tag,
            storage_options=storage_options,
        )
        perm = Permutation.identity(source)
        perm._base_table = table
        if filter is not None:
            perm = perm.filter(filter)
    if columns is not None:
        perm = perm.select_columns(columns)
    return perm if format is None else perm.with_format(format)


def split_number(permutation_table: Any | None, split: str | int | None) -> int:
    """Return the number of a split.

    Raises:
        ValueError: If no split has this name, or there is no permutation table.
        TypeError: If ``split`` is neither a string nor an int.
    """
    if split is None:
        return 0
    cannot = f"Cannot create a permutation on split `{split}`"
    if permutation_table is None:
        message = f"{cannot} because no permutation table is provided"
        raise ValueError(message)
    if isinstance(split, str):
        names = split_names(permutation_table)
        if names is None:
            message = (
                f"{cannot} because no split names are defined in the permutation table"
            )
            raise ValueError(message)
        if split not in names:
            message = (
                f"{cannot} because split `{split}` is not defined in the permutation table; "
                f"there are {', '.join(f'`{name}`' for name in names)}"
            )
            raise ValueError(message)
        return names.index(split)
    if isinstance(split, int):
        return count(split, "split")
    message = f"Invalid split: {split}"
    raise TypeError(message)
