"""State dicts: LanceDB's, key by key, and checks that a state belongs to a dataset."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from lanceloader.streaming.iteration import DatasetIteration
from lanceloader.streaming.merging import PACKING_KEYS, RUN_KEYS, merged
from lanceloader.streaming.order import DatasetOrder
from lanceloader.streaming.progress import PackProgress, ShardProgress
from lanceloader.streaming.replaceable import namespace

State: TypeAlias = dict[str, Any]


class DatasetCheckpoints(DatasetIteration, DatasetOrder):
    """Makes and loads state dicts, and takes over the progress of workers."""

    @property
    def _pack_buffers(self) -> dict[int, dict[str, list[int]]]:
        progress = self._progress
        return progress.buffer_lists() if isinstance(progress, PackProgress) else {}

    @_pack_buffers.setter
    def _pack_buffers(self, buffers: dict[Any, Any]) -> None:
        cast("PackProgress", self._progress).load_buffers(buffers)

    def state_dict(self) -> State:
        """Return the state from which ``load_state_dict`` resumes.

        The state is LanceDB's and consists of plain Python values, so either library resumes
        from it. The exception is a state made with ``tail`` among the last rows, which do not
        divide among the splits: only datasets with ``tail`` have these rows. A row counts as
        consumed once it was yielded. At a global step all ranks return equal states in row
        mode. Otherwise, and in packing mode, pass the states of all ranks to
        ``merge_state_dicts``.

        Raises:
            RuntimeError: If workers of a plain ``DataLoader`` have read ahead of the trainer
                (use ``StreamingDataLoader``), if a batch was lost, or in the middle of a step
                that a state cannot express.
        """
        if self._counters.is_untracked and namespace.get_worker_info() is None:
            raise RuntimeError(
                "StreamingDataset cannot checkpoint a standard DataLoader with num_workers > "
                "0, because workers read ahead of the trainer. Use StreamingDataLoader instead"
            )
        if self._checkpoint_invalid_reason is not None:
            message = (
                "StreamingDataset checkpointing is invalid because "
                f"{self._checkpoint_invalid_reason}. Load the last valid checkpoint into a "
                "fresh dataset, or start again with reset()"
            )
            raise RuntimeError(message)
        state = self._checkpoint_snapshot()
        self._check_step()
        if self._strict:
            state["plan"] = dict(self._order_fingerprint())
        return state

    def _check_step(self) -> None:
        """Raise if a state cannot express the progress.

        Raises:
            RuntimeError: If the dataset is in the middle of a step.
        """
        is_packed = self._pack_sequences is not None
        needs_step = (
            is_packed
            or self._tail is not None
            or self._consumer_checkpoint_requires_uniform
        )
        if not needs_step or self._progress.is_at_step(self._rank_splits):
            return
        if is_packed:
            raise RuntimeError(
                "Packed StreamingDataset checkpointing is only safe at a complete logical step "
                "boundary, when every split of this rank has yielded equally many blocks. "
                "Consume more batches before calling state_dict()"
            )
        raise RuntimeError(
            "StreamingDataLoader checkpointing with multiple workers is only safe at a complete "
            "logical step boundary, when every split of this rank has yielded equally many "
            "samples. Consume more batches before calling state_dict()"
        )

    def _prepare_workers(self, num_workers: int) -> None:
        """Check that a loader may start its workers, and record where they begin.

        Raises:
            RuntimeError: If the dataset is in the middle of a step.
        """
        is_packed = self._pack_sequences is not None
        is_at_step = self._progress.is_at_step(self._rank_splits)
        if isinstance(self._progress, ShardProgress):
            count = max(1, num_workers)
            self._progress.begin({k: self._shard(k, count) for k in range(count)})
        if not is_at_step and (is_packed or num_workers > 1):
            step = "multiple workers from a partial logical step"
            if is_packed:
                step = "from a partial packed logical step"
            message = (
                f"StreamingDataLoader cannot start {step}: every split of this rank must have "
                "yielded equally many items. Resume from a state of a complete step"
            )
            raise RuntimeError(message)

    def _checkpoint_snapshot(self) -> State:
        """Return the state as it is, possibly in the middle of a step."""
        return self._settings_state() | self._progress.counts()

    def _worker_snapshot(self) -> State:
        """Return the state that a worker sends with a batch."""
        return self._settings_state() | self._progress.worker_counts()

    def _settings_state(self) -> State:
        keys = RUN_KEYS
        if self._pack_sequences is not None:
            keys += PACKING_KEYS
        return {key: getattr(self, f"_{key}") for key in keys}

    def _invalidate_checkpoint(self, reason: str) -> None:
        if self._checkpoint_invalid_reason is None:
            self._checkpoint_invalid_reason = reason

    def _commit_worker_state(self, state: State, *, require_uniform: bool) -> None:
        """Take over the progress of a worker, sent with a batch that is being yielded.

        Raises:
            ValueError: If the state belongs to another run.
        """
        is_packed = self._pack_sequences is not None
        self._check_keys(state, RUN_KEYS, "{key} mismatch in worker checkpoint")
        if ("pack_buffers" in state) != is_packed:
            message = (
                "worker checkpoint mode does not match the dataset: the worker "
                f"{'did not pack' if is_packed else 'packed'} sequences. Make the loader from "
                "the dataset that it iterates"
            )
            raise ValueError(message)
        if is_packed:
            self._check_keys(state, PACKING_KEYS, "{key} mismatch in worker checkpoint")
        self._progress.commit(state)
        self._consumer_checkpoint_requires_uniform |= require_uniform

    def load_state_dict(self, state: State, *, strict: bool | None = None) -> None:
        """Resume from a state dict of this library or LanceDB, made with any topology.

        Args:
            state: The result of ``state_dict`` or ``merge_state_dicts``.
            strict: Whether to require the epoch of this dataset and, if the state has a
                ``"plan"``, everything that determines which row is at which position: shuffle,
                clumps, filter, and version and rows of the table. By default as given to the
                dataset. LanceDB checks none of these. Without the check, a state of another
                epoch or order skips as many rows of this one.

        Raises:
            ValueError: If the number of splits, the seed, the settings of packing or the mode
                differ; with ``tail``, if the state is not of the beginning of an epoch, for
                example because rows were skipped.
            KeyError: If a key is missing.
        """
        message = "{key} mismatch"
        for key in ("num_splits", "shuffle_seed"):
            if key not in state:
                raise KeyError(key)
            self._check_keys(state, [key], message)
        is_packed = "pack_buffers" in state or self._pack_sequences is not None
        if is_packed:
            self._check_keys(state, [*PACKING_KEYS, "epoch"], message)
        samples = state["samples_consumed_per_split"]
        if self._strict if strict is None else strict:
            self._check_keys(state, ["epoch"], message)
            self._check_order(samples, state.get("plan"))
        progress = self._progress
        if is_packed and not isinstance(progress, PackProgress):
            # As in LanceDB, a packed state without settings must be complete, and is not used.
            progress = PackProgress(self._num_splits)
        progress.load(state)
        self._consumer_checkpoint_requires_uniform = False

    @staticmethod
    def merge_state_dicts(states: list[State]) -> State:
        """Merge the states of all ranks into one state, for any number of ranks.

        Each rank knows the progress of its own splits. In row mode, the highest count of each
        split is used. In packing mode, the tokens of a split come from the state with most of
        its blocks, and all splits must have yielded equally many blocks.

        Raises:
            ValueError: If there are no states, or they belong to different runs or steps.

        Example:
            >>> from lanceloader.streaming import StreamingDataset
            >>> run = {"shuffle_seed": 0, "num_splits": 2, "epoch": 0}
            >>> states = [
            ...     run | {"samples_consumed_per_split": [3, 2]},
            ...     run | {"samples_consumed_per_split": [2, 3]},
            ... ]
            >>> StreamingDataset.merge_state_dicts(states)["samples_consumed_per_split"]
            [3, 3]
        """
        return merged(states)

    def _check_keys(self, state: State, keys: Any, what: str) -> None:
        """Check that a state has the settings of this dataset.

        Raises:
            ValueError: If a setting differs.
        """
        ours = {key: getattr(self, f"_{key}") for key in keys}
        check_same(state, ours, what)

    def _check_order(self, samples: Any, order: State | None) -> None:
        """Check that a state has the order of this dataset.

        Raises:
            ValueError: If it has another.
        """
        if isinstance(samples, list) and len(samples) != self._num_splits:
            message = (
                f"samples_consumed_per_split has {len(samples)} counts, but the dataset has "
                f"{self._num_splits} splits. Pass a state of a dataset with as many splits"
            )
            raise ValueError(message)
        if order is not None:
            check_same(order, self._order_fingerprint(), "{key} mismatch")


def check_same(state: State, ours: State, what: str) -> None:
    """Check that a state has these values.

    Raises:
        ValueError: If a value differs.
    """
    for key, value in ours.items():
        theirs = state.get(key)
        if theirs != value:
            message = (
                f"{what.format(key=key)}: checkpoint has {theirs!r}, current dataset has "
                f"{value!r}"
            )
            raise ValueError(message)
