"""Every strategy reads the same rows: any table, columns, order, batch and budget."""

from __future__ import annotations

import datetime as dt
import decimal
import tempfile
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tables
from equality import same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vector_tables import STRATEGIES, table_of

pytestmark = pytest.mark.timeout(1800)

words = st.text("abé \0", max_size=9)
small = st.none() | st.integers(0, 9)
VALUES = {
    pa.int8(): st.integers(-128, 127),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.integers(-1000, 1000).map(np.float16),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): words,
    pa.large_string(): words,
    pa.binary(): st.binary(max_size=9),
    # Among them values that are wider than all the others together.
    pa.large_binary(): st.integers(0, 3000).map(lambda size: b"\xff" * size),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(9, 2): st.integers(-(10**8), 10**8).map(
        lambda cents: decimal.Decimal(cents) / 100
    ),
    pa.timestamp("us", tz="UTC"): st.datetimes(
        dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)
    ),
    pa.timestamp("ns"): st.integers(-(2**62), 2**62),
    pa.date32(): st.dates(),
    pa.duration("ms"): st.integers(-(10**9), 10**9),
    pa.list_(pa.float32(), 3): st.lists(small, min_size=3, max_size=3),
    pa.list_(pa.bool_(), 2): st.lists(st.booleans(), min_size=2, max_size=2),
    pa.list_(pa.int32()): st.lists(small, max_size=3),
    pa.large_list(pa.string()): st.lists(st.none() | words, max_size=3),
    pa.list_(pa.list_(pa.int16())): st.lists(
        st.none() | st.lists(small, max_size=2), max_size=2
    ),
    pa.struct({"a": pa.int32(), "b": pa.string()}): st.fixed_dictionaries(
        {"a": small, "b": st.none() | words}
    ),
    pa.struct({"in": pa.struct({"x": pa.bool_()}), "l": pa.list_(pa.int8())}): (
        st.fixed_dictionaries(
            {
                "in": st.none() | st.fixed_dictionaries({"x": st.booleans()}),
                "l": st.none() | st.lists(small, max_size=2),
            }
        )
    ),
    pa.list_(pa.struct({"a": pa.int64()})): st.lists(
        st.none() | st.fixed_dictionaries({"a": small}), max_size=2
    ),
}
WORD = pa.dictionary(pa.int32(), pa.string())
VALUES[WORD] = st.sampled_from(["x", "yy", "", "é"])


def column(draw, kind, num_rows):
    """A field and its values; all of them null, some, or none, and then perhaps not nullable."""
    pool = draw(st.lists(VALUES[kind], min_size=1, max_size=8))
    has_nulls = draw(st.sampled_from(["some", "all", "none", "not nullable"]))
    if has_nulls in ("some", "all"):
        pool = [None] if has_nulls == "all" else [*pool, None]
    seed = draw(st.integers(0, 2**32 - 1))
    picks = np.random.default_rng(seed).integers(0, len(pool), num_rows)
    cells = [pool[pick] for pick in picks]
    if kind == WORD:
        values = pa.array(cells, pa.string()).dictionary_encode()
    else:
        values = pa.array(cells, kind)
    metadata = draw(st.sampled_from([None, {"unit": "m"}]))
    field = pa.field("c", kind, has_nulls != "not nullable", metadata)
    return field, values


