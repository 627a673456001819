"""One state of those of all ranks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

State = dict[str, Any]

# What a state is of.
RUN_KEYS = "shuffle_seed", "num_splits", "epoch"
PACKING_KEYS = "pack_sequences", "eos_id", "pad_id", "blocks_per_epoch"


def merged(states: list[State]) -> State:
    """Merge state dicts; see ``StreamingDataset.merge_state_dicts``."""
    if not states:
        raise ValueError("merge_state_dicts requires at least one state dict")
    first = states[0]
    is_packed = "pack_buffers" in first
    keys = (*RUN_KEYS, *PACKING_KEYS) if is_packed else RUN_KEYS
    for state in states[1:]:
        if ("pack_buffers" in state) != is_packed:
            raise ValueError("cannot merge packed and unpacked state dicts")
        for key in (*keys, *(["plan"] if "plan" in first and "plan" in state else [])):
            if state[key] != first[key]:
                message = f"{key} mismatch across state dicts: {state[key]!r} != {first[key]!r}"
                raise ValueError(message)
    return merged_packs(states) if is_packed else merged_rows(states)


def merged_rows(states: list[State]) -> State:
    """Take the furthest of each split."""
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
    """Give the highest count of each split."""
    return [max(of_split) for of_split in zip(*counts, strict=False)]


def merged_packs(states: list[State]) -> State:
    """Take each split from the state that has most of it."""
    num_splits = states[0]["num_splits"]
    for state in states:
        for key in ("samples_consumed_per_split", "blocks_emitted_per_split"):
            if len(state[key]) != num_splits:
                message = f"{key} must contain one entry per logical split"
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
            f"packed state dicts have given {min(blocks)} to {max(blocks)} blocks per split: "
            "they were not captured at the same global step or do not cover every rank"
        )
        raise ValueError(message)
    return states[0] | {
        "samples_consumed_per_split": samples,
        "blocks_emitted_per_split": blocks,
        "pack_buffers": buffers,
    }


def progress(state: State, split: int) -> tuple[int, int]:
    """Give how far a packed state is in a split: blocks, then documents."""
    return (
        state["blocks_emitted_per_split"][split],
        state["samples_consumed_per_split"][split],
    )


def buffer_of(state: State, split: int) -> Any:
    """Give the tokens between blocks of a split; JSON makes strings of its number."""
    buffers = state["pack_buffers"]
    return buffers.get(split, buffers.get(str(split)))
