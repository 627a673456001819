"""Who takes part: each arm is a library, a way to use it, and the function that opens a table so.

Arms are plain data: only the process that runs one imports its library. There is one module for each
library, `peers/<module>.py`; its functions go from a table and a seed to batches without end.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.child import function

OURS, LANCEDB, TAKE, SCAN = "lanceloader", "lancedb", "lance.take", "Lance scan"
LANCE_TORCH = "lance.torch"
ARROW, TENSORS, MATRIX, ITEMS = "Arrow", "dict of tensors", "one matrix", "list of rows"

TORCH, OWN = "torch's, exact", "its own, exact"
NONE, WINDOWS = "none", "inside windows"

LOADER = "loader()"
DIRECT = "loader(read='direct')"
RESIDENT = "loader(read='resident')"
STRATEGIES = (LOADER, DIRECT, RESIDENT)
DATA_LOADER = "DataLoader"
OUR_TAKE, PYLANCE_TAKE = "take", "pylance take"
IN_ORDER, IN_ORDER_OWN_SIZE = "in order", "in order, its own batch size"
COLUMNS, ONE_MATRIX = "a tensor per column", "one matrix"

TABLES = ("narrow", "embeddings", "text", "tokens", "image")
"""The tables that every peer reads."""
NUMBERS = ("narrow", "embeddings")
"""Tables whose rows everyone gives as a tensor for each column."""

SKIPS, STATE, REPLAYS = "draws the order, and skips", "state", "reads up to the step"


@dataclass(frozen=True, eq=False)
class Arm:
    library: str
    how: str
    output: str
    shuffle: str
    open: str
    """``module:function``, called with a table, a seed and ``options``."""
    options: dict[str, Any] = field(default_factory=dict)
    make: str = ""
    """Writes what the arm reads instead of the table, or what it keeps between epochs."""
    imports: tuple[str, ...] = ()
    """What is imported before the clock starts, beside what ``open``'s module imports."""
    resumes: str = REPLAYS
    state: str = ""
    """Makes the state to resume with, where the library makes it; not timed."""
    venv: str = ""
    """Its own environment, where the library does not get on with the others' versions."""
    is_restarted: bool = False
    """Whether its workers start anew each epoch: it is then timed inside one."""
    has_own_batches: bool = False
    """Whether its batches are of a size of its own."""

    @property
    def name(self) -> str:
        return f"{self.library}, {self.how}" if self.how else self.library

    def imported(self) -> Callable[..., Iterator[Any]]:
        for module in self.imports:
            importlib.import_module(module)
        return function(self.open)


# lanceloader, lancedb and pylance

FORMATS = {
    ARROW: "arrow",
    TENSORS: "torch_dict",
    MATRIX: "torch_matrix",
    ITEMS: "python",
}


def our_loader(
    output: str, how: str = LOADER, read: str | None = None, **options: Any
) -> Arm:
    options = {"format": FORMATS[output], "read": read, **options}
    filled = "resident" if read == "resident" else "rows"
    return Arm(
        OURS, how, output, OWN, "peers.loader:batches", options,
        make="" if read == "direct" else f"peers.loader:fill_{filled}",
        imports=(OURS,), resumes=STATE, state="peers.loader:state",
    )  # fmt: skip


def data_loader(
    library: str, output: str, how: str = DATA_LOADER, **options: Any
) -> Arm:
    """A Permutation in torch's DataLoader."""
    is_ours = library == OURS
    return Arm(
        library, how, output, TORCH, "peers.permutation:batches",
        {"library": library, "output": output, **options},
        make="peers.loader:fill_rows" if is_ours and "read" not in options else "",
        imports=(library, "lancedb.permutation"), resumes=SKIPS,
    )  # fmt: skip


def streaming_dataset(library: str, table: str, num_workers: int | None) -> Arm:
    how = (
        "StreamingDataset in DataLoader"
        if num_workers is None
        else f"StreamingDataLoader, {num_workers} workers"
    )
    return Arm(
        library, how, TENSORS if table in NUMBERS else ITEMS, OWN, "peers.streaming:batches",
        {"library": library, "num_workers": num_workers},
        make="peers.loader:fill_rows" if library == OURS else "",
        imports=(f"{library}.streaming",), resumes=STATE,
        is_restarted=bool(num_workers),
    )  # fmt: skip


def in_storage_order() -> list[Arm]:
    opened = {"loader(), in order": "batches", "iter()": "iterate"}
    options = {"format": "arrow", "shuffle": False}
    return [
        *(
            Arm(OURS, how, ARROW, NONE, f"peers.loader:{name}", options)
            for how, name in opened.items()
        ),
        SCAN_ARM,
        SCAN_OWN_SIZE,
    ]


TAKE_ARM = Arm(TAKE, DATA_LOADER, ARROW, TORCH, "peers.pylance:take")
SCAN_ARM = Arm(SCAN, IN_ORDER, ARROW, NONE, "peers.pylance:scan")
SCAN_OWN_SIZE = Arm(
    SCAN, IN_ORDER_OWN_SIZE, ARROW, NONE, "peers.pylance:scan", {"is_default": True},
    has_own_batches=True,
)  # fmt: skip
REFERENCE = Arm(OURS, "iter()", ARROW, OWN, "peers.loader:iterate", {"format": "arrow"})
"""What ``loader(shuffle=True)`` must give: only compared with."""

# Rows in memory, and copies in other formats


