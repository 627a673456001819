"""Lance tables with every feature a reader must know, made by pylance and lancedb."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tables

FEATURES = {}


def feature(make):
    """Registers a function that makes a table at a path and returns a dataset of it."""
    FEATURES[make.__name__] = make
    return make


@feature
def plain(path):
    return lance.write_dataset(tables.narrow(200), path)


@feature
def several_fragments(path):
    return lance.write_dataset(tables.narrow(200), path, max_rows_per_file=30)


@feature
def one_row_fragments(path):
    return lance.write_dataset(tables.narrow(7), path, max_rows_per_file=1)


@feature
def empty(path):
    return lance.write_dataset(tables.narrow(0), path)


@feature
def deletions(path):
    dataset = lance.write_dataset(tables.narrow(200), path, max_rows_per_file=40)
    dataset.delete("id < 3 or (id > 20 and id < 29) or id = 40 or id = 79")
    dataset.delete("id >= 120 and id < 160")
    return dataset


@feature
def many_deletions(path):
    dataset = lance.write_dataset(tables.narrow(20_000), path)
    dataset.delete("id % 3 = 1")
    return dataset


@feature
def all_deleted(path):
    dataset = lance.write_dataset(tables.narrow(20), path)
    dataset.delete("true")
    return dataset


@feature
def updates(path):
    dataset = lance.write_dataset(tables.narrow(100), path, max_rows_per_file=40)
    dataset.update({"name": "'changed'"}, where="id % 7 = 0")
    return dataset


@feature
def merge_insert(path):
    dataset = lance.write_dataset(tables.narrow(60), path, max_rows_per_file=25)
    new = tables.narrow(80, seed=1).slice(50)
    builder = dataset.merge_insert("id").when_matched_update_all()
    builder.when_not_matched_insert_all().execute(new)
    return lance.dataset(path)


@feature
def compacted(path):
    dataset = lance.write_dataset(tables.narrow(200), path, max_rows_per_file=20)
    dataset.delete("id % 5 = 0")
    dataset.optimize.compact_files()
    return lance.dataset(path)


@feature
def added_columns(path):
    dataset = lance.write_dataset(tables.narrow(90), path, max_rows_per_file=40)
    dataset.add_columns({"twice": "id * 2", "word": "concat(name, '!')"})
    return dataset


@feature
def columns_that_old_rows_lack(path):
    dataset = lance.write_dataset(tables.narrow(40), path)
    dataset.add_columns(pa.field("later", pa.int32()))
    new = tables.narrow(30).append_column("later", pa.array(range(30), pa.int32()))
    return lance.write_dataset(new, path, mode="append")


@feature
def dropped_and_renamed_columns(path):
    dataset = lance.write_dataset(tables.narrow(50), path)
    dataset.drop_columns(["x"])
    dataset.alter_columns({"path": "y", "name": "z"}, {"path": "id", "nullable": True})
    return dataset


@feature
def retyped_column(path):
    dataset = lance.write_dataset(tables.narrow(50), path)
    dataset.alter_columns({"path": "label", "data_type": pa.int64()})
    return dataset


@feature
def reordered_after_drop_and_add(path):
    dataset = lance.write_dataset(tables.narrow(50), path, max_rows_per_file=20)
    dataset.add_columns({"a": "id + 1"})
    dataset.drop_columns(["id"])
    dataset.add_columns({"id": "a - 1"})
    return dataset


def nested(num_rows):
    inner = pa.struct({"x": pa.int32(), "s": pa.string()})
    outer = pa.struct(
        {"inner": inner, "n": pa.float64(), "tags": pa.list_(pa.string())}
    )

    def value(i):
        if i % 6 == 5:
            return None
        deep = None if i % 5 == 4 else {"x": i, "s": f"s{i}"}
        return {"inner": deep, "n": i / 2, "tags": [str(k) for k in range(i % 3)]}

    return pa.table(
        {
            "id": np.arange(num_rows),
            "meta": pa.array([value(i) for i in range(num_rows)], outer),
        }
    )


@feature
def nested_structs(path):
    return lance.write_dataset(nested(70), path, max_rows_per_file=30)


@feature
def struct_fields_in_several_files(path):
    data = pa.table(
        {
            "id": np.arange(50),
            "meta": pa.array([{"a": i, "b": str(i)} for i in range(50)]),
        }
    )
    dataset = lance.write_dataset(data, path, max_rows_per_file=20)
    new = pa.schema([pa.field("meta", pa.struct({"c": pa.int32()}))])

    def more(batch):
        values = [{"c": k} for k in range(batch.num_rows)]
        return pa.RecordBatch.from_arrays(
            [pa.array(values, new.field(0).type)], schema=new
        )

    dataset.add_columns(
        lance.udf.BatchUDF(more, output_schema=new), read_columns=["id"]
    )
    return dataset


@feature
def stable_row_ids(path):
    data = tables.narrow(100)
    dataset = lance.write_dataset(
        data, path, max_rows_per_file=30, enable_stable_row_ids=True
    )
    dataset.delete("id % 10 = 3")
    dataset.update({"name": "'moved'"}, where="id < 20")
    dataset.optimize.compact_files()
    return lance.dataset(path)


def updated(version):
    """Rows whose ids live at new places, while their old ones are deleted, not compacted."""

    def make(path):
        data = tables.narrow(100)
        dataset = lance.write_dataset(
            data,
            path,
            max_rows_per_file=30,
            enable_stable_row_ids=True,
            data_storage_version=version,
        )
        dataset.update({"name": "'once'"}, where="id = 3")
        dataset.update({"name": "'twice'"}, where="id < 5 or id = 70")
        dataset.update({"name": "'thrice'"}, where="id = 3")
        dataset.delete("id = 4 or id = 50")
        new = tables.narrow(110, seed=1).slice(90)
        builder = dataset.merge_insert("id").when_matched_update_all()
        builder.when_not_matched_insert_all().execute(new)
        return lance.dataset(path)

    make.__name__ = f"updates_with_stable_row_ids_{version}"
    return make


for _version in ("2.0", "2.1", "2.2"):
    feature(updated(_version))


@feature
def file_sizes_not_in_the_manifest(path):
    """As older writers left them; Lance looks the sizes up when it opens the files."""
    dataset = lance.write_dataset(tables.narrow(90), path, max_rows_per_file=40)
    if "://" in str(path):
        return dataset
    without_file_sizes(path)
    return lance.dataset(path)


def without_file_sizes(path):
    """Make the sizes of data files zero, which means unknown, in the manifest of a table."""
    sizes = {
        file.file_size_bytes
        for fragment in lance.dataset(path).get_fragments()
        for file in fragment.metadata.files
    }
    for manifest in Path(path, "_versions").glob("*.manifest"):
        content = manifest.read_bytes()
        for size in sizes:
            # Field 6 of a file, as a varint of the same length.
            number = varint(size)
            zero = b"\x80" * (len(number) - 1) + b"\0"
            content = content.replace(b"\x30" + number, b"\x30" + zero)
        manifest.write_bytes(content)


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@feature
def schema_metadata(path):
    fields = [f.with_metadata({"unit": "m"}) for f in tables.narrow(1).schema]
    schema = pa.schema(fields, metadata={"huggingface": "{}", "pandas": "{}"})
    return lance.write_dataset(tables.narrow(20).cast(schema), path)


@feature
def dictionaries(path):
    values = pa.array(["abc"[i % 3] for i in range(90)]).dictionary_encode()
    data = pa.table({"id": np.arange(90), "word": values})
    return lance.write_dataset(data, path, max_rows_per_file=40)


@feature
def json(path):
    texts = [None if i % 4 == 3 else f'{{"a":{i}}}' for i in range(30)]
    return lance.write_dataset(pa.table({"j": pa.array(texts, pa.json_())}), path)


@feature
def wide_values(path):
    rng = np.random.default_rng(0)
    data = pa.table(
        {
            "id": np.arange(40),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.random(40 * 200, dtype=np.float32)), 200
            ),
            "blob": pa.array(
                [rng.bytes(i * 3000) for i in range(40)], pa.large_binary()
            ),
            "text": pa.array(["word " * (i * 50) for i in range(40)]),
        }
    )
    return lance.write_dataset(data, path, max_rows_per_file=16)


@feature
def tagged_and_moved_on(path):
    dataset = lance.write_dataset(tables.narrow(50), path)
    dataset.tags.create("first", dataset.version)
    lance.write_dataset(tables.narrow(10), path, mode="overwrite")
    return lance.dataset(path, version="first")


@feature
def branch(path):
    dataset = lance.write_dataset(tables.narrow(50), path)
    branch = dataset.create_branch("exp")
    lance.write_dataset(tables.narrow(20), branch.uri, mode="append")
    return lance.dataset(path).checkout_version(("exp", None))


@feature
def shallow_clone(path):
    origin = lance.write_dataset(
        tables.narrow(50), f"{path}.origin", max_rows_per_file=20
    )
    origin.shallow_clone(path, origin.version)
    return lance.write_dataset(tables.narrow(15), path, mode="append")


def versioned(version, *, nulls):
    def make(path):
        data = tables.every_type(150, nulls=nulls)
        if version == "2.0" and nulls:
            # A file of this version cannot hold the validity of structs.
            data = data.drop_columns(["struct", "struct_list"])
        return lance.write_dataset(
            data, path, data_storage_version=version, max_rows_per_file=60
        )

    make.__name__ = f"every_type_{version}" + ("_with_nulls" if nulls else "")
    return make


for _version in ("2.0", "2.1", "2.2"):
    for _nulls in (False, True):
        feature(versioned(_version, nulls=_nulls))


@feature
def blobs_of_version_1(path):
    field = pa.field(
        "image", pa.large_binary(), metadata={"lance-encoding:blob": "true"}
    )
    values = [None if i % 5 == 4 else bytes([i]) * (i * 700) for i in range(30)]
    data = pa.table(
        {"id": np.arange(30), "image": pa.array(values, pa.large_binary())},
        schema=pa.schema([pa.field("id", pa.int64()), field]),
    )
    return lance.write_dataset(
        data, path, data_storage_version="2.1", max_rows_per_file=12
    )


@feature
def blobs_of_version_2(path):
    sizes = [0, 10, 5_000, 70_000, 200_000, 5_000_000]
    values = [None if i % 7 == 6 else bytes([i]) * sizes[i % 6] for i in range(20)]
    schema = pa.schema([pa.field("id", pa.int64()), lance.blob_field("image")])
    data = pa.table(
        {"id": np.arange(20), "image": lance.blob_array(values)}, schema=schema
    )
    return lance.write_dataset(
        data, path, data_storage_version="2.2", max_rows_per_file=8
    )


def blob_values(num_rows):
    """Blobs of every kind: none, empty, inline, packed with others, and alone in a file."""
    sizes = [0, 10, 5_000, 70_000, 5_000_000]
    return [None if i % 7 == 6 else bytes([i]) * sizes[i % 5] for i in range(num_rows)]


def nested_blobs():
    """Blobs in structs, in lists, and in both."""
    blobs = lance.blob_array(blob_values(24))
    blob = lance.blob_field("blob")
    absent = pa.array([i % 5 == 3 for i in range(24)])
    pair = pa.StructArray.from_arrays(
        [pa.array(range(24)), blobs], fields=[pa.field("n", pa.int64()), blob]
    )
    maybe = pa.StructArray.from_arrays(
        [blobs, pa.array(map(str, range(24)))],
        fields=[blob, pa.field("text", pa.string())],
        mask=absent,
    )
    deep = pa.StructArray.from_arrays([maybe], names=["inner"])
    ends = pa.array([0, 2, 2, None, 9, 10, 24], pa.int32())
    columns = {
        "id": pa.array(range(24)),
        "pair": pair,
        "deep": deep,
    }
    listed = {
        "id": pa.array(range(6)),
        "pages": pa.ListArray.from_arrays(ends, blobs),
        "pairs": pa.ListArray.from_arrays(ends, maybe),
        "lists": pa.ListArray.from_arrays(
            pa.array([0, 1, 1, 3, 4, 5, 6], pa.int32()),
            pa.ListArray.from_arrays(ends, blobs),
        ),
        "large": pa.LargeListArray.from_arrays(ends.cast(pa.int64()), blobs),
    }
    return pa.table(columns), pa.table(listed)


@feature
def blobs_in_structs(path):
    return lance.write_dataset(
        nested_blobs()[0], path, data_storage_version="2.2", max_rows_per_file=10
    )


@feature
def blobs_in_lists(path):
    dataset = lance.write_dataset(
        nested_blobs()[1], path, data_storage_version="2.2", max_rows_per_file=4
    )
    dataset.delete("id = 4")
    return dataset


def packed(version, *, nulls):
    """Structs whose fields lie in one column of the file."""

    def make(path):
        kind = pa.struct({"x": pa.int32(), "y": pa.float32(), "z": pa.int8()})
        values = [
            None if nulls and i % 4 == 3 else {"x": i, "y": i / 2, "z": i % 5}
            for i in range(60)
        ]
        field = pa.field("p", kind, metadata={"packed": "true"})
        inner = pa.field("inner", pa.struct([field, pa.field("id", pa.int32())]))
        p = pa.array(values, kind)
        nested = pa.StructArray.from_arrays(
            [p, pa.array(range(60), pa.int32())], fields=list(inner.type)
        )
        schema = pa.schema([pa.field("id", pa.int64()), field, inner])
        data = pa.table([pa.array(range(60)), p, nested], schema=schema)
        return lance.write_dataset(
            data, path, data_storage_version=version, max_rows_per_file=25
        )

    make.__name__ = f"packed_structs_{version}" + ("_with_nulls" if nulls else "")
    return make


for _version, _nulls in (("2.0", False), ("2.1", True), ("2.2", False), ("2.2", True)):
    feature(packed(_version, nulls=_nulls))


@feature
def packed_structs_of_text(path):
    """Packed structs whose rows differ in length, alone and in lists, some of them empty."""
    kind = pa.struct({"x": pa.int32(), "s": pa.string(), "b": pa.large_binary()})
    field = pa.field("p", kind, metadata={"packed": "true"})
    several = pa.field("several", pa.list_(field.with_name("item")))
    values = [{"x": i, "s": "é" * (i % 4), "b": bytes(i % 3)} for i in range(70)]
    lists = [None if i % 5 == 1 else values[i : i + i % 5 % 4] for i in range(70)]
    data = pa.table(
        [pa.array(range(70)), pa.array(values, kind), pa.array(lists, several.type)],
        schema=pa.schema([pa.field("id", pa.int64()), field, several]),
    )
    return lance.write_dataset(
        data, path, data_storage_version="2.2", max_rows_per_file=30
    )


@feature
def written_by_lancedb(path):
    folder, _, name = str(path).rpartition("/")
    table = lancedb.connect(folder).create_table(
        name.removesuffix(".lance"),
        [{"id": i, "when": dt.datetime(2020, 1, 1), "v": [i, 0.5]} for i in range(30)],
    )
    table.add([{"id": 99, "when": None, "v": [1.0, 2.0]}])
    table.delete("id = 5")
    return lance.dataset(path)


def lists_of_structs_of_a_fixed_size(path):
    """Lists that a file holds as columns of another length, and what was written.

    pylance reads such a column only alone.
    """
    pair = pa.list_(pa.struct({"a": pa.int32(), "s": pa.string()}), 2)
    deep = pa.struct({"n": pa.int32(), "pair": pair})

    def value(i):
        return [{"a": i, "s": str(i)}, None if i % 3 == 2 else {"a": -i, "s": None}]

    pairs = pa.array([None if i % 5 == 4 else value(i) for i in range(50)], pair)
    inner = [None if i % 7 == 6 else {"n": i, "pair": value(i)} for i in range(50)]
    data = pa.table(
        {
            "pair": pairs,
            "id": np.arange(50),
            "deep": pa.array(inner, deep),
            "again": pairs,
        }
    )
    dataset = lance.write_dataset(
        data, path, data_storage_version="2.2", max_rows_per_file=20
    )
    dataset.delete("id = 7 or id = 22")
    return dataset, data.filter(pc.field("id") != 7).filter(pc.field("id") != 22)


def external_blobs(path, *, nested):
    """Blobs that are ranges of other files, all or some of them."""
    others = Path(path).parent
    for i in range(6):
        (others / f"{i}.bin").write_bytes(bytes([i]) * (1_000 * i))
    values = [
        (others / f"{i % 6}.bin").as_uri() if i % 3 else bytes([i]) * 50
        for i in range(20)
    ]
    values[5:7] = [None, lance.Blob.from_uri((others / "4.bin").as_uri(), 100, 30)]
    blobs, field = lance.blob_array(values), lance.blob_field("image")
    ids = pa.array(range(20))
    if nested:
        fields = [pa.field("n", pa.int64()), field]
        blobs = pa.StructArray.from_arrays([ids, blobs], fields=fields)
        field = pa.field("image", blobs.type)
    schema = pa.schema([pa.field("id", pa.int64()), field])
    dataset = lance.write_dataset(
        pa.table([ids, blobs], schema=schema),
        path,
        data_storage_version="2.2",
        max_rows_per_file=8,
        allow_external_blob_outside_bases=True,
    )
    dataset.delete("id = 2")
    return lance.dataset(path)
