"""State dicts: LanceDB's, key by key, and what tells whether one fits."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import Any

from lanceloader import streaming
from lanceloader.compat_lancedb.plan_table import PlanTable
from lanceloader.numbers import numpy_of
from lanceloader.streaming.interleaving import InSequence
from lanceloader.streaming.merging import (
    PACKING_KEYS,
    RUN_KEYS,
    buffer_of,
    furthest,
    merged,
)
from lanceloader.streaming.packing import Buffer, lists

State = dict[str, Any]


class Checkpoints(InSequence):
    """Where a dataset is, and how it is put there."""

    def _start_progress(self) -> None:
        """Stand at the beginning of the epoch."""
        self._resume_offset = 0
        self._resume_samples = {}
        self._resume_positions = {}
        self._pack_consumed = [0] * self._num_splits
        self._pack_blocks_emitted = [0] * self._num_splits
        self._packs = {}
        self._start_sequence(0)
        self._checkpoint_invalid_reason = None
        self._consumer_checkpoint_requires_uniform = False

    @property
    def _pack_buffers(self) -> dict[int, dict[str, list[int]]]:
        return {split: lists(pack.state()) for split, pack in self._packs.items()}

    @_pack_buffers.setter
    def _pack_buffers(self, buffers: dict[Any, Any]) -> None:
        self._packs = {int(n): Buffer.of(buffers[n]) for n in buffers}

    def state_dict(self) -> State:
        """Give what ``load_state_dict`` goes on from.

        It holds plain Python values and is LanceDB's: either library resumes from it. (Not
        from a state made with ``tail`` among the last rows, those that do not divide by the
        splits: only datasets with ``tail`` have them.) A row counts as consumed when it was
        handed over. At a global step all ranks give equal states in row mode; otherwise, and
        in packing mode, give those of all ranks to ``merge_state_dicts``.

        Raises:
            RuntimeError: If workers of a plain ``DataLoader`` have read ahead of the trainer
                (use ``StreamingDataLoader``), if a batch was lost, or in the middle of a
                step, where that cannot be told in a state.
        """
        if self._untracked_worker_iteration[0] and streaming.get_worker_info() is None:
            raise RuntimeError(
                "StreamingDataset cannot checkpoint a standard DataLoader with num_workers > "
                "0: its workers read ahead of what the trainer got. Use StreamingDataLoader "
                "instead"
            )
        if self._checkpoint_invalid_reason is not None:
            message = (
                "StreamingDataset checkpointing is invalid because "
                f"{self._checkpoint_invalid_reason}. Load the last valid checkpoint into a "
                "fresh dataset, or start again with reset()"
            )
            raise RuntimeError(message)
        state = self._checkpoint_snapshot()
        self._check_step(state)
        if self._strict:
            state["plan"] = dict(self._plan())
        return state

    def _check_step(self, state: State) -> None:
        """Refuse what is in the middle of a step.

        Raises:
            RuntimeError: If it is.
        """
        if self._pack_sequences is not None:
            if not self._is_uniform(state["blocks_emitted_per_split"]):
                raise RuntimeError(
                    "Packed StreamingDataset checkpointing is only safe at a complete logical "
                    "step boundary, when every split of this rank has given as many blocks. "
                    "Consume more batches before calling state_dict()"
                )
        elif not self._is_in_step or (
            self._consumer_checkpoint_requires_uniform
            and self._interleaving is None
            and not self._is_uniform(state["samples_consumed_per_split"])
        ):
            raise RuntimeError(
                "StreamingDataLoader checkpointing with multiple workers is only safe at a "
                "complete logical step boundary, when every split of this rank has given as "
                "many samples. Consume more batches before calling state_dict()"
            )

    def _prepare_workers(self, num_workers: int) -> None:
        """Check that a loader may start, and remember where its workers do.

        Raises:
            RuntimeError: If the dataset is in the middle of a step.
        """
        state = self._checkpoint_snapshot()
        step, is_uniform = "multiple workers from a partial logical step", True
        if self._pack_sequences is not None:
            step = "from a partial packed logical step"
            is_uniform = self._is_uniform(state["blocks_emitted_per_split"])
        elif self._interleaving is not None:
            is_uniform = self._is_in_step or num_workers <= 1
            count = max(1, num_workers)
            self._begin_sequence({k: self._reader(k, count) for k in range(count)})
        elif num_workers > 1:
            is_uniform = self._is_uniform(state["samples_consumed_per_split"])
        if not is_uniform:
            message = (
                f"StreamingDataLoader cannot start {step}: wanted all splits of this rank to "
                "have given as much; resume from a state of a complete step"
            )
            raise RuntimeError(message)

    def _is_uniform(self, counts: list[int]) -> bool:
        """Whether all splits of this rank have the same count."""
        return len({counts[split] for split in self._rank_splits}) <= 1

    def _checkpoint_snapshot(self) -> State:
        """Give the state as it is, in a step or between two."""
        state = self._worker_snapshot()
        state.pop("workers", None)
        if "pack_buffers" in state:
            state["pack_buffers"] = self._pack_buffers
        return state

    def _worker_snapshot(self) -> State:
        """Give what a worker tells of its progress: tokens as arrays, and rows of a sequence."""
        state = {key: getattr(self, f"_{key}") for key in RUN_KEYS}
        if self._pack_sequences is not None:
            state |= {key: getattr(self, f"_{key}") for key in PACKING_KEYS}
            packs = {split: pack.state() for split, pack in self._packs.items()}
            return state | {
                "samples_consumed_per_split": list(self._pack_consumed),
                "blocks_emitted_per_split": list(self._pack_blocks_emitted),
                "pack_buffers": packs,
            }
        if self._interleaving is not None:
            samples = self._interleaving.counts(self._done)
            positions = list(samples)
            if self._worker_rows:
                state["workers"] = dict(self._worker_rows)
        else:
            splits = range(self._num_splits)
            samples = [self._samples(split) for split in splits]
            positions = [
                self._resume_positions.get(split, samples[split]) for split in splits
            ]
        return state | {
            "samples_consumed_per_split": samples,
            "positions_consumed_per_split": positions,
        }

    def _samples(self, split: int) -> int:
        return self._resume_samples.get(split, self._resume_offset)

    def _invalidate_checkpoint(self, reason: str) -> None:
        if self._checkpoint_invalid_reason is None:
            self._checkpoint_invalid_reason = reason

    def _commit_worker_state(self, state: State, *, require_uniform: bool) -> None:
        """Take over how far a worker was when it made a batch that is being handed over.

        Raises:
            ValueError: If it is of another run.
        """
        is_packed = self._pack_sequences is not None
        self._check_keys(state, RUN_KEYS, "{key} mismatch in worker checkpoint")
        if ("pack_buffers" in state) != is_packed:
            raise ValueError("worker checkpoint mode does not match the dataset")
        if is_packed:
            self._check_keys(state, PACKING_KEYS, "{key} mismatch in worker checkpoint")
            self._commit_packs(state)
        elif self._interleaving is not None:
            self._worker_rows |= state["workers"]
        else:
            self._commit_samples(state)
        self._consumer_checkpoint_requires_uniform |= require_uniform

    def _commit_packs(self, state: State) -> None:
        samples = state["samples_consumed_per_split"]
        blocks = state["blocks_emitted_per_split"]
        if not len(samples) == len(blocks) == self._num_splits:
            raise ValueError(
                "packed worker checkpoint must contain one entry per split"
            )
        for split, there in enumerate(zip(blocks, samples, strict=True)):
            here = self._pack_blocks_emitted[split], self._pack_consumed[split]
            if there > here:
                self._pack_blocks_emitted[split], self._pack_consumed[split] = map(
                    int, there
                )
                buffer = buffer_of(state, split)
                if buffer is None:
                    self._packs.pop(split, None)
                else:
                    self._packs[split] = Buffer.of(buffer)

    def _commit_samples(self, state: State) -> None:
        samples: list[int] = state["samples_consumed_per_split"]
        positions: list[int] = state.get("positions_consumed_per_split", samples)
        for split, count in enumerate(samples):
            self._resume_samples[split] = max(self._samples(split), int(count))
        for split, position in enumerate(positions):
            current = self._resume_positions.get(split, self._samples(split))
            self._resume_positions[split] = max(current, int(position))
        self._resume_offset = min(map(self._samples, range(self._num_splits)))

    def load_state_dict(self, state: State, *, strict: bool | None = None) -> None:
        """Go on where a state dict was made, in this library or LanceDB, by any topology.

        Args:
            state: What ``state_dict`` or ``merge_state_dicts`` gave.
            strict: Whether the epoch, and if the state has a ``"plan"`` all that decides which
                row is where (shuffle, clumps, filter, version and rows of the table), must be
                those of this dataset; by default as the dataset was made. LanceDB checks
                neither. Unchecked, a state of another epoch or order leaves out as many rows
                of this one.

        Raises:
            ValueError: If the number of splits, the seed or the settings of packing differ,
                or it is of the other mode; with ``tail``, if it is not of the beginning of an
                epoch, as where rows were skipped.
            KeyError: If something is missing.
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
            self._check_plan(state)
        if self._interleaving is not None:
            if isinstance(samples, list):
                # Further on where rows were skipped.
                positions = state.get("positions_consumed_per_split") or samples
                counts = furthest([samples, positions])
            else:
                counts = [int(samples)] * self._num_splits
            self._start_sequence(self._interleaving.done(counts))
        self._consumer_checkpoint_requires_uniform = False
        if is_packed:
            self._pack_consumed = [int(count) for count in samples]
            blocks = state["blocks_emitted_per_split"]
            self._pack_blocks_emitted = [int(count) for count in blocks]
            self._pack_buffers = state["pack_buffers"]
            return
        # Older states have samples only, or a single number.
        if isinstance(samples, list):
            self._resume_offset = min(samples, default=0)
            self._resume_samples = {n: int(count) for n, count in enumerate(samples)}
        else:
            self._resume_offset, self._resume_samples = int(samples), {}
        positions = state.get("positions_consumed_per_split") or []
        self._resume_positions = {n: int(place) for n, place in enumerate(positions)}

    @staticmethod
    def merge_state_dicts(states: list[State]) -> State:
        """Make one state of those that all ranks gave, for any number of ranks.

        Each rank knows how far its own splits are. In row mode the furthest counts; in
        packing mode the state with the most blocks of a split has its tokens, and all splits
        must have given as many blocks.

        Raises:
            ValueError: If there are none, or they are not of one run, or not of one step.

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
        """Check settings that a state is of.

        Raises:
            ValueError: If one is another.
        """
        for key in keys:
            ours = getattr(self, f"_{key}")
            theirs = state.get(key)
            if theirs != ours:
                message = (
                    f"{what.format(key=key)}: checkpoint has {theirs!r}, current dataset "
                    f"has {ours!r}"
                )
                raise ValueError(message)

    def _check_plan(self, state: State) -> None:
        """Check what decides which row is where.

        Raises:
            ValueError: If it is not that of this dataset.
        """
        samples = state["samples_consumed_per_split"]
        if isinstance(samples, list) and len(samples) != self._num_splits:
            message = (
                f"samples_consumed_per_split has {len(samples)} counts: wanted one for each of "
                f"{self._num_splits} splits"
            )
            raise ValueError(message)
        theirs = state.get("plan")
        if theirs is None:
            return
        for key, ours in self._plan().items():
            if theirs.get(key) != ours:
                message = (
                    f"{key} mismatch: checkpoint has {theirs.get(key)!r}, current dataset has "
                    f"{ours!r}"
                )
                raise ValueError(message)

    def _plan(self) -> State:
        """Say which rows stand where; costs a hash of all row ids, once."""
        if self._known_plan is None:
            plan = PlanTable.of(self._perm_table)
            digest = hashlib.blake2b(digest_size=16)
            for rows in self._perm_table.to_arrow()["row_id"].chunks:
                digest.update(numpy_of(rows).data)
            self._known_plan = {
                "shuffle": self._shuffle,
                "shuffle_clump_size": self._shuffle_clump_size,
                "filter": self._filter,
                "table_version": plan.base_version,
                "table_branch": plan.base_branch,
                "rows": digest.hexdigest(),
            }
        return deepcopy(self._known_plan)
