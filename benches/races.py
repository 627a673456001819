"""Which races are run: the table, the size of a batch, and who takes part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contenders import (
    DATA_LOADER_DIRECT,
    IN_ORDER,
    LANCE_SCAN,
    LANCE_SCAN_DEFAULT,
    LANCEDB_ARROW,
    LANCEDB_TENSORS,
    LOADER_ARROW,
    LOADER_DIRECT,
    LOADER_MATRIX,
    LOADER_RESIDENT,
    LOADER_TENSORS,
    OURS_ARROW,
    OURS_TENSORS,
    TAKE_ARROW,
    Contender,
)
from peers import (
    HF_ITERABLE,
    HF_MAP_ARROW,
    HF_MAP_TORCH,
    LITDATA_ITEMS,
    LITDATA_STACKED,
    PACKED,
    TAKE_IN_MEMORY,
    TORCH_COLUMNS,
    TORCH_MATRIX,
)
from tables import BenchTable

TABLE = "table"
IN_STORAGE_ORDER = "in order"
BATCH_SIZE = "batch size"
WIDTH = "width"
ROWS = "rows"

ARROW_READERS = (LOADER_ARROW, OURS_ARROW, LANCEDB_ARROW, TAKE_ARROW, LANCE_SCAN)
CURVES = (LOADER_TENSORS, OURS_TENSORS, LANCEDB_TENSORS, TORCH_COLUMNS, LANCE_SCAN)
"""Who is followed over sizes of batches, rows and tables."""
LISTED_ROWS = 20_000_000
"""Above this, nobody is asked to shuffle a Python list of positions: it takes gigabytes."""

BY_TABLE: dict[str, Sequence[Contender]] = {
    "narrow": (
        *ARROW_READERS,
        LANCE_SCAN_DEFAULT,
        TAKE_IN_MEMORY,
        HF_MAP_ARROW,
        LOADER_TENSORS,
        OURS_TENSORS,
        LANCEDB_TENSORS,
        TORCH_COLUMNS,
        PACKED,
        HF_MAP_TORCH,
        HF_ITERABLE,
    ),
    "embeddings": (
        *ARROW_READERS,
        LANCE_SCAN_DEFAULT,
        LOADER_TENSORS,
        OURS_TENSORS,
        LANCEDB_TENSORS,
        TORCH_COLUMNS,
        PACKED,
        HF_MAP_TORCH,
        LITDATA_STACKED,
    ),
    "text": (
        *ARROW_READERS,
        LANCE_SCAN_DEFAULT,
        TAKE_IN_MEMORY,
        HF_MAP_ARROW,
        LITDATA_ITEMS,
    ),
    "tokens": (
        *ARROW_READERS,
        LANCE_SCAN_DEFAULT,
        LOADER_TENSORS,
        TAKE_IN_MEMORY,
        HF_MAP_ARROW,
        LITDATA_ITEMS,
    ),
    "image": (
        *ARROW_READERS,
        LOADER_DIRECT,
        DATA_LOADER_DIRECT,
        LOADER_RESIDENT,
        TAKE_IN_MEMORY,
        LITDATA_ITEMS,
    ),
    "mixed": (*ARROW_READERS, LANCE_SCAN_DEFAULT, TAKE_IN_MEMORY, HF_MAP_ARROW),
}
BATCH_SIZES = (64, 256, 1024, 4096, 16_384)
WIDTHS = (1, 4, 16, 64)
NUM_ROWS = (100_000, 1_000_000, 10_000_000)
LARGE_NUM_ROWS = (*NUM_ROWS, 100_000_000)


@dataclass(frozen=True)
class Race:
    """A table read by several, by turns."""

    kind: str
    table: BenchTable
    contenders: Sequence[Contender]

    @property
    def name(self) -> str:
        table = self.table
        return {
            TABLE: table.name,
            IN_STORAGE_ORDER: f"{table.name}, in order",
            BATCH_SIZE: f"{table.name}, batches of {table.batch_size:,}",
            WIDTH: f"{table.name}, {len(table.columns or ())} columns",
            ROWS: f"{table.name}, {table.num_rows:,} rows",
        }[self.kind] + (
            ", as one matrix" if self.kind == TABLE and table.columns else ""
        )


def table_races(table: BenchTable) -> Iterator[Race]:
    """Everyone on one table; first shuffled, then in order."""
    yield Race(TABLE, table, BY_TABLE[table.name])
    if table.name == "narrow":
        yield Race(TABLE, table.features(), (LOADER_MATRIX, TORCH_MATRIX))
    large = min(table.large_batch_size, table.num_rows // 4)
    in_order = [
        one
        for one in IN_ORDER
        if table.name != "image" or one is not LANCE_SCAN_DEFAULT
    ]
    yield Race(IN_STORAGE_ORDER, table.of(batch_size=large), in_order)


def batch_size_races(table: BenchTable) -> Iterator[Race]:
    for batch_size in BATCH_SIZES:
        yield Race(BATCH_SIZE, table.of(batch_size=batch_size), CURVES)


def width_races(table: BenchTable) -> Iterator[Race]:
    for width in WIDTHS:
        yield Race(WIDTH, table.features(width), CURVES)


def rows_race(table: BenchTable) -> Race:
    is_listed = table.num_rows <= LISTED_ROWS
    lists = (OURS_TENSORS, LANCEDB_TENSORS)
    return Race(ROWS, table, [one for one in CURVES if is_listed or one not in lists])
