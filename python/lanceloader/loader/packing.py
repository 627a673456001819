"""``PackedView``: documents packed into blocks, as a dataset and a source of loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader.loader.making import make_loader
from lanceloader.loader.packed_blocks import PackedBlocks
from lanceloader.loader.signature import with_options_shown
from lanceloader.sql import missing_column
from lanceloader.units.packed import PackedUnits, PackSettings
from lanceloader.verbs.columns import check_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from lanceloader._typing import Format, Nulls, Pad, Transform
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions, LoaderOptionsAfterSize
    from lanceloader.options import ReadOptions

__all__ = ["PackedView"]

_NOT_OF_BLOCKS = {
    "batch_tokens": "pass `batch_size`, the number of blocks",
    "length": "pass `lengths` to pack()",
    "padded": "leave it out",
    "bucket_rows": "pass `window` to pack()",
    "long": "pass `long` to pack()",
    "decode": "call loader(decode=...) on the permutation, whose batches hold rows, or with "
    "`batch_tokens` rows of similar length",
    "sampler": "call shuffle(), sample() or [] on the permutation before pack()",
    "batch_sampler": "pass `batch_size`, the number of blocks",
}
"""Options that do not apply to blocks, and the alternatives."""


class PackedView(PackedBlocks):
    """Documents packed into blocks; made by ``Permutation.pack``.

    It is a dataset of blocks: ``len(packed)``, ``packed[i]``, slices, iteration, and torch's
    ``DataLoader`` read blocks in the order of the permutation. ``loader`` is faster, shuffles
    documents rather than blocks, and divides blocks among ranks.

    Attributes:
        permutation: The documents, in order.
        length: The number of tokens in a block.
    """

    def __init__(self, view: Any, settings: PackSettings) -> None:
        self.permutation = view
        self.length = settings.length
        self._settings = settings
        self._kept: PackedUnits | None = None

    @with_options_shown
    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        **options: Unpack[LoaderOptionsAfterSize],
    ) -> Loader[Any]:
        """Return a loader of batches of blocks for training.

        Args:
            batch_size: The number of blocks in a batch of one rank; by default the ``batch_size``
                of the permutation.
            **options: Options of ``Permutation.loader``, with blocks in place of rows.

        Raises:
            ValueError: As for ``Permutation.loader``; or if an option of a token budget is passed,
                as all blocks have the same length.
        """
        for name, instead in _NOT_OF_BLOCKS.items():
            value: Any = options.get(name)
            if value is not None:
                message = f"`{name}`={value!r} does not apply to blocks of {self.length} tokens: {instead}"
                raise ValueError(message)
        return make_loader(self, {"batch_size": batch_size, **options})

    @property
    def batch_size(self) -> int:
        """The default number of blocks in a batch."""
        size: int = self.permutation.batch_size
        return size

    @property
    def transform_fn(self) -> Transform:
        """The function that converts a batch to its format."""
        transform: Transform = self.permutation.transform_fn
        return transform

    @property
    def is_shard(self) -> bool:
        """Whether these are the documents of one rank already."""
        return bool(self.permutation.is_shard)

    def shuffle(
        self,
        seed: SupportsIndex | None = None,
        *,
        epoch: SupportsIndex = 0,
        clump_size: SupportsIndex = 1,
        block_size: SupportsIndex | None = None,
        window_blocks: SupportsIndex | None = None,
    ) -> Self:
        """Return the documents in random order; see ``Permutation.shuffle``."""
        view = self.permutation.shuffle(
            seed,
            epoch=epoch,
            clump_size=clump_size,
            block_size=block_size,
            window_blocks=window_blocks,
        )
        return self._of(view)

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
        pad: Pad | None = None,
    ) -> Self:
        """Return the documents in another format; see ``Permutation.with_format``.

        ``fill_value`` and ``pad`` may not be dicts, as blocks have columns of their own.
        """
        for name, value in (("fill_value", fill_value), ("pad", pad)):
            if isinstance(value, Mapping):
                message = (
                    f"`{name}` of blocks must be one value for all columns, not a dict"
                )
                raise ValueError(message)
        view = self.permutation.with_format(
            format, nulls=nulls, fill_value=fill_value, pad=pad
        )
        return self._of(view)

    def with_seed(self, seed: int, epoch: int = 0) -> Self:
        """Return the documents with another seed of random transforms, in the same order."""
        return self._of(self.permutation.with_seed(seed, epoch))

    def select_columns(self, columns: Sequence[str]) -> Self:
        """Return the documents as blocks with some of the columns.

        Args:
            columns: Names of ``column_names``, such as ``["input_ids", "labels"]``.

        Raises:
            ValueError: If ``columns`` is empty.
            ColumnNotFoundError: If a column does not exist.
            TypeError: If ``columns`` is a single string.
        """
        check_names(columns)
        if not columns:
            raise ValueError("Must select at least one column")
        for name in columns:
            if name not in self.column_names:
                message = f"Cannot select column `{name}` because blocks do not have it"
                if name == "labels":
                    message += ', without `labels="shifted"` or "unshifted" of pack()'
                raise missing_column(message, name, self.column_names)
        settings = replace(self._settings, columns=tuple(columns))
        return type(self)(self.permutation, settings)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of blocks."""
        kept = self._settings.columns
        return self._settings.all_columns if kept is None else list(kept)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return the documents with other read options; options that are ``None`` keep their values."""
        return self._of(self.permutation.with_read_options(options))

    def _of(self, view: Any) -> Self:
        return type(self)(view, self._settings)

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> PackedUnits:
        """Return the blocks as units of a loader."""
        del by_column
        return self._units(progress=options["progress"])

    def num_blocks(self, epoch: int | None = None) -> int:
        """Return the number of blocks in an epoch, of all ranks together.

        Args:
            epoch: The epoch; by default the order of the permutation itself.
        """
        return self.units().num_units(epoch)

    def explain(self) -> str:
        """Return a description of the blocks and of how rows are read."""
        return f"{self.units().explain()}\n{self.permutation.explain()}"

    def units(self) -> PackedUnits:
        """Return the blocks as units, which keep their plan."""
        if self._kept is None:
            self._kept = self._units()
        return self._kept

    def _units(self, *, progress: bool | None = None) -> PackedUnits:
        return PackedUnits(self.permutation, self._settings, progress=progress)

    def _repr_html_(self) -> str:
        columns = ", ".join(self.column_names)
        head = (
            f"<p>{escape(repr(self).strip('<>'))}</p><p>Columns: {escape(columns)}</p>"
        )
        return f"{head}{self.permutation._repr_html_()}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1.0 have no units.
        self.__dict__.update({"_kept": None} | state)

    def __repr__(self) -> str:
        return f"<{self._settings} of {self.permutation!r}>"
