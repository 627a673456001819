"""``Permutation.loader``: batches for training, which threads of the core read ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

from lanceloader.hints import with_hints
from lanceloader.loader.hints import INSTEAD_OF
from lanceloader.loader.making import make_loader
from lanceloader.loader.options import DEFAULTS, check_no_token_budget
from lanceloader.loader.pack_verbs import PackVerbs
from lanceloader.numbers import count
from lanceloader.stages.error_policy import UNSET
from lanceloader.units.bucketed import BucketedUnits, TokenBudget
from lanceloader.units.rows import RowUnits
from lanceloader.units.sampled import SampledUnits
from lanceloader.verbs.decoding import DecodeVerbs
from lanceloader.verbs.options import OptionVerbs
from lanceloader.verbs.rows import RowVerbs

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lanceloader._typing import Format, LongRows, Nulls, Pad, Read, Size, Tail
    from lanceloader.images import ImageOptions
    from lanceloader.loader.groups import ErrorOptions, RankOptions
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions
    from lanceloader.options import ReadOptions
    from lanceloader.stages.error_policy import OnError
    from lanceloader.units.base import Units

__all__ = ["LoadVerbs"]


class LoadVerbs(PackVerbs, RowVerbs, DecodeVerbs, OptionVerbs):
    """Methods that load batches."""

    @with_hints("loader", INSTEAD_OF)
    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        *,
        global_batch_size: SupportsIndex | None = None,
        batch_tokens: SupportsIndex | None = None,
        length: str | None = None,
        padded: bool = True,
        bucket_rows: SupportsIndex = 8192,
        long: LongRows = "alone",
        drop_last: bool = False,
        shuffle: bool = False,
        seed: SupportsIndex | None = None,
        epochs: SupportsIndex | None = 1,
        sampler: Iterable[SupportsIndex] | None = None,
        batch_sampler: Iterable[Sequence[SupportsIndex]] | None = None,
        rank: SupportsIndex | None = None,
        world_size: SupportsIndex | None = None,
        mesh: Any = None,
        tail: Tail = "pad",
        ranks: RankOptions | None = None,
        format: Format | None = None,  # noqa: A002
        nulls: Nulls | None = None,
        fill_value: Any = None,
        pad: Pad | None = None,
        decode: Mapping[str, ImageOptions] | None = None,
        transform: Callable[[Any], Any] | None = None,
        transform_threads: SupportsIndex | None = None,
        transform_timeout: float | None = None,
        on_error: OnError = "raise",
        error_value: Any = UNSET,
        repair: Callable[[Exception, Any], Any] | None = None,
        errors: ErrorOptions | None = None,
        collate: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        device: Any = None,
        in_process: bool = True,
        read: Read | None = None,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        reading: ReadOptions | None = None,
        progress: bool | None = None,
    ) -> Loader[Self]:
        """Return a loader of batches for training, which needs no worker processes.

        Threads of the core read a few batches ahead; batches are yielded in order.

        The global batch b of an epoch, of all ranks together, holds the same rows for all numbers of
        ranks and workers, as long as the global batch size is the same. All ranks take the same
        number of steps.

        Args:
            **Rows and batches**

            batch_size: The number of rows in a batch of one rank; by default the ``batch_size`` of
                the permutation. With ``batch_tokens``, the most rows in a batch, by default any
                number.
            global_batch_size: The number of rows in a batch of all ranks together, in place of
                ``batch_size``. It need not be divisible by the number of ranks.
            batch_tokens: The most tokens in a batch of one rank. Rows of similar length are put
                into the same batch, and every row is in exactly one batch. Lengths are read once
                per table, and all ranks plan the same batches from them.
            length: With ``batch_tokens``, the column whose lists determine the lengths of rows, or
                a column of integer lengths, which is read faster; selected or not. Defaults to the
                only column of lists.
            padded: With ``batch_tokens``, whether padding counts: if true, the number of rows
                times the length of the longest one is limited, otherwise the sum of the lengths.
            bucket_rows: With ``batch_tokens``, the number of neighbouring rows that are sorted by
                length and divided into batches, which are yielded in the order of their first
                rows. Larger values reduce both padding and randomness.
            long: With ``batch_tokens``, how a row of more tokens is treated: ``"alone"`` makes it a
                batch of its own, ``"error"`` raises ``ValueError``.
            drop_last: Whether to drop a shorter last batch.

            **Order and epochs**

            shuffle: Whether to shuffle the rows, as ``perm.shuffle(seed)`` does.
            seed: The seed of ``shuffle`` and of a ``transform`` with a parameter ``rng``, in
                ``range(2**64)``. That of a shuffle is random by default, but required with several
                ranks. Without a seed here, a transform draws with that of the last ``shuffle`` or
                ``sample`` of the permutation, or with 0.
            epochs: The number of epochs of one iteration, from the epoch of ``set_epoch`` or epoch
                0 on. ``None`` never ends, and raises ``ValueError`` after an epoch without any
                batch.
            sampler: A ``Sampler`` of torch or any other iterable of positions in this
                permutation, in place of ``shuffle``. It is read once when an epoch begins, for
                the whole epoch, after ``set_epoch`` was called on it if it has that method and
                the loader's epoch was set. A sampler decides which rows this process gets: a
                ``DistributedSampler`` divides them by itself, so neither ``rank`` nor
                ``world_size`` may be passed with it; with any other sampler and several ranks,
                one of the two is required.
            batch_sampler: In place of ``sampler`` and ``batch_size``, an iterable of lists of
                positions, each of which is a batch.

            **Ranks**

            rank: The rank of this process, in ``range(world_size)``. Defaults to that of
                ``torch.distributed`` if it is initialised, unless the permutation is a shard.
            world_size: The number of ranks. With 1, each process gets all rows.
            mesh: In place of both, a one-dimensional ``DeviceMesh``, such as ``mesh["dp"]``, or a
                ``ProcessGroup``. Ranks that only differ in other dimensions get the same rows.
            tail: How a shorter last batch is divided if its rows do not divide evenly among the
                ranks. ``"pad"`` fills it up with rows from the start of the epoch, ``"drop"``
                drops the remainder, and ``"uneven"`` gives some ranks one row less, which may
                leave an empty batch.
            ranks: These options as one ``RankOptions``.

            **Format and transform**

            format: The format of a batch; see ``with_format``. Defaults to that of the
                permutation.
            nulls: How nulls are represented; see ``with_format``.
            fill_value: The value in place of nulls; see ``with_format``.
            pad: How lists are padded, as in ``pad={"tokens": 0}``; see ``with_format``.
            decode: Columns of image files to decode, as in ``decode={"image": ll.image(224)}``; see
                ``with_decode``.
            transform: A function of a batch in its format, which is called in threads. Its results
                are yielded in place of the batches. If it has a parameter ``rng``, it is passed a
                generator of random numbers keyed by row; see ``BatchGenerator``.
            transform_threads: The number of threads that convert and transform batches; by default
                one per core with ``transform``, ``decode`` or ``map``, and 0 without. With 0, the thread that
                requests a batch does both.
            transform_timeout: The most seconds for the transform of one batch; the iteration then
                ends with ``TimeoutError``. Requires at least one thread.
            collate: A function of the result of the transform, whose results are yielded.

            **Errors**

            on_error: What to do if the transform raises. ``"raise"`` raises the error. Otherwise the
                rows of the batch are tried one by one, and those for which it raises are treated:
                ``"skip"`` drops them; ``"warn"`` drops them with a warning in the log; ``"fill"``
                replaces them; a function of the exception returns whether to drop them. The
                transform must then return one output per row.
            error_value: With ``on_error="fill"``, the result of the transform for a batch of one
                such row, to use in its place.
            repair: With ``on_error="fill"``, in place of ``error_value``: a function of the
                exception and the Arrow batch of one row that returns this result. It is called with
                an empty batch if the transform fails on one.
            errors: These options as one ``ErrorOptions``.

            **Devices and processes**

            pin_memory: Whether to copy tensors to pinned memory.
            device: The device to copy tensors to, one batch ahead.
            in_process: Whether threads of this process read and transform. If false, a helper
                process does, and batches arrive through shared memory without a copy. It starts
                with the first batch, which takes as long as importing the package, and ends with
                the loader. Functions must be picklable, and a script needs
                ``if __name__ == "__main__"``. Linux only.

            **Reading**

            read: The strategy; see ``with_read``. This and the following options default to those
                of the permutation.
            memory_limit: The most bytes of rows to hold in memory; see ``with_read``.
            cache_dir: The folder of packed rows; see ``with_read``.
            threads: The number of threads that read; see ``with_read``.
            reading: These options as one ``ReadOptions``.

            **Progress**

            progress: Whether rank 0 shows a progress bar for each epoch, with the rows per second
                and the fraction of the time spent waiting for batches, and bars for rows that are
                packed or written to scratch files meanwhile. Bars appear after a second. Defaults
                to what the environment variable ``LANCELOADER_PROGRESS`` says: 1 shows bars, and
                0 shows none even if this is true.

        Raises:
            ValueError: If a size is 0, options are mutually exclusive or have no effect, an option was
                passed both by itself and in an object of options, or ``rank`` is out of range.
            TypeError: If an argument is of the wrong type.
            ImportError: If ``device`` or ``pin_memory`` is passed and torch is not installed, or
                ``progress`` and tqdm is not installed.

        Example:
            >>> loader = perm.loader(batch_size=4, shuffle=True, seed=7, format="numpy_dict")
            >>> for epoch in range(2):
            ...     print([len(batch["x"]) for batch in loader.set_epoch(epoch)])
            [4, 4, 2]
            [4, 4, 2]
            >>> state = loader.set_epoch(2).skip_batches(1).state_dict()
            >>> state["epoch"], state["position"]
            (2, 4)
        """
        # This must be the first statement: `locals()` then holds the arguments only.
        options = {name: value for name, value in locals().items() if name in DEFAULTS}
        return make_loader(self, cast("LoaderOptions", options))

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> Units:
        """Return the rows as units of a loader; those of a sampler, or batches under a token budget.

        Raises:
            ValueError: If options of a token budget are passed without ``batch_tokens``.
        """
        if options["batch_tokens"] is None:
            check_no_token_budget(options)
            for name, sampler in (
                ("sampler", options["sampler"]),
                ("batch_sampler", options["batch_sampler"]),
            ):
                if sampler is not None:
                    return SampledUnits(self, sampler, name, by_column=by_column)
            return RowUnits(self, by_column=by_column)
        most_rows = options["batch_size"]
        budget = TokenBudget(
            count(options["batch_tokens"], "batch_tokens"),
            self.length_column(options["length"]),
            options["padded"],
            None if most_rows is None else count(most_rows, "batch_size"),
            count(options["bucket_rows"], "bucket_rows"),
            options["long"],
        )
        return BucketedUnits(
            self, budget, by_column=by_column, progress=options["progress"]
        )
