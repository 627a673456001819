"""Who is raced in processes of their own: lanceloader, and each peer at its best.

An arm is plain data: the process that runs it imports only what that arm needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OURS = "lanceloader"
EXACT, WINDOWED = "exact", "windowed"
TENSORS, ARROW, ITEMS = "dict of tensors", "Arrow", "list of rows"

TABLES = ("narrow", "embeddings", "text", "tokens", "image")
NUMBERS = ("narrow", "embeddings")
"""Tables whose rows everyone gives as a tensor for each column."""
MOSAIC_VENV = "mosaicml"

LOADER = "loader()"
RESIDENT = 'loader(read="resident")'
SKIPS, STATE, REPLAYS = "draws the order, and skips", "state", "reads up to the step"


@dataclass(frozen=True)
class Arm:
    """``open`` is ``module:function``, called with a table, a seed and ``options``."""

    library: str
    how: str
    output: str
    shuffle: str
    open: str
    imports: tuple[str, ...]
    """What is imported before the clock starts."""
    options: dict[str, Any] = field(default_factory=dict)
    make: str = ""
    """Writes what the arm reads instead of the table; not timed."""
    resumes: str = REPLAYS
    state: str = ""
    """Gives the state to resume with, where the library makes it; not timed."""
    venv: str = ""
    """Its own environment, where the library does not get on with the others' versions."""
    is_restarted: bool = False
    """Whether its workers start anew each epoch: it is then timed inside one."""

    @property
    def name(self) -> str:
        return f"{self.library}, {self.how}" if self.how else self.library

    @property
    def is_ours(self) -> bool:
        return self.library == OURS


def arms(table: str) -> Iterator[Arm]:
    """Give everyone who reads a table."""
    yield from our_loader(table)
    for library in (OURS, "lancedb"):
        yield from permutations(library, table)
        yield from streamings(library, table)
    yield from in_memory(table)
    yield from hugging_face(table)
    yield from by_record(table)


def our_loader(table: str) -> Iterator[Arm]:
    outputs = {"text": ("arrow", "python"), "image": ("arrow",)}
    ways: list[tuple[str, dict[str, Any]]] = [(LOADER, {})]
    if table == "image":
        # Wide rows are read from the table's files; those who hold them in memory are raced so, too.
        ways.append((RESIDENT, {"read": "resident"}))
    for output, (how, options) in itertools.product(
        outputs.get(table, ("torch_dict",)), ways
    ):
        yield Arm(
            OURS,
            how,
            {"arrow": ARROW, "python": ITEMS, "torch_dict": TENSORS}[output],
            EXACT,
            "mapped:loader",
            ("lanceloader", "lancedb", "torch"),
            {"output": output, **options},
            make="mapped:fill_rows" if how == LOADER else "mapped:fill_resident",
            resumes=STATE,
            state="mapped:loader_state",
        )


def permutations(library: str, table: str) -> Iterator[Arm]:
    is_numbers = table in NUMBERS
    for num_workers in (0, 2):
        yield Arm(
            library,
            f"Permutation in DataLoader, {workers(num_workers)}",
            TENSORS if is_numbers else ARROW,
            EXACT,
            "mapped:permutation",
            (library, "lancedb.permutation", "torch"),
            {
                "library": library,
                "output": "tensors" if is_numbers else "arrow",
                "num_workers": num_workers,
            },
            make="mapped:fill_rows" if library == OURS else "",
            resumes=SKIPS,
        )


def streamings(library: str, table: str) -> Iterator[Arm]:
    for num_workers in (None, 0, 2):
        name = (
            "StreamingDataset in DataLoader"
            if num_workers is None
            else f"StreamingDataLoader, {workers(num_workers)}"
        )
        yield Arm(
            library,
            name,
            TENSORS if table in NUMBERS else ITEMS,
            EXACT,
            "streams:streaming",
            (f"{library}.streaming", "lancedb", "torch"),
            {"library": library, "num_workers": num_workers},
            make="mapped:fill_rows" if library == OURS else "",
            resumes=STATE,
            is_restarted=bool(num_workers),
        )


def in_memory(table: str) -> Iterator[Arm]:
    is_numbers = table in NUMBERS
    yield Arm(
        "torch in memory" if is_numbers else "pyarrow in memory",
        "index_select" if is_numbers else "take",
        TENSORS if is_numbers else ARROW,
        EXACT,
        "mapped:in_memory",
        ("lance", "torch"),
        {"output": "tensors" if is_numbers else "arrow"},
        resumes=SKIPS,
    )


def hugging_face(table: str) -> Iterator[Arm]:
    is_numbers = table in NUMBERS
    kind = "torch" if is_numbers else "arrow"
    # Its Arrow slices drag the whole table through the pipe of a worker.
    for num_workers in (0, 2) if is_numbers else (0,):
        yield Arm(
            "HF datasets",
            f"map-style, {workers(num_workers)}",
            TENSORS if is_numbers else ARROW,
            EXACT,
            "mapped:hf_map",
            ("datasets", "torch"),
            {"kind": kind, "num_workers": num_workers},
            make="mapped:make_hf",
            resumes=SKIPS,
        )
    yield Arm(
        "HF datasets",
        "iterable, buffer of 10,000",
        TENSORS if is_numbers else ARROW,
        WINDOWED,
        "mapped:hf_stream",
        ("datasets", "torch"),
        {"kind": kind},
        make="mapped:make_hf",
    )


def by_record(table: str) -> Iterator[Arm]:
    output = TENSORS if table in NUMBERS else ITEMS
    if table in NUMBERS:
        yield Arm(
            "grain", "in memory", TENSORS, EXACT, "shards:grain_in_memory",
            ("grain", "lance", "torch"), resumes=STATE,
        )  # fmt: skip
    for num_workers in (0, 2):
        options = {"num_workers": num_workers}
        spent = workers(num_workers)
        yield Arm(
            "grain", f"array_record, {spent}", output, EXACT, "shards:grain_records",
            ("grain", "torch"), options, make="shards:make_array_record", resumes=STATE,
        )  # fmt: skip
        yield Arm(
            "LitData", spent, output, WINDOWED, "shards:litdata",
            ("litdata", "torch"), options, make="shards:make_litdata", resumes=STATE,
        )  # fmt: skip
        for algorithm, shuffle in (("py1e", WINDOWED), ("naive", EXACT)):
            yield Arm(
                "MosaicML Streaming",
                f"{algorithm}, {spent}",
                output,
                shuffle,
                "shards:mosaic",
                ("streaming", "torch"),
                options | {"algorithm": algorithm},
                make="shards:make_mosaic",
                resumes=STATE,
                venv=MOSAIC_VENV,
            )
        yield Arm(
            "WebDataset", f"buffer of 1,000, {spent}", output, WINDOWED,
            "shards:webdataset", ("webdataset", "torch"), options,
            make="shards:make_webdataset",
        )  # fmt: skip


def workers(count: int) -> str:
    return f"{count} workers"
