"""``Permutation``: an immutable view of a table, in an order, ready to be trained from.

Its verbs are in ``lanceloader.view``, by topic. ``lanceloader.permutation`` has LanceDB's names
for the same classes, with the one habit in which LanceDB's loops differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from lanceloader import pickling
from lanceloader.numbers import count
from lanceloader.plan_table import PlanTable, split_names
from lanceloader.sources import open_source, pinned_source
from lanceloader.view.loading import LoadVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lanceloader._native import Order
    from lanceloader._typing import Format, StorageOptions, Transform
    from lanceloader.sources import Reader, Source

__all__ = ["Permutation", "Permutations", "open", "rows_of_split"]


class Permutation(LoadVerbs):
    """The rows of a table, in an order, with chosen columns and a format.

    Immutable: every verb returns a new permutation and reads nothing. Pinned: writes,
    deletions and compaction by others do not change it. It pickles as a description of what
    it reads, is a map-style dataset for ``torch.utils.data.DataLoader``, with workers under
    fork, forkserver and spawn, and may be used by several threads at once.

    Make one with ``identity``, ``from_tables`` or ``lanceloader.open``.

    Attributes:
        selection: The columns: output name to name in the table.
        batch_size: Rows of a batch of ``for batch in perm``.
        transform_fn: Turns a ``pyarrow.RecordBatch`` into what is handed out.
        offset: Rows skipped, as ``with_skip`` set it.
        limit: Rows kept, as ``with_take`` set it.
        connection_factory: Reopens the table where this is unpickled.

    Example:
        >>> import lancedb, lanceloader as ll
        >>> db = lancedb.connect("memory://")
        >>> table = db.create_table("t", [{"x": x} for x in range(10)])
        >>> perm = ll.Permutation.identity(table)
        >>> perm.shuffle(seed=7).head(2)
        [{'x': 6}, {'x': 3}]
    """

    _base_table: Any
    _permutation_table: Any

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
        _reader: Reader | None = None,
    ) -> None:
        """Internal, with LanceDB's signature. Use ``identity`` or ``from_tables``."""
        if base_table is None:
            raise AssertionError("base_table is required")
        if selection is None:
            raise AssertionError("selection is required")
        self._assign(*rows_of_split(base_table, permutation_table, split), split)
        self._base_table = base_table
        self._permutation_table = permutation_table
        self.selection = selection
        self.batch_size = batch_size
        self.transform_fn = transform_fn
        self.offset = offset
        self.limit = limit
        self.connection_factory = connection_factory
        self._order = self._sliced(offset, limit)

    # Making one.

    @classmethod
    def identity(cls, table: Any) -> Self:
        """Serve all rows of a table in storage order.

        Args:
            table: A LanceDB table, a ``lance.LanceDataset``, a path or URI, Arrow data
                (anything with ``__arrow_c_stream__``) or a query result. Pinned to the
                version it is at now.

        Raises:
            AssertionError: If ``table`` is ``None``.
            TypeError: If it is nothing of the above.
            FileNotFoundError: If there is no table at this path.
        """
        return cls.from_tables(table, None, None)

    @classmethod
    def from_tables(
        cls,
        base_table: Any,
        permutation_table: Any | None = None,
        split: str | int | None = None,
    ) -> Self:
        """Serve the rows that a permutation table names, in its order.

        Args:
            base_table: The table with the data; see ``identity``.
            permutation_table: What ``permutation_builder(...).execute()`` made, here or in
                LanceDB, or Arrow data with its columns. Without one, all rows are served.
            split: The split, by name or number; by default the first.

        Raises:
            ValueError: If there is no such split, or it has no rows.
            TableChangedError: If the version that the permutation table was made from is
                gone.
        """
        if base_table is None:
            raise AssertionError("base_table is required")
        number = split_number(permutation_table, split)
        new = cls.__new__(cls)
        new._assign(*rows_of_split(base_table, permutation_table, number), number)
        new._base_table = base_table
        new._permutation_table = permutation_table
        return new

    @property
    def base_table(self) -> Any:
        """The table it was made from; opened again on first use after unpickling."""
        if isinstance(self._base_table, pickling.LeftBehind):
            self._base_table = self._base_table.make(self)
        return self._base_table

    @property
    def permutation_table(self) -> Any | None:
        """The permutation table it was made from.

        After unpickling it has the rows of this split only: only they travel.
        """
        if isinstance(self._permutation_table, pickling.LeftBehind):
            self._permutation_table = self._permutation_table.make(self)
        return self._permutation_table

    def __getstate__(self) -> dict[str, Any]:
        return pickling.to_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickling.from_state(self, state)


class Permutations:
    """The splits of a permutation table, by name or number.

    Attributes:
        base_table: The table with the data.
        permutation_table: The table that defines the splits.
        split_names: Their names, in order; empty if they have none.
        split_dict: Name to number.

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
            ValueError: If there is none of this name.
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
            ValueError: If it has no rows.
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
        """The number of splits: of names if there are any, else of numbers in use."""
        return len(self.split_names) or PlanTable.of(self.permutation_table).num_splits

    def __iter__(self) -> Iterator[Permutation]:
        """Return every split, in order."""
        return map(self.get_by_index, range(len(self)))


def open(  # noqa: A001
    table: Any,
    *,
    version: int | None = None,
    branch: str | None = None,
    tag: str | None = None,
    storage_options: StorageOptions | None = None,
    columns: Sequence[str] | None = None,
    filter: str | None = None,  # noqa: A002
    format: Format | None = None,  # noqa: A002
) -> Permutation:
    """Open a table, pinned to one version, as a permutation of all its rows.

    Args:
        table: A path or URI; or anything that ``Permutation.identity`` takes.
        version: The version of a path or URI; by default the latest.
        branch: The branch of a path or URI.
        tag: The tag of a path or URI, instead of a version.
        storage_options: Options of the object store of a path or URI, as Lance names them.
        columns: The columns to keep, as for ``select_columns``.
        filter: The rows to keep, as for ``filter``.
        format: What to hand out, as for ``with_format``.

    Raises:
        FileNotFoundError: If there is no table.
        TableChangedError: If there is no such version.

    Example:
        >>> perm = ll.open("s3://bucket/table.lance", version=7)  # doctest: +SKIP
    """
    source = open_source(
        table, version=version, branch=branch, tag=tag, storage_options=storage_options
    )
    perm = Permutation.identity(source)
    perm._base_table = table
    if filter is not None:
        perm = perm.filter(filter)
    if columns is not None:
        perm = perm.select_columns(columns)
    return perm if format is None else perm.with_format(format)


def rows_of_split(
    base_table: Any, permutation_table: Any | None, split: int
) -> tuple[Source, Order]:
    """Open the base table at the version a permutation table was made from, and its rows."""
    if permutation_table is None:
        source = open_source(base_table)
        return source, source.all_rows()
    plan = PlanTable.of(permutation_table)
    source = pinned_source(base_table, plan.base_version, plan.base_branch)
    return source.rows_of_ids(plan.row_ids(split))


def split_number(permutation_table: Any | None, split: str | int | None) -> int:
    """Find the number of a split.

    Raises:
        ValueError: If there is none of this name, or there is no permutation table.
        TypeError: If ``split`` is neither name nor number.
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
