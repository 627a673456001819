"""Tables as pylance's samplers see them: rows in fragments, in storage order."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader._extras import need
from lanceloader._native import Order, Reader
from lanceloader._permutation import Permutation
from lanceloader.compat.lance_torch.fragments import (
    CutRows,
    FragmentRows,
    cut_every,
    cut_within,
    fragments_of,
)
from lanceloader.engine import ROW_ADDRESS, ROW_ID, SYSTEM
from lanceloader.errors import UnsupportedError
from lanceloader.sources import LanceSource, MemorySource, Source, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["ScanTable", "arrow_batches", "is_native", "read_cut"]

OPTIONS = frozenset(
    (
        *("version", "storage_options", "block_size", "commit_lock", "read_params"),
        *("index_cache_size", "index_cache_size_bytes", "metadata_cache_size_bytes"),
        "session",
    )
)
"""Arguments of ``lance.dataset`` with which the core opens a table. It needs only the first two."""

NOT_COLUMNS = "the native reader does not read some of its columns"


class ScanTable:
    """A table at one version, and the rows of it that match a filter.

    A pickle of a table that was opened by address holds its storage options, as pylance's do, so
    that workers can read it.
    """

    def __init__(
        self, dataset: Any, options: Mapping[str, Any] | None = None, *, filter: str | None = None  # noqa: A002
    ) -> None:  # fmt: skip
        """Open a table.

        Args:
            dataset: A path or URI, a ``lance.LanceDataset``, or whatever ``lanceloader.open``
                opens.
            options: Arguments of ``lance.dataset``, for a path or URI.
            filter: An SQL predicate, which is evaluated now, so that workers need not do it.
        """
        options = dict(options or {})
        self._handle: Any = None
        self._storage_options: dict[str, str] | None = None
        if isinstance(dataset, str | os.PathLike):
            self._storage_options = options.get("storage_options")
            source = self._source_at(os.fspath(dataset), options)
        else:
            source = open_source(dataset)
        self.options = options
        self.source: Source = source
        self.filter = filter
        self.rows = source.all_rows()
        if filter is not None and self.why_not() is None:
            self.source, self.rows = source.matching(filter, self.rows)

    def _source_at(self, uri: str, options: dict[str, Any]) -> Source:
        if not OPTIONS.issuperset(options):
            need("lance", "`dataset_options`")
            import lance

            self._handle = lance.dataset(uri, **options)
            return open_source(self._handle)
        version = options.get("version")
        chosen = {"tag" if isinstance(version, str) else "version": version}
        return open_source(uri, storage_options=self._storage_options, **chosen)

    def why_not(self) -> str | None:
        """Return why pylance has to read this table, or ``None``."""
        if self.options.get("default_scan_options"):
            return "`dataset_options` has `default_scan_options`"
        if not isinstance(self.source, LanceSource | MemorySource):
            return "the native reader does not read its files"
        return None

    @property
    def uri(self) -> str:
        """The address of the table, or its name if it is in memory."""
        return self.source.uri if isinstance(self.source, LanceSource) else self.source.name  # fmt: skip

    @property
    def dataset(self) -> Any:
        """The table as a ``lance.LanceDataset`` at the same version.

        Raises:
            ImportError: If pylance is not installed.
        """
        if self._handle is None:
            need("lance", "`dataset`")
            import lance

            if isinstance(self.source, MemorySource):
                self._handle = lance.write_dataset(self.source.to_arrow(), "memory://")
            else:
                engine: Any = self.source.engine()
                self._handle = getattr(engine, "dataset", None) or lance.dataset(
                    self.uri,
                    **self.options | {"version": self.source.version},
                )
        return self._handle

    def view(self, selection: dict[str, str] | None = None) -> Permutation:
        """Return all rows as a permutation, with all columns or those of a selection."""
        view = Permutation.identity(self.source)
        return view if selection is None else view.with_selection(selection)

    def select(
        self,
        columns: list[str] | dict[str, str] | None,
        *,
        with_row_id: bool = False,
        with_row_address: bool = False,
        without: Iterable[str] = (),
    ) -> dict[str, str] | None:
        """Return the columns to read, by name, or ``None`` if some are SQL expressions.

        Args:
            columns: As for ``LanceDataset``.
            with_row_id: Whether to add the column ``_rowid``.
            with_row_address: Whether to add the column ``_rowaddr``.
            without: Columns that are read in another way.

        Raises:
            ColumnNotFoundError: If a column does not exist.
        """
        view = self.view()
        chosen = columns or view.column_names
        if not isinstance(chosen, Mapping):
            chosen = dict(zip(chosen, chosen, strict=True))
        elif not {*view.column_names, *SYSTEM}.issuperset(chosen.values()):
            return None
        selection = {
            name: view.resolve_column(column)
            for name, column in chosen.items()
            if name not in without
        }
        if with_row_id:
            selection[ROW_ID] = ROW_ID
        if with_row_address:
            selection[ROW_ADDRESS] = ROW_ADDRESS
        return selection

    @functools.cached_property
    def fragments(self) -> list[FragmentRows]:
        """The fragments with rows, in storage order."""
        num_rows = self.source.num_rows
        if num_rows == 0:
            return []
        if not isinstance(self.source, LanceSource):
            return [FragmentRows(0, 0, num_rows)]
        return fragments_of(self.source)

    def get_fragments(self) -> list[FragmentRows]:
        """Return the fragments, as pylance's datasets do."""
        return list(self.fragments)

    def rows_of(self, fragments: Iterable[Any], size: int) -> CutRows:
        """Return the rows of some fragments, in batches that end where a fragment does.

        With a filter, batches have ``size`` rows each, of one or more fragments.

        Args:
            fragments: Fragments of this class or of pylance, or their ids.
            size: The most rows in a batch.

        Raises:
            ValueError: If a fragment is not one of this table.
        """
        runs = [self._run(fragment) for fragment in fragments]
        order = self._order_of(runs)
        if self.filter is not None:
            return CutRows(order, cut_every(order.num_rows, size))
        lengths = np.array([run.stop - run.start for run in runs], dtype=np.int64)
        return CutRows(order, cut_within(lengths, size))

    def _run(self, fragment: Any) -> FragmentRows:
        number = getattr(fragment, "fragment_id", fragment)
        if number not in self._by_id:
            known = ", ".join(map(str, list(self._by_id)[:8]))
            message = (
                f"the sampler returned fragment {fragment!r}, but the table has fragments {known}"
                f"{', …' if len(self._by_id) > 8 else ''}"
            )
            raise ValueError(message)
        return self._by_id[number]

    @functools.cached_property
    def _by_id(self) -> dict[int, FragmentRows]:
        return {fragment.fragment_id: fragment for fragment in self.fragments}

    def _order_of(self, runs: list[FragmentRows]) -> Order:
        if runs == self.fragments:
            return self.rows
        everything = self.source.all_rows()
        if not runs:
            return everything.slice(0, 0)
        parts = [everything.slice(run.start, run.stop - run.start) for run in runs]
        order = parts[0] if len(parts) == 1 else Order.concat(parts)
        return order if self.filter is None else order.filtered(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_handle", "options")
        }
        state["options"] = self.picklable_options()
        return state

    def picklable_options(self) -> dict[str, Any]:
        """Return the options without pylance's sessions, locks and clients."""
        kept = "version", "storage_options", "default_scan_options"
        return {name: self.options[name] for name in kept if name in self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = None
        # The source's own pickle leaves credentials out.
        if self._storage_options and isinstance(self.source, LanceSource):
            self.source.storage_options = dict(self._storage_options)


def read_cut(view: ReadVerbs, rows: CutRows) -> Iterator[Batch]:
    """Iterate over raw batches of rows, which threads read ahead."""
    if rows.order.num_rows == 0:
        return iter(())
    reader: Any = view.open_format_reader()
    return reader.load(rows.order, None, False, None, rows.ends)  # type: ignore[no-any-return]  # noqa: FBT003


def is_native(view: ReadVerbs) -> bool:
    """Return whether the core reads the columns of a permutation."""
    return isinstance(view.open_reader(), Reader)


def arrow_batches(
    dataset: Any,
    rows: Callable[[ScanTable], CutRows],
    *,
    columns: list[str] | dict[str, str] | None,
    filter: str | None,  # noqa: A002
    with_row_id: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Iterate over the Arrow batches of some rows of a dataset.

    Raises:
        UnsupportedError: If only pylance can read the rows.
    """
    import pyarrow as pa

    table = ScanTable(dataset, filter=filter)
    selection = table.select(columns, with_row_id=with_row_id)
    reason = table.why_not() if selection else "`columns` has SQL expressions"
    view = table.view(selection).with_format("arrow").with_read("direct")
    if reason is None and not is_native(view):
        reason = NOT_COLUMNS
    if reason is not None:
        message = (
            f"only pylance reads {table.source.describe()}, because {reason}: call the sampler "
            "of `lance.sampler`"
        )
        raise UnsupportedError(message)
    return map(pa.record_batch, read_cut(view, rows(table)))
