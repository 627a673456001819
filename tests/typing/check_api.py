"""What the types of the public names promise: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import lanceloader as ll
import lanceloader.permutation
import lanceloader.torch
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from lanceloader import Fold, Permutation, PermutationBuilder, Permutations, Splits


def made(table: Any, plan: Any) -> None:
    assert_type(ll.open("t.lance"), Permutation)
    assert_type(ll.open(Path("t.lance"), version=7, format="arrow"), Permutation)
    assert_type(
        ll.open(
            "s3://bucket/t.lance",
            tag="v1",
            storage_options={"aws_region": "eu-west-1"},
            columns=["x"],
            filter="x > 3",
        ),
        Permutation,
    )
    assert_type(Permutation.identity(table), Permutation)
    assert_type(Permutation.from_tables(table, plan, "train"), Permutation)
    assert_type(Permutation.from_tables(table, plan, split=1), Permutation)
    as_in_lancedb = lanceloader.permutation.Permutation.identity(table)
    assert_type(as_in_lancedb, lanceloader.permutation.Permutation)
    as_elsewhere: Permutation = as_in_lancedb
    assert_type(len(as_elsewhere), int)

    ll.open("t.lance", version="7")  # type: ignore[arg-type]
    ll.open("t.lance", format="jax")  # type: ignore[arg-type]
    ll.open("t.lance", storage_options={"timeout": 5})  # type: ignore[dict-item]
    ll.open("t.lance", 7)  # type: ignore[call-arg]
    Permutation.from_tables(table, plan, split=1.5)  # type: ignore[arg-type]


class Mine(Permutation):
    """A subclass stays one through every verb."""


def verbs(perm: Permutation, mine: Mine) -> None:
    assert_type(perm.select_columns(["x", "y"]), Permutation)
    assert_type(perm.remove_columns(["x"]), Permutation)
    assert_type(perm.rename_column("x", "z"), Permutation)
    assert_type(perm.rename_columns({"x": "z"}), Permutation)
    assert_type(perm.flatten(), Permutation)
    assert_type(perm.filter("x > 3"), Permutation)
    assert_type(perm.filter(np.array([True])), Permutation)
    assert_type(perm.shuffle(), Permutation)
    assert_type(perm.shuffle(7, epoch=2, clump_size=8), Permutation)
    assert_type(perm.shard(0, 4, tail="pad"), Permutation)
    assert_type(perm.sample(10, seed=1), Permutation)
    assert_type(perm.sample(0.5, seed=1), Permutation)
    assert_type(perm.with_skip(3).with_take(4).with_repeat(2), Permutation)
    assert_type(perm.with_format("torch_dict", nulls="fill", fill_value=0), Permutation)
    assert_type(perm.with_transform(lambda batch: batch.num_rows), Permutation)
    assert_type(perm.with_format("torch_dict", pad={"x": 0}), Permutation)
    assert_type(perm.select(range(3)).take(2).skip(1).repeat(2), Permutation)
    assert_type(mine.select([1]).map(dict, batched=True).filter(bool), Mine)
    assert_type(perm.train_test_split(0.2, seed=1), Splits[Permutation])
    assert_type(mine.split([0.5, 0.5], seed=1), Splits[Mine])
    assert_type(int(perm.split), int)
    assert_type(Permutation.split(perm, [0.5, 0.5], seed=1), Splits[Permutation])
    assert_type(perm.with_batch_size(32), Permutation)
    assert_type(perm.with_connection_factory(lambda name: name), Permutation)
    assert_type(Mine.identity("t.lance"), Mine)
    assert_type(mine.select_columns(["x"]).shuffle(seed=1).with_take(3), Mine)

    assert_type(perm.select_columns({"x2": "x * 2"}, progress=True), Permutation)
    perm.select_columns({"x": "y"}.items())  # type: ignore[arg-type]
    perm.select_columns({"x": 2})  # type: ignore[dict-item]
    perm.rename_columns([("x", "z")])  # type: ignore[arg-type]
    perm.shuffle("7")  # type: ignore[arg-type]
    perm.shuffle(1, 2)  # type: ignore[call-arg]
    perm.shard(0, 4, tail="repeat")  # type: ignore[arg-type]
    perm.sample(10)  # type: ignore[call-arg]
    perm.with_format("jax")  # type: ignore[arg-type]
    perm.to_tf_dataset  # type: ignore[attr-defined]  # noqa: B018
    perm.pack(8, labels=True)  # type: ignore[arg-type]
    perm.map("x")  # type: ignore[arg-type]
    perm.with_format("torch_dict", nulls="drop")  # type: ignore[arg-type]
    perm.with_transform("arrow")  # type: ignore[arg-type]
    perm.no_such_verb()  # type: ignore[attr-defined]


def parts(perm: Permutation) -> None:
    splits = perm.split({"train": 0.9, "val": 0.1}, seed=7)
    assert_type(splits, Splits[Permutation])
    assert_type(splits.names, list[str])
    assert_type(len(splits), int)
    assert_type(iter(splits), Iterator[Permutation])
    assert_type(list(splits), list[Permutation])
    train, val = splits
    assert_type(train, Permutation)
    assert_type(val, Permutation)
    assert_type(perm.split([900, 100], seed=7, stratify_by="y"), Splits[Permutation])
    assert_type(perm.split(4, how="sequential"), Splits[Permutation])
    assert_type(perm.split(0.5, seed=1), Splits[Permutation])  # type: ignore[arg-type]
    assert_type(perm.split + 0, int)
    assert_type(perm.split_by("label"), Splits[Permutation])
    folds = perm.kfold(5, seed=1, group_by=["a", "b"])
    assert_type(folds, list[Fold[Permutation]])
    assert_type(folds[0].train, Permutation)
    assert_type([len(val) for _, val in folds], list[int])
    # Annotations without an argument are allowed, as in earlier versions.
    bare_splits: Splits = splits
    bare_fold: Fold = folds[0]
    assert_type(bare_splits, Splits[Any])
    assert_type(bare_fold, Fold[Any])
    perm.kfold(5)  # type: ignore[call-arg]
    perm.split([1, 1], sed=7)  # type: ignore[call-arg]


def read(perm: Permutation) -> None:
    assert_type(len(perm), int)
    assert_type(perm.num_rows, int)
    assert_type(perm.num_columns, int)
    assert_type(perm.shape, tuple[int, int])
    assert_type(perm.column_names, list[str])
    assert_type(perm.version, int | None)
    assert_type(perm.selection, dict[str, str])
    assert_type(perm.offset, int | None)
    assert_type(perm.explain(), str)
    assert_type(perm.row(3), dict[str, Any])
    assert_type(perm.unique("x"), list[Any])
    assert_type(iter(perm), Iterator[Any])
    assert_type(perm.iter(32, skip_last_batch=True, progress=True), Iterator[Any])
    assert_type(perm.to_pandas(), pd.DataFrame)
    assert_type(perm.to_polars(), pl.DataFrame)
    assert_type(perm.to_arrow(), pa.Table)
    assert_type(perm.schema, pa.Schema)
    assert_type(perm[3], Any)
    assert_type(perm[2:5], Any)
    assert_type(perm[[1, 2]], Any)
    assert_type(perm.take_offsets(range(3)), Any)
    assert_type(perm.head(2), Any)
    perm["x"]  # type: ignore[index]
    perm.row("x")  # type: ignore[arg-type]
    perm.iter()  # type: ignore[call-arg]


def built(table: Any) -> None:
    builder = ll.permutation_builder(table)
    assert_type(builder, PermutationBuilder)
    assert_type(builder.split_random(ratios=[0.5, 0.5], seed=1), PermutationBuilder)
    assert_type(builder.split_hash(["x"], [1, 1]).shuffle(seed=1), PermutationBuilder)
    assert_type(builder.split_calculated("x % 2", ["a", "b"]), PermutationBuilder)
    assert_type(builder.split_sequential(fixed=2).filter("x > 3"), PermutationBuilder)
    permutations = Permutations(table, builder.execute())
    assert_type(permutations["train"], Permutation)
    assert_type(permutations[0], Permutation)
    assert_type(len(permutations), int)
    assert_type(list(permutations), list[Permutation])
    assert_type(permutations.split_names, list[str])
    builder.shuffle(1)  # type: ignore[call-arg]
    builder.split_random([0.5, 0.5])  # type: ignore[call-arg]
    permutations[1.5]  # type: ignore[index]


def others(error: ll.errors.ColumnNotFoundError) -> None:
    as_lancedb_has_it: ValueError = error
    as_a_missing_key: KeyError = error
    assert_type(str(as_lancedb_has_it) + str(as_a_missing_key), str)
    assert_type(ll.install(), None)
    assert_type(lanceloader.torch.uninstall(), None)
    assert_type(lanceloader.torch.collate_as("torch_dict"), Callable[[Any], Any])
    lanceloader.torch.collate_as("jax")  # type: ignore[arg-type]


def positions(perm: Permutation, array: np.ndarray, tensor: torch.Tensor) -> None:
    perm.take_offsets(array)
    perm.take_offsets(tensor)
    perm.take_offsets([np.int64(3)])
    assert_type(perm[array], Any)
    assert_type(perm[np.int64(3)], Any)
    assert_type(perm.shuffle(seed=np.int64(3)), Permutation)
    assert_type(perm.filter(array), Permutation)
    assert_type(ll.__version__, str)


def tables_and_cache(perm: Permutation) -> None:
    assert_type(perm.warm(), ll.WarmReport)
    assert_type(perm.warm(progress=lambda done, total: None).is_shared, bool)
    assert_type(ll.table_info("db/t.lance", version=3), ll.TableInfo)
    assert_type(ll.table_info("db/t.lance").columns[0].reason, str | None)
    assert_type(ll.cache.entries(), list[ll.cache.Entry])
    assert_type(ll.cache.clear(dry_run=True).bytes, int)
    assert_type(ll.cache.path(), Path | None)


def options(perm: Permutation, sampler: torch.utils.data.Sampler[int]) -> None:
    reading = ll.ReadOptions("direct", memory_limit="1GiB", threads=2)
    assert_type(reading.memory_limit, int | None)
    ranks = ll.RankOptions(rank=0, world_size=2, tail="drop")
    errors = ll.ErrorOptions("fill", error_value=[None])
    loader = perm.loader(4, reading=reading, ranks=ranks, errors=errors)
    assert_type(loader, ll.Loader[Permutation])
    batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
    assert_type(perm.loader(4, sampler=sampler), ll.Loader[Permutation])
    assert_type(perm.loader(batch_sampler=batches), ll.Loader[Permutation])
    perm.loader(4, sampler=[3, 1, 2])
    perm.loader(batch_sampler=[[3, 1], [2]])
    ll.mix([perm, perm]).loader(4, reading=reading)
    lanceloader.torch.DataLoader(perm, 4, sampler=sampler)
    perm.loader(4, reading="direct")  # type: ignore[arg-type]
    perm.loader(4, ranks=errors)  # type: ignore[arg-type]
    perm.loader(4, sampler=3)  # type: ignore[arg-type]
    perm.loader(batch_sampler=[3, 1])  # type: ignore[list-item]
    ll.RankOptions(tail="cut")  # type: ignore[arg-type]
    ll.ReadOptions("fast")  # type: ignore[arg-type]
    reading.threads = 3  # type: ignore[misc]
