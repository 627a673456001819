"""``mix`` and ``Mixture``: several permutations, served in exact proportions."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, get_args

from lanceloader.loader.making import make_loader
from lanceloader.mixing.base import MixedSources
from lanceloader.mixing.sources import source_views
from lanceloader.mixing.units import MixedUnits
from lanceloader.mixing.weights import Schedule, Weights, check_all, stages_of
from lanceloader.monitor.stats import readable
from lanceloader.numbers import count
from lanceloader.options import ReadOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from typing_extensions import Unpack

    from lanceloader._permutation import Permutation
    from lanceloader._typing import Format, Nulls, Read, Size
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions, LoaderOptionsAfterSize

__all__ = ["Mixture", "mix"]

Shape = Literal["step", "linear"]


def mix(
    sources: Mapping[Any, Permutation] | Sequence[Permutation],
    *,
    weights: Weights | None = None,
    schedule: Schedule | None = None,
    shape: Shape = "step",
    stop: SupportsIndex | Literal["first", "all"] = "first",
    columns: Sequence[str] | None = None,
    source_column: str | None = None,
) -> Mixture:
    """Mix the rows of several permutations, in exact proportions.

    The source that is furthest behind its share goes next. After any number of rows, each is less
    than two rows from its share, and less than one if there are at most three sources; so a batch
    has what its weights say, and not by chance. Any place of a mixture is computed from its number.

    A source that is served to its end begins anew, in another order if it is shuffled.

    Args:
        sources: Permutations by name, or in a row; their names are then 0, 1, and so on. They may
            be of different tables, with columns of the same names and types.
        weights: A number for each source, by name or by place; ``"size"``, the default, for their
            numbers of rows, so that each row is served once in an epoch; or ``"equal"``.
        schedule: Instead, weights that change: pairs of a row, counted from the start of training
            over all epochs, and the weights from there on. The first is row 0.
        shape: ``"step"``, or ``"linear"`` to go from weights to weights in a straight line.
        stop: Where an epoch ends: ``"first"`` before a source would begin anew; ``"all"`` as soon
            as each was served whole; or after so many rows.
        columns: The columns to keep of each source, as for ``select_columns``.
        source_column: The name of a column to add, with the name of the source of each row.

    Returns:
        The mixture. Its format and batch size are those of the first source.

    Raises:
        ValueError: If there are no sources, one has no rows, columns do not fit, weights do not
            fit the sources, or an epoch would not end.
        TypeError: If a source is no permutation, or a weight no number.

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
        message = f'shape={shape!r}: wanted "step" or "linear"'
        raise ValueError(message)
    if isinstance(stop, str) and stop not in ("first", "all"):
        message = f'stop={stop!r}: wanted "first", "all" or a number of rows'
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
    """Rows of several permutations, in exact proportions; ``lanceloader.mix`` makes one.

    Attributes:
        names: The names of the sources.
        stop: Where an epoch ends: ``"first"``, ``"all"`` or a number of rows.
        source_column: The column that says which source a row is from, if there is one.
        batch_size: Rows of a batch, where a loader is not told.
    """

    @property
    def num_rows(self) -> int:
        """Rows of the first epoch; with a schedule, others may have more or fewer."""
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
        """The names of the columns, in the order they come out."""
        added = [] if self.source_column is None else [self.source_column]
        return self._views[0].column_names + added

    def counts(self, position: SupportsIndex | None = None) -> dict[Any, int]:
        """Count the rows that each source has of the first ``position``, by default of an epoch."""
        mix = self._epochs.of(self._epoch)
        end = mix.num_rows if position is None else count(position, "position")
        return dict(zip(self.names, mix.counts(end), strict=True))

    def shuffle(self, seed: SupportsIndex | None = None, **options: Any) -> Self:
        """Shuffle the rows of each source; ``Permutation.shuffle`` takes the same options.

        The seed of a source is made from ``seed`` and its name, so that sources of equal length
        are not shuffled alike.
        """
        number = secrets.randbits(64) if seed is None else count(seed, "seed")
        orders = [
            view.shuffle(seed_of(number, name), **options)._order
            for name, view in self.sources.items()
        ]
        return self._replace(_orders=orders)

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
    ) -> Self:
        """Choose what a batch is handed out as; see ``Permutation.with_format``."""
        views = [
            view.with_format(format, nulls=nulls, fill_value=fill_value)
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
        """Choose how rows are read; see ``Permutation.with_read``.

        Tables that are read at the same time share ``memory_limit``.
        """
        options = ReadOptions.of(read, memory_limit, cache_dir, threads)
        return self._replace(_options=options)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Read with options; those that ``options`` leaves open stay as they are."""
        if options == ReadOptions():
            return self
        return self._replace(_options=self._options.merged(options))

    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        **options: Unpack[LoaderOptionsAfterSize],
    ) -> Loader[Mixture]:
        """Load batches for training.

        Args:
            batch_size: Rows of a batch of one rank; by default that of the mixture.
            options: As for ``Permutation.loader``. Tables that are read at the same time share
                ``memory_limit``.

        Raises:
            ValueError: As for ``Permutation.loader``; or if ``batch_tokens`` is given.
        """
        return make_loader(self, {"batch_size": batch_size, **options})

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> MixedUnits:
        """Return the rows that a loader batches.

        Raises:
            ValueError: If batches are to have a token budget.
        """
        if options["batch_tokens"] is not None:
            message = (
                f"`batch_tokens`={options['batch_tokens']!r} does not apply to a mixture, whose "
                "batches hold rows in exact proportions: pass `batch_size`"
            )
            raise ValueError(message)
        return MixedUnits(self, by_column=by_column)

    def explain(self) -> str:
        """Say what is mixed, how much of it an epoch serves, and how each table is read."""
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
                for number, of in zip(counts.values(), self._groups, strict=True)
                if of == group
            )
            limit = view._options.memory_limit
            bounded = "" if limit is None else f", at most {readable(limit)} in memory"
            lines.append(f"table     {rows:,} rows of an epoch{bounded}")
            whole = view._with_rows(self._order(group, self._epoch))
            lines += [f"  {line}" for line in whole.explain().splitlines()]
        return "\n".join(lines)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        listed = ", ".join(map(str, self.names[:MOST_LINES]))
        more = ", …" if len(self.names) > MOST_LINES else ""
        return (
            f"<Mixture of {self.num_rows:,} rows of {len(self.names):,} sources: "
            f"{listed}{more}; {self._until()}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        by_id = [view._source.rows_are_ids for view in self._views]
        return self.__dict__ | {"_opened": None, "rows_are_ids": by_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        by_id = state.pop("rows_are_ids")
        self.__dict__.update(state)
        for view, wanted in zip(self._views, by_id, strict=True):
            if view._source.rows_are_ids != wanted:
                message = (
                    f"{view!r}: the connection factory gives another kind of table here, whose "
                    "rows are named in another way"
                )
                raise ValueError(message)

    def _until(self) -> str:
        if self.stop == "first":
            return "until the first begins anew"
        return "until all were served whole" if self.stop == "all" else "as asked for"

    def _with_epoch(self, epoch: int) -> Self:
        return self._replace(_epoch=epoch)


MOST_LINES = 12
"""Sources that are listed by name."""


def seed_of(seed: int, name: Any) -> int:
    """Give the seed of a source."""
    text = f"{seed} {name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
