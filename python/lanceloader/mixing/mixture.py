"""``mix`` and ``Mixture``: rows of several permutations in exact proportions."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, get_args

from lanceloader.loader.making import make_loader
from lanceloader.loader.options import check_no_token_budget
from lanceloader.loader.signature import with_options_shown
from lanceloader.mixing.base import MixedSources
from lanceloader.mixing.random_rows import seed_of
from lanceloader.mixing.sources import source_views
from lanceloader.mixing.units import MixedUnits
from lanceloader.mixing.weights import Weights, WeightSchedule, check_all, stages_of
from lanceloader.monitor.stats import readable
from lanceloader.numbers import count
from lanceloader.options import ReadOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from typing_extensions import Unpack

    from lanceloader._permutation import Permutation
    from lanceloader._typing import Format, Nulls, Pad, Read, Size
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions, LoaderOptionsAfterSize

__all__ = ["Mixture", "mix"]

Shape = Literal["step", "linear"]


def mix(
    sources: Mapping[Any, Permutation] | Sequence[Permutation],
    *,
    weights: Weights | None = None,
    schedule: WeightSchedule | None = None,
    shape: Shape = "step",
    stop: SupportsIndex | Literal["first", "all"] = "first",
    columns: Sequence[str] | None = None,
    source_column: str | None = None,
) -> Mixture:
    """Return a mixture of the rows of several permutations, in exact proportions.

    The next row is from the source that is furthest behind its proportion. After any number of rows,
    the count of each source is less than two rows from its proportion, or less than one with at most
    three sources, so every batch has the proportions of the weights. The row at any position is
    computed in closed form.

    A source whose rows were all yielded starts again, in another order if it is shuffled.

    Args:
        sources: Permutations by name, or a sequence of them, which are named 0, 1, and so on. They
            may be of different tables, whose columns have the same names and types.
        weights: A number for each source, as a dict by name or a sequence; ``"size"``, the
            default, for the numbers of rows, such that an epoch has each row once; or ``"equal"``.
        schedule: Weights that change during training, in place of ``weights``: pairs of a row,
            counted over all epochs, and the weights from this row on. The first row is 0.
        shape: How the weights of ``schedule`` change: ``"step"``, or ``"linear"`` to interpolate
            between them.
        stop: The end of an epoch: ``"first"`` before a source would start again; ``"all"`` as
            soon as all rows of each source were yielded; or a number of rows.
        columns: The columns of each source to select, as for ``select_columns``.
        source_column: The name of a column to add, which holds the name of the source of each row.

    Returns:
        The mixture, with the format and the batch size of the first source.

    Raises:
        ValueError: If there are no sources, a source has no rows, columns differ, weights do not
            fit the sources, or an epoch would never end.
        TypeError: If a source is not a permutation, or a weight is not a number.

    Example:
        >>> web, books = perm.split([0.8, 0.2], seed=1)
        >>> mixture = ll.mix({"web": web, "books": books}, weights={"web": 2, "books": 1})
        >>> len(mixture)
        7
        >>> mixture.counts(6)
        {'web': 4, 'books': 2}
        >>> loader = mixture.loader(3, shuffle=True, seed=7, format="numpy_dict")
        >>> [len(batch["x"]) for batch in loader]
        [3, 3, 1]
    """
    views = source_views(sources, columns, source_column)
    names = list(views)
    sizes = [view.num_rows for view in views.values()]
    if shape not in get_args(Shape):
        message = f'`shape` must be "step" or "linear", got {shape!r}'
        raise ValueError(message)
    if isinstance(stop, str) and stop not in ("first", "all"):
        message = f'`stop` must be "first", "all" or a number of rows, got {stop!r}'
        raise ValueError(message)
    stages = stages_of(weights, schedule, names, sizes)
    if stop == "all":
        check_all(stages, names)
    mixture = Mixture(
        views,
        stages,
        stop if isinstance(stop, str) else count(stop, "stop"),
        is_linear=shape == "linear",
        source_column=source_column,
    )
    mixture._epochs.of(None)
    return mixture


class Mixture(MixedSources):
    """The rows of several permutations in exact proportions; made by ``lanceloader.mix``.

    Attributes:
        names: The names of the sources.
        stop: The end of an epoch: ``"first"``, ``"all"`` or a number of rows.
        source_column: The name of the column with the source of each row, or ``None``.
        batch_size: The default number of rows in a batch.
    """

    @property
    def num_rows(self) -> int:
        """The number of rows in an epoch; with a schedule, epochs may differ."""
        return self._epochs.of(self._epoch).num_rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the batches."""
        import pyarrow as pa

        schema = self._views[0].schema
        for at in range(len(schema)):
            nullable = any(view.schema.field(at).nullable for view in self._views)
            schema = schema.set(at, schema.field(at).with_nullable(nullable))
        if self.source_column is None:
            return schema
        names = pa.dictionary(pa.int32(), pa.string())
        return schema.append(pa.field(self.source_column, names, nullable=False))

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in the order of the batches."""
        added = [] if self.source_column is None else [self.source_column]
        return self._views[0].column_names + added

    def counts(self, position: SupportsIndex | None = None) -> dict[Any, int]:
        """Return the number of rows of each source among the first rows of an epoch.

        Args:
            position: The number of these rows; by default all rows of the epoch.
        """
        mix = self._epochs.of(self._epoch)
        end = mix.num_rows if position is None else count(position, "position")
        return dict(zip(self.names, mix.counts(end), strict=True))

    def shuffle(
        self,
        seed: SupportsIndex | None = None,
        *,
        epoch: SupportsIndex = 0,
        clump_size: SupportsIndex = 1,
        block_size: SupportsIndex | None = None,
        window_blocks: SupportsIndex | None = None,
    ) -> Self:
        """Return the mixture with the rows of each source in random order.

        Args:
            seed: The seed, in ``range(2**64)``; random by default. The seed of a source is derived
                from it and the name of the source, so sources of equal length get different
                orders.
            epoch: As for ``Permutation.shuffle``.
            clump_size: As for ``Permutation.shuffle``.
            block_size: As for ``Permutation.shuffle``.
            window_blocks: As for ``Permutation.shuffle``.
        """
        number = secrets.randbits(64) if seed is None else count(seed, "seed")
        options: dict[str, Any] = {
            "epoch": epoch,
            "clump_size": clump_size,
            "block_size": block_size,
            "window_blocks": window_blocks,
        }
        views = [
            view.shuffle(seed_of(number, name), **options)
            for name, view in self.sources.items()
        ]
        randomness = [(number, view.randomness[1]) for view in views]
        return self._replace(
            _orders=[view.order for view in views], _randomness=randomness
        )

    def with_seed(self, seed: int, epoch: int = 0) -> Self:
        """Return the mixture with another seed of random transforms, in the same order."""
        return self._replace(_randomness=[(seed, epoch)] * len(self.names))

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
        pad: Pad | None = None,
    ) -> Self:
        """Return the mixture in another format; see ``Permutation.with_format``."""
        views = [
            view.with_format(format, nulls=nulls, fill_value=fill_value, pad=pad)
            for view in self._views
        ]
        return self._replace(_views=views)

    def with_read(
        self,
        read: Read | None = None,
        *,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> Self:
        """Return a mixture that is read in another way; see ``Permutation.with_read``.

        The tables of all sources share ``memory_limit`` and ``threads``.
        """
        options = ReadOptions(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return the mixture with other read options; options that are ``None`` keep their values."""
        if options == ReadOptions():
            return self
        return self._replace(_options=self._options.merged(options))

    @with_options_shown
    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        **options: Unpack[LoaderOptionsAfterSize],
    ) -> Loader[Mixture]:
        """Return a loader of batches for training.

        Args:
            batch_size: The number of rows in a batch of one rank; by default the ``batch_size`` of
                the mixture.
            **options: Options of ``Permutation.loader``. The tables of all sources share
                ``memory_limit``.

        Raises:
            ValueError: As for ``Permutation.loader``; or if ``batch_tokens`` is passed.
        """
        return make_loader(self, {"batch_size": batch_size, **options})

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> MixedUnits:
        """Return the rows of the mixture as units of a loader.

        Raises:
            ValueError: If ``batch_tokens`` or a sampler is passed.
        """
        if options["batch_tokens"] is not None:
            message = (
                f"`batch_tokens`={options['batch_tokens']!r} does not apply to a mixture, whose "
                "batches hold rows in exact proportions: pass `batch_size`"
            )
            raise ValueError(message)
        for name, value in (
            ("sampler", options["sampler"]),
            ("batch_sampler", options["batch_sampler"]),
        ):
            if value is not None:
                message = (
                    f"`{name}` does not apply to a mixture, whose batches hold rows in exact "
                    "proportions: call sample() or [] on its sources"
                )
                raise ValueError(message)
        check_no_token_budget(options)
        return MixedUnits(self, by_column=by_column)

    def explain(self) -> str:
        """Return a description of the sources, their rows in an epoch, and how each table is read."""
        counts = self.counts()
        lines = [
            f"rows      {self.num_rows:,} of {len(self.names):,} sources, {self._until()}"
        ]
        weights = self._stages[0][1]
        for at, (name, rows) in enumerate(counts.items()):
            if at == MOST_LINES:
                lines.append(f"          and {len(self.names) - at:,} more sources")
                break
            size = self._orders[at].num_rows
            share = weights[at] / sum(weights)
            lines.append(
                f"source    {name}: weight {share:.2%}, {rows:,} rows of an epoch, "
                f"{rows / size:.2f} times its {size:,}"
            )
        for row, changed in self._stages[1:]:
            shares = (f"{weight / sum(changed):.2%}" for weight in changed[:MOST_LINES])
            way = "to" if self._is_linear else "weights"
            lines.append(f"from      row {row:,}: {way} {', '.join(shares)}")
        for group, view in enumerate(self._readers()):
            rows = sum(
                number
                for number, other in zip(counts.values(), self._groups, strict=True)
                if other == group
            )
            limit = view.read_options.memory_limit
            bounded = "" if limit is None else f", at most {readable(limit)} in memory"
            lines.append(f"table     {rows:,} rows of an epoch{bounded}")
            whole = view.with_rows(self._order(group, self._epoch))
            lines += [f"  {line}" for line in whole.explain().splitlines()]
        return "\n".join(lines)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.names[:MOST_LINES]))
        more = ", …" if len(self.names) > MOST_LINES else ""
        return (
            f"<Mixture of {self.num_rows:,} rows of {len(self.names):,} sources: "
            f"{names}{more}; {self._until()}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        by_id = [view.source.rows_are_ids for view in self._views]
        return self.__dict__ | {"_opened": None, "rows_are_ids": by_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        by_id = state.pop("rows_are_ids")
        self.__dict__.update(state)
        for view, rows_are_ids in zip(self._views, by_id, strict=True):
            if view.source.rows_are_ids != rows_are_ids:
                message = (
                    f"the connection factory of {view!r} returned a table that does not identify "
                    f"rows by {'row id' if rows_are_ids else 'row offset'}, as the table of the "
                    "pickle does: return the same kind of table"
                )
                raise ValueError(message)

    def _until(self) -> str:
        if self.stop == "first":
            return "until a source would start again"
        return "until all sources were read" if self.stop == "all" else "as requested"

    def with_epoch(self, epoch: int) -> Self:
        """Return the mixture with the rows of an epoch in its counts and explanations."""
        return self._replace(_epoch=epoch)


MOST_LINES = 12
"""The most sources to list by name."""
