"""Merging the states of all ranks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

State = dict[str, Any]

# The settings that a state has.
RUN_KEYS: tuple[str, ...] = ("shuffle_seed", "num_splits", "epoch")
PACKING_KEYS = ("pack_sequences", "eos_id", "pad_id", "blocks_per_epoch")


def merged(states: list[State]) -> State:
    """Merge state dicts; see ``StreamingDataset.merge_state_dicts``."""
    if not states:
        raise ValueError("merge_state_dicts requires at least one state dict")
    first = states[0]
    is_packed = "pack_buffers" in first
    keys = (*RUN_KEYS, *PACKING_KEYS) if is_packed else RUN_KEYS
    for state in states[1:]:
        if ("pack_buffers" in state) != is_packed:
            raise ValueError(
                "cannot merge packed and unpacked state dicts; pass the states of one run"
            )
        for key in (*keys, *(["plan"] if "plan" in first and "plan" in state else [])):
            if state[key] != first[key]:
                message = f"{key} mismatch across state dicts: {state[key]!r} != {first[key]!r}"
                raise ValueError(message)
    return merged_packs(states) if is_packed else merged_rows(states)


def merged_rows(states: list[State]) -> State:
    """Merge states of rows: the highest count of each split."""
    samples = [state["samples_consumed_per_split"] for state in states]
    positions = [
        state.get("positions_consumed_per_split", counts)
        for state, counts in zip(states, samples, strict=True)
    ]
    return states[0] | {
        "samples_consumed_per_split": furthest(samples),
        "positions_consumed_per_split": furthest(positions),
    }


def furthest(counts: list[list[int]]) -> list[int]:
    """Return the highest count of each split."""
    return [max(of_split) for of_split in zip(*counts, strict=False)]


def merged_packs(states: list[State]) -> State:
    """Merge packed states: each split from the state with most of its blocks."""
    num_splits = states[0]["num_splits"]
    for state in states:
        for key in ("samples_consumed_per_split", "blocks_emitted_per_split"):
            if len(state[key]) != num_splits:
                message = (
                    f"{key} has {len(state[key])} entries, but must contain one entry per "
                    f"logical split, of which there are {num_splits}"
                )
                raise ValueError(message)

    samples, blocks, buffers = [], [], {}
    for split in range(num_splits):
        owner = max(states, key=lambda state: progress(state, split))
        of_split = progress(owner, split)
        blocks.append(of_split[0])
        samples.append(of_split[1])
        buffer = buffer_of(owner, split)
        if buffer is not None:
            buffers[split] = deepcopy(buffer)
    if len(set(blocks)) > 1:
        message = (
            f"packed state dicts have {min(blocks)} to {max(blocks)} blocks per split: they were "
            "not captured at the same global step, or do not cover every rank"
        )
        raise ValueError(message)
    return states[0] | {
        "samples_consumed_per_split": samples,
        "blocks_emitted_per_split": blocks,
        "pack_buffers": buffers,
    }


def progress(state: State, split: int) -> tuple[int, int]:
    """Return the progress of a packed state in a split: blocks, then documents."""
    return (
        state["blocks_emitted_per_split"][split],
        state["samples_consumed_per_split"][split],
    )


def buffer_of(state: State, split: int) -> Any:
    """Return the tokens between blocks of a split. JSON turns the split number into a string."""
    buffers = state["pack_buffers"]
    return buffers.get(split, buffers.get(str(split)))
