"""Columns of dictionaries whose values differ from table to table, or from chunk to chunk."""

from __future__ import annotations

import lanceloader as ll
import pyarrow as pa
import pytest


def kinds(start: int, count: int, names: list[str]) -> pa.Table:
    """Rows with a name in turn, some none, also within a struct and a list."""
    texts = [None if k % 7 == 3 else names[k % len(names)] for k in range(count)]
    coded = pa.array(texts).dictionary_encode()
    return pa.table(
        {
            "id": range(start, start + count),
            "kind": coded,
            "in_struct": pa.StructArray.from_arrays([coded], ["kind"]),
            "in_list": pa.ListArray.from_arrays(range(count + 1), coded),
        }
    )


def halves() -> list[pa.Table]:
    """Two tables that share two of five names each."""
    return [kinds(0, 300, list("abcde")), kinds(300, 300, list("edxyz"))]


@pytest.fixture(params=["chunks", "mixture", "chunks and mixture"])
def view(request):
    whole = ll.open(pa.concat_tables(halves()))
    if request.param == "chunks":
        return whole
    if request.param == "mixture":
        return ll.mix(list(map(ll.open, halves())))
    return ll.mix([whole, ll.open(kinds(600, 30, ["q", "a"]))])


def wanted(column: str) -> dict[int, object]:
    tables = [*halves(), kinds(600, 30, ["q", "a"])]
    return {row["id"]: row[column] for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [3, 100, 1000])
def test_values_of_a_batch_are_unlike_each_other(view, shuffle, batch_size):
    options = {"shuffle": True, "seed": 1} if shuffle else {}
    for batch in view.loader(batch_size, format="arrow", **options):
        nested = [
            batch["in_struct"].field("kind"),
            batch["in_list"].values,
            batch["kind"],
        ]
        for column in nested:
            values = column.dictionary.to_pylist()
            assert len(set(values)) == len(values)
        for name in ("kind", "in_struct", "in_list"):
            rows = wanted(name)
            assert batch[name].to_pylist() == [rows[k] for k in batch["id"].to_pylist()]
        batch.validate(full=True)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_pandas_takes_them(view, on_error):
    rows, found = wanted("kind"), 0
    loader = view.loader(
        100,
        shuffle=True,
        seed=1,
        format="pandas",
        transform=lambda frame: frame,
        on_error=on_error,
    )
    for frame in loader:
        assert list(
            frame["kind"].astype(object).where(frame["kind"].notna(), None)
        ) == [rows[k] for k in frame["id"]]
        found += len(frame)
    assert found == view.num_rows


def test_tables_of_the_same_values_keep_their_keys():
    tables = [kinds(start, 50, list("abcde")) for start in (0, 50)]
    for batch in ll.mix(list(map(ll.open, tables))).loader(4, format="arrow"):
        assert batch["kind"].dictionary == tables[0]["kind"].chunk(0).dictionary
