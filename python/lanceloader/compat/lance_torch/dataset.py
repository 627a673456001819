"""``LanceDataset``: scans with the arguments of ``lance.torch.data.LanceDataset``."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from torch.utils.data import IterableDataset

from lanceloader._native import Batch, Reader
from lanceloader.choices import check_choice
from lanceloader.compat.lance_torch.pylance import native_sampler, pylance_dataset
from lanceloader.compat.lance_torch.ranks import get_global_rank, get_global_world_size
from lanceloader.compat.lance_torch.samplers import (
    FullScanSampler,
    ShardedBatchSampler,
    ShardedFragmentSampler,
)
from lanceloader.compat.lance_torch.sampling import sampled
from lanceloader.compat.lance_torch.tables import (
    NOT_COLUMNS,
    ScanTable,
    is_native,
    read_cut,
)
from lanceloader.compat.lance_torch.tensors import converter_of, to_tensor
from lanceloader.engine import ROW_ID
from lanceloader.numbers import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lanceloader._permutation import Permutation
    from lanceloader.compat.lance_torch.tensors import ToTensorFn

__all__ = ["LanceDataset"]

Granularity = Literal["fragment", "batch"]


class LanceDataset(IterableDataset[Any]):
    """An iterable dataset of the batches of a table, in storage order or in that of a sampler.

    The arguments, the rows and their order are those of ``lance.torch.data.LanceDataset``. Fragments
    are divided among the ranks of ``torch.distributed`` and the workers of a ``DataLoader``. All
    workers read the version that is current when the dataset is made.

    Pass it to ``DataLoader`` with ``batch_size=None``, as its items are batches.

    Example:
        >>> from lanceloader.compat.lance_torch import LanceDataset
        >>> [batch.tolist() for batch in LanceDataset(table, batch_size=4, columns=["x"])]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *args: Any,
        dataset_options: Mapping[str, Any] | None = None,
        columns: list[str] | dict[str, str] | None = None,
        filter: str | None = None,  # noqa: A002
        samples: int | None = 0,
        cache: str | os.PathLike[str] | bool | None = None,
        with_row_id: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        shard_granularity: Granularity | None = None,
        batch_readahead: int = 16,
        to_tensor_fn: ToTensorFn | None = to_tensor,
        sampler: Any = None,
        auto_detect_rank: bool = True,
        with_row_address: bool = False,
        **kwargs: Any,
    ) -> None:
        """Create a dataset.

        Args:
            dataset: A path or URI, a ``lance.LanceDataset``, or whatever ``lanceloader.open``
                opens.
            batch_size: The most rows in a batch. Batches end where a fragment ends; with a
                filter they are full.
            args: Unused, as in pylance.
            dataset_options: Arguments of ``lance.dataset`` for a path or URI, such as
                ``version`` and ``storage_options``.
            columns: The columns to read, or a dict of their names to SQL expressions; by default
                all. pylance reads expressions that are not just the name of a column.
            filter: An SQL predicate of the rows to read. It is evaluated once, here.
            samples: The number of rows to draw at random, with NumPy's global generator, in every
                iteration; by default all rows are read. Each rank and worker draws its own.
            cache: Whether to keep rows packed after the first iteration; a path is the folder to
                keep them in. Unlike in pylance, all processes share them, and orders still
                change with the epoch.
            with_row_id: Whether to add the column ``_rowid``.
            rank: The rank to read for; by default that of ``torch.distributed`` and of the
                worker. If it is passed, all workers read the same rows. Deprecated.
            world_size: The number of ranks. Deprecated.
            shard_granularity: ``"fragment"``, the default, gives each rank whole fragments, and
                ``"batch"`` every ``world_size``-th batch.
            batch_readahead: Unused: the core decides how far it reads ahead.
            to_tensor_fn: A function from a ``pyarrow.RecordBatch`` to an item; see ``to_tensor``,
                the default. ``None`` leaves batches as they are.
            sampler: What chooses the rows, instead of ranks and workers: a sampler of this module
                or of pylance, or a function that is called with a ``lance.LanceDataset``. All
                workers read what it chooses.
            auto_detect_rank: Whether rows are divided among ranks and workers. Otherwise each of
                them reads all rows.
            with_row_address: Whether to add the column ``_rowaddr``.
            kwargs: Unused, as in pylance, with a warning.

        Raises:
            FileNotFoundError: If the table does not exist.
            ValueError: If an argument is outside of its domain, or the filter cannot be parsed.
            ColumnNotFoundError: If a column does not exist.
        """
        super().__init__()
        if args or kwargs:
            names = ", ".join([*map(repr, args), *kwargs])
            message = f"LanceDataset has no arguments {names}: they have no effect, as in pylance"
            warnings.warn(message, UserWarning, stacklevel=2)
        if rank is not None and world_size is not None:
            message = (
                "`rank` and `world_size` are deprecated: leave them out under torch.distributed, or "
                "pass `sampler=ShardedFragmentSampler(rank, world_size)`"
            )
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        if shard_granularity is not None:
            check_choice("shard_granularity", shard_granularity, Granularity)
        if cache is not None and not isinstance(cache, bool | str | os.PathLike):
            message = f"`cache` must be true or the path of a folder, not {cache!r}"
            raise TypeError(message)
        if sampler is not None and not callable(sampler):
            message = (
                "`sampler` must be a sampler of this module or of `lance.sampler`, or a function of "
                f"a dataset, not of type {type(sampler).__name__}; for a sampler of positions, pass "
                "a SafeLanceDataset to DataLoader"
            )
            raise TypeError(message)
        self.batch_size = count(batch_size, "batch_size", least=1)
        self.samples = None if samples is None else count(samples, "samples")
        self.columns = columns
        self.filter = filter
        self.with_row_id = with_row_id
        self.with_row_address = with_row_address
        self.batch_readahead = batch_readahead
        self.cache = cache
        self.rank = rank
        self.world_size = world_size
        self.shard_granularity = shard_granularity
        self.sampler = sampler
        self._to_tensor_fn = to_tensor_fn
        self._auto_detect_rank = auto_detect_rank
        self._table = ScanTable(dataset, dataset_options, filter=filter)
        self._blobs = self._blob_columns()
        if self._blobs:
            self.with_row_id = True
        self._selection = self._table.select(
            columns,
            with_row_id=self.with_row_id,
            with_row_address=with_row_address,
            without=self._blobs,
        )
        self._opened: Permutation | None = None
        self._by_pylance: Any = None

    @property
    def dataset(self) -> Any:
        """The table as a ``lance.LanceDataset``, which is opened on first access."""
        return self._table.dataset

    @property
    def schema(self) -> pa.Schema:
        """The schema of the selected columns of the table."""
        schema = self._table.source.schema
        if not self.columns:
            return schema
        fields = [schema.field(name) for name in self.columns]
        return pa.schema(fields, metadata=schema.metadata)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the sampler, if it has one.

        ``DataLoader`` workers that are already running use it from their next iteration on.
        """
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        yield from map(self._converter(), self._raw_batches())

    def __repr__(self) -> str:
        return f"<LanceDataset of {self._table.source.describe()}, batch_size={self.batch_size}>"  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_by_pylance": None, "_opened": None}

    def _raw_batches(self) -> Iterator[Any]:
        """Iterate over batches of the core, or over Arrow data that pylance reads."""
        sampler = self._current_sampler()
        native = native_sampler(sampler)
        reason = self._why_pylance()
        if reason is not None:
            message = f"pylance reads {self._table.source.describe()}, because {reason}"
            warnings.warn(message, UserWarning, stacklevel=3)
            return self._pylance_batches(native or sampler)
        if self.samples:
            rows = sampled(self._table, self.samples, self.batch_size)
        elif native is not None:
            rows = native.cut_rows(self._table, self.batch_size)
        else:
            return self._pylance_batches(sampler)
        return read_cut(self._view(), rows.buffered(self.batch_size))

    def _pylance_batches(self, sampler: Any) -> Iterator[Any]:
        found = self._by_pylance
        if found is None:
            found = pylance_dataset(
                self.dataset,
                self.batch_size,
                sampler=sampler,
                columns=self.columns,
                filter=self.filter,
                samples=self.samples,
                cache=self.cache,
                with_row_id=self.with_row_id,
                batch_readahead=self.batch_readahead,
            )
            # It holds the rows that it cached.
            self._by_pylance = found if self.cache else None
        return iter(found)

    def _current_sampler(self) -> Any:
        """Return the sampler of this process."""
        if self.sampler is not None:
            return self.sampler
        rank, world_size = self.rank, self.world_size
        if self._auto_detect_rank:
            rank = get_global_rank() if rank is None else rank
            world_size = get_global_world_size() if world_size is None else world_size
        if rank is None or world_size is None:
            if self.shard_granularity is None:
                return FullScanSampler()
            message = (
                f"`shard_granularity`={self.shard_granularity!r} needs `rank` and `world_size` "
                "where `auto_detect_rank` is false"
            )
            raise ValueError(message)
        by = ShardedBatchSampler if self.shard_granularity == "batch" else ShardedFragmentSampler  # fmt: skip
        return by(rank, world_size)

    def _why_pylance(self) -> str | None:
        """Return why the core cannot read the rows, or ``None``."""
        if self._selection is None:
            return "`columns` has SQL expressions"
        reason = self._table.why_not()
        if reason is None and not is_native(self._view()):
            return NOT_COLUMNS
        return reason

    def _view(self) -> Permutation:
        """Return the permutation whose reader reads the columns, opened once in each process."""
        if self._opened is None:
            view = self._table.view(self._selection)
            is_tensors = self._to_tensor_fn is to_tensor and not self._blobs
            view = view.with_format("torch_dict" if is_tensors else "arrow")
            self._opened = self._kept(view) if self.cache else view.with_read("direct")
        return self._opened

    def _kept(self, view: Permutation) -> Permutation:
        """Return a permutation whose rows are kept packed, if there is room for them."""
        folder = self.cache if isinstance(self.cache, str | os.PathLike) else None
        chosen = view.with_read(cache_dir=folder)
        reader = chosen.open_reader()
        if isinstance(reader, Reader) and reader.choice().strategy != "resident":
            reason = reader.choice().reason
            message = (
                f"`cache` has no effect, because packed rows are not kept: {reason}"
            )
            warnings.warn(message, UserWarning, stacklevel=4)
            return view.with_read("direct")
        return view.with_read("resident", cache_dir=folder)

    def _converter(self) -> Callable[[Any], Any]:
        """Return the function from a raw batch to an item."""
        hf_converter = self._hf_converter()
        to_item = self._to_tensor_fn
        columns = converter_of(hf_converter)
        has_blobs = bool(self._blobs)

        def convert(batch: Any) -> Any:
            if isinstance(batch, Batch):
                if to_item is to_tensor and not has_blobs:
                    return columns(batch)
                # A function of the user may write to the buffers, which others may share.
                batch = pa.record_batch(batch if batch.is_owned else batch.to_owned())
                if has_blobs:
                    batch = self._with_blobs(batch)
            if to_item is None:
                return batch
            return to_item(batch, hf_converter=hf_converter, use_blob_api=has_blobs)

        return convert

    def _with_blobs(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Return the columns of a batch with the files of its blobs, which pylance opens."""
        found: dict[str, Any] = dict(
            zip(batch.schema.names, batch.columns, strict=True)
        )
        ids = found[ROW_ID].to_pylist()
        for name in self._blobs:
            found[name] = self.dataset.take_blobs(ids=ids, blob_column=name)
        return found

    def _blob_columns(self) -> list[str]:
        """Return the selected columns whose values lie outside of the table."""
        schema = self._table.source.schema
        names = [name for name in self.columns or schema.names if name in schema.names]
        key = b"lance-encoding:blob"
        return [
            name
            for name in names
            if schema.field(name).type == pa.large_binary()
            and (schema.field(name).metadata or {}).get(key) == b"true"
        ]

    def _hf_converter(self) -> Any:
        """Return pylance's converter for tables written from Hugging Face datasets, or ``None``."""
        found = (self._table.source.schema.metadata or {}).get(b"huggingface")
        if found is None:
            return None
        from lance.hf import HuggingFaceConverter

        return HuggingFaceConverter(json.loads(found))