def written(draw, folder):
    """A dataset in fragments, some of them short of rows, and what is left in it."""
    num_rows = draw(st.sampled_from([1, 2, 7, 40, 300, 3000]))
    fields = [pa.field("id", pa.int64())]
    values = [pa.array(range(num_rows), pa.int64())]
    for at, kind in enumerate(
        draw(st.lists(st.sampled_from(list(VALUES)), max_size=5))
    ):
        field, array = column(draw, kind, num_rows)
        fields.append(field.with_name(f"c{at}"))
        values.append(array)
    metadata = draw(st.sampled_from([None, {"of": "table"}]))
    table = pa.table(values, schema=pa.schema(fields, metadata))
    path = str(Path(tempfile.mkdtemp(dir=folder)) / "t.lance")
    step = max(num_rows // draw(st.integers(1, 4)), 1)
    # Lance 14 cannot write slices of structs in structs, so each fragment is an array of its own.
    pieces = [
        table.take(places)
        for places in np.split(np.arange(num_rows), range(step, num_rows, step))
    ]
    dataset = lance.write_dataset(
        pa.concat_tables(pieces),
        path,
        max_rows_per_file=step,
        data_storage_version=draw(st.sampled_from(["2.1", "2.2"])),
    )
    gone = draw(st.lists(st.integers(0, num_rows - 1), max_size=8))
    if gone:
        dataset.delete(f"id IN ({', '.join(map(str, gone))})")
        keep = pc.invert(pc.is_in(table["id"], pa.array(gone, pa.int64())))
        table = table.filter(keep)
    if draw(st.integers(0, 3)) == 0:
        dataset.add_columns({"later": "id * 3"})
        table = table.append_column("later", pc.multiply(table["id"], 3))
    return path, table


def ordered(draw, path, table):
    """A permutation in any order, and the rows of ``table`` it must give."""
    perm = ll.open(path)
    rows = np.arange(table.num_rows)
    if draw(st.integers(0, 4)) == 0 and len(rows):
        # A list of rows, as LanceDB's permutation tables have them.
        rows = np.random.default_rng(draw(st.integers(0, 9))).choice(rows, len(rows))
        dataset = lance.dataset(path)
        ids = dataset.to_table(columns=[], with_row_id=True)["_rowid"]
        plan = {
            "row_id": ids.take(rows),
            "split_id": pa.array([0] * len(rows), "uint64"),
        }
        perm = ll.Permutation.from_tables(dataset, pa.table(plan), 0)
    for verb in draw(st.lists(st.sampled_from(VERBS), max_size=3)):
        if len(rows):
            perm = verb(draw, perm)
            # The table's rows by place, which ids say as they are unique.
            places = (
                perm.select_columns(["id"]).with_format("numpy").with_read("direct")
            )
            rows = np.concatenate([*places.iter(10_000), np.empty((0, 1), int)])[:, 0]
            rows = np.searchsorted(table["id"].to_numpy(), rows)
    return perm, rows


def part_of(draw, perm):
    """Some of the rows, which start afresh: skip and take would replace those before."""
    perm, size = perm.with_repeat(1), len(perm)
    start = draw(st.integers(0, size))
    return perm.with_skip(start).with_take(draw(st.integers(0, size - start)))


VERBS = [
    lambda draw, perm: perm.shuffle(draw(st.integers(0, 9))),
    lambda draw, perm: perm.shuffle(draw(st.integers(0, 9)), epoch=3),
    lambda draw, perm: perm.shuffle(1, clump_size=draw(st.integers(2, 9))),
    lambda draw, perm: perm.shuffle(
        1, block_size=draw(st.integers(1, 64)), window_blocks=draw(st.integers(1, 9))
    ),
    lambda draw, perm: perm.split([len(perm)], seed=draw(st.integers(0, 9)))[0],
    lambda draw, perm: perm.shard(draw(st.integers(0, 2)), 3),
    lambda draw, perm: perm.filter(np.arange(len(perm)) % draw(st.integers(2, 5)) != 0),
    lambda draw, perm: perm.with_repeat(draw(st.integers(0, 3))),
    lambda draw, perm: perm.sample(0.5, seed=draw(st.integers(0, 9))),
    part_of,
]


def projected(draw, perm, table):
    """Some columns, fields of structs, and row ids; and what they must be."""
    known = {name: table[name] for name in table.column_names}
    for name in table.column_names:
        if pa.types.is_struct(table[name].type):
            for field in table[name].type:
                known[f"{name}.{field.name}"] = pc.struct_field(table[name], field.name)
    names = st.lists(
        st.sampled_from(sorted(known)), min_size=1, max_size=5, unique=True
    )
    names = draw(st.just(table.column_names) | names)
    return names, pa.table({name: known[name] for name in names})


def outcome(work):
    """What reading gives, or the error that it ends with."""
    try:
        return work()
    except (ValueError, ll.errors.UnsupportedError) as error:
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strategies")


# A limit of 100 bytes may turn out too small after rows were packed: they are then read directly.
@pytest.mark.filterwarnings("ignore::lanceloader.errors.DegradedWarning")
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_every_way_to_read_gives_the_same(folder, data):
    draw = data.draw
    path, table = written(draw, folder)
    perm, rows = ordered(draw, path, table)
    names, columns = projected(draw, perm, table)
    perm = perm.select_columns(names).with_format("arrow")
    wanted = columns.take(pa.array(rows, pa.int64())).combine_chunks()
    with_ids = draw(st.booleans())
    if with_ids:
        perm = perm.select_columns([*names, "_rowid"])
        ids = lance.dataset(path).to_table(columns=[], with_row_id=True)["_rowid"]
        ids = ids.take(pa.array(rows, pa.int64()))
        wanted = wanted.append_column("_rowid", ids)
    size = draw(st.sampled_from([1, 3, 64, 1000, 100_000]))
    if size < 64:
        perm, wanted = perm.with_take(min(len(perm), 200)), wanted.slice(0, 200)
    limit = draw(st.sampled_from([None, "1GiB", "1MiB", "100kB", "10kB", 100]))
    places = draw(st.lists(st.integers(0, max(len(perm) - 1, 0)), max_size=50))
    places = places if len(perm) else []
    is_packable = WORD not in columns.schema.types
    schema = perm.schema
    for read in STRATEGIES:
        cache = draw(st.sampled_from(["", str(folder / "rows")]))
        view = perm.with_read(
            read, memory_limit=limit, cache_dir=cache, threads=draw(st.integers(1, 3))
        )
        what = f"{read} {limit} {cache}"
        for found in (
            outcome(lambda view=view: list(view.loader(size))),
            outcome(lambda view=view: list(view.iter(size))),
        ):
            if isinstance(found, Exception):
                check_refusal(found, read, limit, is_packable)
                continue
            assert all(b.schema.equals(schema, check_metadata=True) for b in found)
            sizes = [batch.num_rows for batch in found]
            full, rest = divmod(wanted.num_rows, size)
            assert sizes == [size] * full + [rest] * bool(rest), what
            assert equal(pa.Table.from_batches(found, schema), wanted), what
        for take in (view.take_offsets, view.__getitems__):
            found = outcome(lambda take=take: pa.Table.from_batches([take(places)]))
            if isinstance(found, Exception):
                check_refusal(found, read, limit, is_packable)
            else:
                assert found.schema.equals(schema, check_metadata=True)
                assert equal(found, wanted.take(pa.array(places, pa.int64()))), what


def check_refusal(error, read, limit, is_packable):
    """Only what was asked for by name may be refused, for one of two reasons."""
    assert read in ("resident", "external"), repr(error)
    if isinstance(error, ll.errors.UnsupportedError):
        assert not is_packable, repr(error)
        assert "cannot be packed" in str(error)
    else:
        assert limit not in (None, "1GiB"), repr(error)
        assert "memory_limit" in str(error), repr(error)


def equal(found: pa.Table, wanted: pa.Table) -> bool:
    """Equal in values, names, types; dictionaries by what they stand for."""
    assert found.column_names == wanted.column_names
    for got, want in zip(found.columns, wanted.columns, strict=True):
        assert got.type == want.type
        if got.type == WORD:
            got, want = got.cast(pa.string()), want.cast(pa.string())
        if not got.combine_chunks().equals(want.combine_chunks()):
            return False
        got.validate(full=True)
    return True


@pytest.mark.parametrize("kind", ["dictionary", "nested dictionary"])
def test_types_that_cannot_be_packed(tmp_path, kind):
    words = pa.array(["a", "b", None, "a"] * 100).dictionary_encode()
    if kind == "nested dictionary":
        words = pa.StructArray.from_arrays([words], ["inside"])
    table = pa.table({"id": range(400), "words": words})
    lance.write_dataset(table, tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance").shuffle(1).with_format("arrow")
    wanted = perm.with_read("direct").to_arrow().to_pylist()
    loader = perm.loader(64)
    assert table_of(loader).to_pylist() == wanted
    assert loader.stats().rows_packed == 0
    for read in ("resident", "external"):
        with pytest.raises(ll.errors.UnsupportedError, match=r"`(words|inside)`"):
            list(perm.loader(64, read=read))
        others = perm.select_columns(["id"]).loader(64, read=read)
        assert table_of(others).num_rows == 400
    with pytest.raises(ll.errors.UnsupportedError, match=r"`(words|inside)`"):
        perm.with_read("resident").take_offsets([3, 1, 2, 0, 9, 5])


def kinds(num_rows, *, nulls):
    """Every type that a dict of columns can hold."""
    table = tables.every_type(num_rows, nulls=nulls)
    table = table.drop_columns(["dictionary", "struct_list"])
    more = {
        "halves": pa.float16(),
        "bytes": pa.uint8(),
        "doubles": pa.float64(),
        "longs": pa.int64(),
    }
    for name, kind in more.items():
        values = np.arange(3 * num_rows, dtype=kind.to_pandas_dtype())
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values, kind), 3)
        table = table.append_column(name, vectors)
    flags = pa.array([k % 3 == 0 for k in range(2 * num_rows)])
    return table.append_column("flags", pa.FixedSizeListArray.from_arrays(flags, 2))


