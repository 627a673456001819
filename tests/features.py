"""Lance tables with every feature a reader must know, made by pylance and lancedb."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
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
