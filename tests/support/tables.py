"""Tables for tests: every Arrow type, every feature of Lance, all seeded."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from pathlib import Path

import numpy as np
import pyarrow as pa


def every_type(num_rows: int, *, nulls: bool, seed: int = 0) -> pa.Table:
    """A column of every type a table may hold, named after it."""
    rng = random.Random(seed)
    start = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)

    def column(kind, value):
        def cell(i):
            return None if nulls and rng.random() < 0.3 else value(i)

        return pa.array([cell(i) for i in range(num_rows)], kind)

    def word():
        return "".join(rng.choices("abcdé ", k=rng.randrange(12)))

    columns = {
        "int8": column(pa.int8(), lambda i: i % 128 - 64),
        "int16": column(pa.int16(), lambda i: i - 500),
        "int32": column(pa.int32(), lambda i: i * 1000),
        "int64": column(pa.int64(), lambda i: i << 33),
        "uint8": column(pa.uint8(), lambda i: i % 256),
        "uint16": column(pa.uint16(), lambda i: i),
        "uint32": column(pa.uint32(), lambda i: i + 2**31),
        "uint64": column(pa.uint64(), lambda i: i + 2**40),
        "float16": column(pa.float16(), lambda i: np.float16(i / 4)),
        "float32": column(pa.float32(), lambda i: i / 3),
        "float64": column(pa.float64(), lambda i: i / 7),
        "bool": column(pa.bool_(), lambda i: i % 3 == 0),
        "string": column(pa.string(), lambda _: word()),
        "large_string": column(pa.large_string(), lambda _: word()),
        "binary": column(pa.binary(), lambda _: word().encode()),
        "large_binary": column(pa.large_binary(), lambda _: word().encode()),
        "fixed_binary": column(pa.binary(3), lambda i: i.to_bytes(3, "big")),
        "timestamp": column(
            pa.timestamp("us", tz="UTC"), lambda i: start + dt.timedelta(hours=i)
        ),
        "date32": column(pa.date32(), lambda i: dt.date(2013, 1, 1) + dt.timedelta(i)),
        "duration": column(pa.duration("ms"), lambda i: dt.timedelta(seconds=i)),
        "time64": column(pa.time64("us"), lambda i: dt.time(i % 24, i % 60)),
        "decimal": column(pa.decimal128(9, 2), lambda i: decimal.Decimal(i) / 4),
        "list": column(pa.list_(pa.int32()), lambda i: list(range(i % 5))),
        "large_list": column(pa.large_list(pa.float32()), lambda i: [i / 2] * (i % 3)),
        "point": column(pa.list_(pa.float32(), 4), lambda i: [i, i / 2, -i, 0.5]),
        "struct": column(
            pa.struct({"x": pa.int32(), "s": pa.string()}),
            lambda i: {"x": i, "s": word()},
        ),
        "struct_list": column(
            pa.list_(pa.struct({"x": pa.int32()})),
            lambda i: [{"x": k} for k in range(i % 3)],
        ),
        "dictionary": column(pa.string(), lambda i: "abc"[i % 3]).dictionary_encode(),
    }
    return pa.table(columns)


def narrow(num_rows: int, seed: int = 0) -> pa.Table:
    """An id, three numbers and a label: the table most tests are about."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(num_rows, dtype=np.int64),
            "x": rng.random(num_rows, dtype=np.float32),
            "y": rng.random(num_rows),
            "label": rng.integers(0, 5, num_rows).astype(np.int32),
            "name": [f"row {i}" for i in range(num_rows)],
        }
    )


def with_gaps(path: Path) -> str:
    """Write 3,000 rows in three fragments, delete some, and return the path."""
    # Programs that do without pylance use the other tables.
    import lance

    dataset = lance.write_dataset(narrow(3000), path, max_rows_per_file=1100)
    dataset.delete("id % 7 = 3")
    return str(path)