@pytest.fixture(scope="module", params=[False, True], ids=["full", "nulls"])
def every_kind(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "t.lance"
    lance.write_dataset(kinds(900, nulls=request.param), path, max_rows_per_file=400)
    return path, request.param


FILL = {"uint8": 7, "float32": 1.5, "bool": True, "string": "?", "point": [0, 1, 2, 3]}


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("format", ["numpy_dict", "torch_dict"])
def test_dicts_of_columns_are_those_of_arrow(every_kind, format, read):
    """The core hands over whole runs of columns; the transform goes by Arrow arrays."""
    path, has_nulls = every_kind
    rows = ll.open(path).with_read(read).with_take(850)
    mask = {"nulls": "mask"}
    for view, options in (
        (rows, mask),
        (rows.shuffle(1), mask),
        (rows.shuffle(1), {} if not has_nulls else mask),
        (
            rows.select_columns(list(FILL)).shuffle(2),
            {"nulls": "fill", "fill_value": FILL},
        ),
        (rows.select_columns(["int32", "bytes", "float16", "uint8"]), mask),
        (rows.select_columns(["longs", "doubles", "halves", "bytes"]).shuffle(3), {}),
    ):
        served = view.with_format(format, **options)
        plain = view.with_format("arrow").with_read("direct")
        for size in (1, 64, 850, 1000):
            if size == 1:
                view = view.with_take(9)
                served, plain = served.with_take(9), plain.with_take(9)
            pairs = zip(served.loader(size), plain.iter(size), strict=True)
            for found, batch in pairs:
                assert same(dict(found), dict(served.transform_fn(batch)))
        empty = served.take_offsets([])
        assert same(dict(empty), dict(served.transform_fn(plain.take_offsets([]))))


@pytest.mark.parametrize("format", ["numpy_dict", "torch_dict"])
def test_nulls_that_a_dict_cannot_hold(every_kind, format):
    path, has_nulls = every_kind
    if not has_nulls:
        pytest.skip("there are none")
    view = ll.open(path).select_columns(["int32"]).with_format(format)
    with pytest.raises(ll.errors.FormatError, match=r'`int32` has .* `nulls="mask"`'):
        list(view.loader(100))