def in_memory(output: str, library: str, how: str, opened: str) -> Arm:
    return Arm(
        library, how, output, TORCH, f"peers.memory:{opened}", resumes=SKIPS
    )  # fmt: skip


ARROW_TAKE = in_memory(ARROW, "pyarrow in memory", "take", "take_arrow")
TORCH_COLUMNS = in_memory(TENSORS, "torch in memory", COLUMNS, "select_columns")
TORCH_MATRIX = in_memory(MATRIX, "torch in memory", ONE_MATRIX, "select_matrix")
INDEX_SELECT = in_memory(TENSORS, "torch in memory", "index_select", "select_columns")
MEMMAP = Arm(
    "numpy memmap of packed rows", "", TENSORS, TORCH, "peers.memory:gather_packed",
    make="peers.memory:pack",
)  # fmt: skip


def hugging_face(how: str, output: str, num_workers: int = 0) -> Arm:
    kind = "torch" if output == TENSORS else "arrow"
    return Arm(
        "HF datasets", how, output, TORCH, "peers.huggingface:map_style",
        {"kind": kind, "num_workers": num_workers}, make="peers.huggingface:make",
        resumes=SKIPS,
    )  # fmt: skip


def hugging_face_iterable(output: str) -> Arm:
    kind = "torch" if output == TENSORS else "arrow"
    return Arm(
        "HF datasets", "iterable, buffer of 10,000", output, WINDOWS,
        "peers.huggingface:iterable", {"kind": kind}, make="peers.huggingface:make",
    )  # fmt: skip


def by_record(
    library: str, how: str, module: str, shuffle: str, table: str, **options: Any
) -> Arm:
    """A library that reads a copy with a record for each row."""
    return Arm(
        library, how, TENSORS if table in NUMBERS else ITEMS, shuffle,
        f"peers.{module}:batches", options, make=f"peers.{module}:make",
        resumes=REPLAYS if module == "webdataset" else STATE,
        venv="mosaicml" if module == "mosaicml" else "",
    )  # fmt: skip


def peers_of(table: str) -> Iterator[Arm]:
    """Everyone who reads a table, with and without workers."""
    is_numbers = table in NUMBERS
    output = TENSORS if is_numbers else ARROW
    own = {"text": (ARROW, ITEMS), "image": (ARROW,)}.get(table, (TENSORS,))
    for kind in own:
        yield our_loader(kind)
    if table == "image":
        # Wide rows are read from the table's files; some peers hold them in memory.
        yield our_loader(ARROW, RESIDENT.replace("'", '"'), "resident")
    for library in (OURS, LANCEDB):
        for count in (0, 2):
            how = f"Permutation in DataLoader, {count} workers"
            yield data_loader(library, output, how, num_workers=count)
        for workers in (None, 0, 2):
            yield streaming_dataset(library, table, workers)
    yield INDEX_SELECT if is_numbers else ARROW_TAKE
    # Its Arrow slices drag the whole table through the pipe of a worker.
    for count in (0, 2) if is_numbers else (0,):
        yield hugging_face(f"map-style, {count} workers", output, count)
    yield hugging_face_iterable(output)
    if is_numbers:
        opened = "peers.grain:in_memory"
        yield Arm(
            "grain",
            "in memory",
            TENSORS,
            OWN,
            opened,
            imports=("lance",),
            resumes=STATE,
        )
    for count in (0, 2):
        arm = functools.partial(by_record, table=table, num_workers=count)
        spent = f"{count} workers"
        yield arm("grain", f"array_record, {spent}", "grain", OWN)
        yield arm("LitData", spent, "litdata", WINDOWS)
        for algorithm, shuffle in (("py1e", WINDOWS), ("naive", OWN)):
            how = f"{algorithm}, {spent}"
            yield arm(
                "MosaicML Streaming", how, "mosaicml", shuffle, algorithm=algorithm
            )
        yield arm("WebDataset", f"buffer of 1,000, {spent}", "webdataset", WINDOWS)


def readers_of(table: str) -> Iterator[Arm]:
    """Those without workers, at more outputs."""
    yield our_loader(ARROW)
    yield data_loader(OURS, ARROW)
    yield data_loader(LANCEDB, ARROW)
    yield TAKE_ARM
    yield SCAN_ARM
    if table == "image":
        yield our_loader(ARROW, DIRECT, "direct")
        yield data_loader(OURS, ARROW, f"{DATA_LOADER}, direct", read="direct")
        yield our_loader(ARROW, RESIDENT, "resident")
    else:
        yield SCAN_OWN_SIZE
    if table in (*NUMBERS, "tokens"):
        yield our_loader(TENSORS)
    if table in NUMBERS:
        yield data_loader(OURS, TENSORS)
        yield data_loader(LANCEDB, TENSORS)
        yield TORCH_COLUMNS
        yield MEMMAP
        yield hugging_face("map-style, torch", TENSORS)
    if table != "embeddings":
        yield ARROW_TAKE
    if table not in ("embeddings", "image"):
        yield hugging_face("map-style, arrow", ARROW)
    if table == "narrow":
        yield hugging_face_iterable(TENSORS)
    elif table != "mixed":
        yield by_record("LitData", "", "litdata", WINDOWS, table)


def followed() -> list[Arm]:
    """Who is followed over sizes of batches, rows and tables."""
    ways = [data_loader(library, TENSORS) for library in (OURS, LANCEDB)]
    return [our_loader(TENSORS), *ways, TORCH_COLUMNS, SCAN_ARM]
