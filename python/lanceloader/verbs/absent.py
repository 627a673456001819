"""Names of other libraries that permutations lack on purpose, and what to call instead."""

from __future__ import annotations

__all__ = ["INSTEAD"]

WRITE = "call perm.materialize(uri), which writes a Lance table"
ADD = (
    "add the column to the table with lancedb or pylance, or compute it with perm.map()"
)
CAST = "cast the column in the table, or in a function: perm.map() or loader(transform=...)"
NEW = "permutations are immutable: call perm.{}(), and use what it returns"
OF_TABLE = "call ll.open(table)"

INSTEAD = {
    # Hugging Face datasets
    "add_column": ADD,
    "add_item": "add rows to the table with lancedb or pylance",
    "align_labels_with_mapping": CAST,
    "batch": "call perm.iter(batch_size), or perm.loader(batch_size)",
    "cache_files": "call perm.explain(), which says where rows are kept",
    "cast": CAST,
    "cast_column": CAST,
    "class_encode_column": CAST,
    "cleanup_cache_files": "call lanceloader.cache.clear()",
    "data": "use perm.base_table, or perm.to_arrow() for the rows",
    "flatten_indices": WRITE,
    "format": "use perm.transform_fn; perm.with_format() returns a permutation in another format",
    "formatted_as": NEW.format("with_format"),
    "from_csv": OF_TABLE,
    "from_dict": "call ll.open(pyarrow.table(data))",
    "from_generator": OF_TABLE,
    "from_list": "call ll.open(pyarrow.Table.from_pylist(rows))",
    "from_pandas": OF_TABLE,
    "from_parquet": "call ll.open(pyarrow.parquet.read_table(path)), or write a Lance table",
    "info": "use perm.schema, or call perm.explain()",
    "load_from_disk": "call ll.open(uri)",
    "num_shards": "permutations have no shards; perm.shard(rank, world_size) returns one",
    "push_to_hub": WRITE,
    "reset_format": NEW.format("with_format"),
    "save_to_disk": WRITE,
    "set_epoch": "call `set_epoch` of the loader, or pass `epoch` to perm.shuffle()",
    "set_format": NEW.format("with_format"),
    "set_transform": NEW.format("with_transform"),
    "sort": "call perm.select(indices), as with pyarrow.compute.sort_indices",
    "to_csv": "call perm.to_pandas().to_csv()",
    "to_dict": "call perm.to_arrow().to_pydict()",
    "to_iterable_dataset": "call perm.loader()",
    "to_json": "call perm.to_pandas().to_json()",
    "to_list": "call perm.to_arrow().to_pylist()",
    "to_parquet": "call pyarrow.parquet.write_table(perm.to_arrow(), path), or perm.materialize(uri)",
    "to_sql": "call perm.to_pandas().to_sql()",
    "to_tf_dataset": 'call tf.data.Dataset.from_generator over perm.loader(format="numpy_dict")',
    # pyarrow, pandas, polars, lance and lancedb
    "columns": "use perm.column_names",
    "count_rows": "call len(perm)",
    "drop": "call perm.remove_columns(columns)",
    "dtypes": "use perm.schema",
    "iloc": "call perm.select(positions), or index the permutation: perm[positions] reads rows",
    "rename": "call perm.rename_columns({old: new})",
    "tail": "call perm.skip(len(perm) - n).head(n)",
    "to_batches": 'call perm.with_format("arrow").iter(batch_size)',
    "to_dicts": "call perm.to_arrow().to_pylist()",
    "to_numpy": 'index the permutation in that format: perm.with_format("numpy_dict")[:]',
    "to_pydict": "call perm.to_arrow().to_pydict()",
    "to_pylist": "call perm.to_arrow().to_pylist()",
    "to_table": "call perm.to_arrow()",
    "where": "call perm.filter(predicate)",
    # torch and tf.data
    "dataloader": "call perm.loader(batch_size)",
    "prefetch": "call perm.loader(), whose threads read ahead",
    "random_split": "call perm.split(sizes, seed=...)",
}
"""What to do instead, by name."""
