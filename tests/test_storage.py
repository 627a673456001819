"""Tables in object storage: a server that speaks S3, its options, its credentials, its faults."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys

import lance
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_buckets
import s3_folder
import tables
from lance_features import FEATURES
from lanceloader import errors
from moto.server import ThreadedMotoServer
from s3_buckets import KEY_ID, SECRET
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("no_credentials")

s3, bucket, options = s3_buckets.s3, s3_buckets.bucket, s3_buckets.options


@pytest.fixture
def environment(s3, no_credentials, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def dataset(bucket, options):
    """195 rows in five fragments."""
    dataset = lance.write_dataset(
        tables.narrow(200),
        f"s3://{bucket}/t.lance",
        storage_options=options,
        max_rows_per_file=45,
    )
    dataset.delete("id = 4 or (id >= 90 and id < 94)")
    return dataset


@pytest.fixture
def perm(dataset, options):
    return ll.open(dataset.uri, storage_options=options)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.usefixtures("environment")
def test_every_feature_reads_as_from_a_disk(name, bucket, tmp_path):
    dataset = FEATURES[name](f"s3://{bucket}/t.lance")
    local = ll.open(FEATURES[name](str(tmp_path / "t.lance"))).with_format("arrow")
    perm = ll.open(dataset).with_format("arrow")
    assert perm.version == dataset.version
    assert perm.to_arrow().equals(local.to_arrow(), check_metadata=True)
    rng = np.random.default_rng(0)
    for size in (1, 40):
        positions = rng.integers(0, len(local), size if len(local) else 0)
        assert perm.take_offsets(positions).equals(local.take_offsets(positions))


def test_rows_are_exact(perm, dataset):
    wanted = dataset.to_table()
    assert len(perm) == 195
    assert perm.to_arrow().equals(wanted)
    positions = [5, 3, 150, 5, 194, 0]
    got = perm.with_format("arrow").take_offsets(positions)
    assert pa.Table.from_batches([got]).equals(wanted.take(positions))
    assert [len(batch) for batch in perm.iter(64)] == [64, 64, 64, 3]


def test_shuffled_rows_are_those_of_a_disk(perm, tmp_path):
    local = ll.open(lance.write_dataset(perm.to_arrow(), tmp_path / "t.lance"))

    def ids(perm):
        perm = perm.shuffle(seed=7, epoch=1).shard(1, 2)
        return [row["id"] for batch in perm.iter(10) for row in batch]

    assert ids(perm) == ids(local)


def test_the_version_is_pinned(perm, dataset, options):
    rows = perm.to_arrow()
    dataset.tags.create("first", 1)
    dataset.update({"name": "'changed'"})
    assert perm.to_arrow().equals(rows)
    opened = {
        "first": ll.open(dataset.uri, tag="first", storage_options=options),
        1: ll.open(dataset.uri, version=1, storage_options=options),
        2: ll.open(dataset.uri, version=2, storage_options=options),
    }
    assert opened["first"].to_arrow().equals(tables.narrow(200))
    assert opened[1].to_arrow().equals(tables.narrow(200))
    assert opened[2].to_arrow().equals(rows)
    assert ll.open(dataset.uri, storage_options=options).version == 3


def test_a_filter_is_answered_by_the_table_s_library(perm, dataset):
    got = perm.shuffle(seed=1).filter("id > 180 and label <> 2")
    wanted = dataset.to_table(filter="id > 180 and label <> 2")
    assert got.to_arrow().sort_by("id").equals(wanted)


def test_expressions_are_refused_and_nothing_is_written(perm, bucket, s3):
    """Lance puts a clone where its table lies, and the bucket is the user's."""

    def everything():
        return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]]

    before = everything()
    with pytest.raises(
        errors.UnsupportedError, match=r"object storage, such as s3://.* with mat"
    ):
        perm.select_columns({"double": "id * 2"})
    assert perm.select_columns({"number": "id"}).head(1) == [{"number": 0}]
    assert everything() == before


def test_options_come_from_a_lance_dataset(dataset):
    perm = ll.open(dataset)
    assert perm.filter("id < 3").to_arrow() == dataset.to_table(filter="id < 3")
    assert perm.to_arrow() == dataset.to_table()


@pytest.fixture
def table(bucket, options):
    db = lancedb.connect(f"s3://{bucket}/db", storage_options=options)
    table = db.create_table("t", tables.narrow(50))
    table.add(tables.narrow(80).slice(50))
    table.delete("id = 60")
    return table


def test_options_come_from_a_lancedb_table(table):
    perm = ll.Permutation.identity(table)
    assert perm.to_arrow().equals(table.to_arrow())
    assert perm.filter("id > 70").to_arrow()["id"].to_pylist() == list(range(71, 80))
    plan = ll.permutation_builder(table).split_random(ratios=[0.5, 0.5], seed=1)
    splits = ll.Permutations(table, plan.execute())
    ids = [row["id"] for split in splits for row in split[:]]
    assert sorted(ids) == table.to_arrow()["id"].to_pylist()


@pytest.mark.usefixtures("environment")
def test_options_come_from_the_environment(dataset):
    assert ll.open(dataset.uri).to_arrow() == dataset.to_table()


@pytest.fixture(params=["uri", "lance", "lancedb", "plan"])
def any_perm(request, perm, dataset, table):
    if request.param == "uri":
        return perm
    if request.param == "lance":
        return ll.open(dataset)
    if request.param == "lancedb":
        return ll.Permutation.identity(table)
    plan = ll.permutation_builder(table).shuffle(seed=1).execute()
    return ll.Permutation.from_tables(table, plan)


def test_no_credentials_in_a_pickle(any_perm, s3):
    any_perm.head()
    for perm in (any_perm, any_perm.shuffle(seed=1), any_perm.filter("id < 9")):
        pickled = pickle.dumps(perm)
        assert SECRET.encode() not in pickled
        assert KEY_ID.encode() not in pickled
        assert s3.meta.endpoint_url.encode() in pickled


def test_credentials_come_from_the_environment_of_who_unpickles(any_perm, monkeypatch):
    rows = any_perm.shuffle(seed=3).to_arrow()
    pickled = pickle.dumps(any_perm.shuffle(seed=3))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    again = pickle.loads(pickled)
    assert again.to_arrow().equals(rows)
    assert again.filter("id < 9").to_arrow().num_rows > 5


@pytest.mark.slow
def test_another_process_has_credentials_of_its_own(perm, tmp_path):
    (tmp_path / "perm").write_bytes(pickle.dumps(perm.select_columns(["id"])))
    code = (
        f"import pickle; print(pickle.load(open({str(tmp_path / 'perm')!r}, 'rb'))[7])"
    )
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    def run(keys):
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **keys},
            capture_output=True,
            text=True,
            timeout=50,
        )

    assert run(keys).stdout.strip() == "[{'id': 8}]"
    without = run({})
    assert "StorageDeniedError: could not read s3://" in without.stderr
    assert "credentials" in without.stderr


def test_without_credentials_the_error_says_so(perm):
    again = pickle.loads(pickle.dumps(perm))
    with pytest.raises(OSError, match=r"s3://.*credentials"):
        again.head()


def test_what_is_missing_is_named(bucket, dataset, options):
    with pytest.raises(FileNotFoundError, match=f"s3://{bucket}/none.lance"):
        ll.open(f"s3://{bucket}/none.lance", storage_options=options)
    with pytest.raises(FileNotFoundError, match="tag v1"):
        ll.open(dataset.uri, tag="v1", storage_options=options)
    with pytest.raises(errors.TableChangedError, match="version 99"):
        ll.open(dataset.uri, version=99, storage_options=options)


def test_the_error_describes_an_address_that_is_not_a_table(bucket, options):
    for name in ("songs", "artists"):
        address = f"s3://{bucket}/db/{name}.lance"
        lance.write_dataset(tables.narrow(5), address, storage_options=options)
    for address, said in {
        f"s3://{bucket}/db": "a database, with the tables `artists`, `songs`",
        f"s3://{bucket}/db/songs": rf"there is a table at s3://{bucket}/db/songs\.lance; pass that",
        f"s3://{bucket}/db/song.lance": "does not exist; its folder has the tables `artists`, `songs`",
        f"s3://{bucket}/none/song.lance": "does not exist$",
    }.items():
        with pytest.raises(FileNotFoundError, match=said):
            ll.open(address, storage_options=options)


def test_a_missing_bucket_is_named(options):
    with pytest.raises(OSError, match=r"s3://no-bucket/t.lance"):
        ll.open("s3://no-bucket/t.lance", storage_options=options)


def test_nobody_listening_is_an_error_in_time(options):
    nobody = {"aws_endpoint": "http://127.0.0.1:9", "client_max_retries": "1"}
    with pytest.raises(OSError, match=r"could not read s3://bucket/t.lance"):
        ll.open("s3://bucket/t.lance", storage_options=options | nobody)


def test_wrong_options_are_named(dataset, options):
    with pytest.raises((OSError, ValueError), match="http"):
        ll.open(dataset.uri, storage_options={**options, "allow_http": "false"})


def objects(s3, bucket, folder):
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"t.lance/{folder}/")
    return [entry["Key"] for entry in listed["Contents"]]


@pytest.mark.parametrize("read", [lambda p: p.take_offsets([0, 2]), list])
def test_an_object_deleted_underneath_is_a_changed_table(perm, s3, bucket, read):
    for key in objects(s3, bucket, "data"):
        s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(errors.TableChangedError, match=r"t.lance/data/\w+.lance"):
        read(perm)


@pytest.mark.parametrize("num_rows", [100, 200_000])
def test_an_object_deleted_while_it_is_open(s3, bucket, options, num_rows):
    """What was fetched stays; of a large object, other rows are missing."""
    uri = f"s3://{bucket}/t.lance"
    lance.write_dataset(tables.narrow(num_rows), uri, storage_options=options)
    perm = ll.open(uri, storage_options=options)
    first = perm.take_offsets([3, num_rows - 1])
    (key,) = objects(s3, bucket, "data")
    s3.delete_object(Bucket=bucket, Key=key)
    assert perm.take_offsets([3, num_rows - 1]) == first
    if num_rows > 100:
        with pytest.raises(errors.TableChangedError, match=r"t.lance/data/\w+.lance"):
            perm.take_offsets([num_rows // 2])


@pytest.mark.parametrize("is_open", [False, True])
def test_a_stopped_server_is_an_os_error(bucket, options, is_open):
    lance.write_dataset(
        tables.narrow(200_000), f"s3://{bucket}/large.lance", storage_options=options
    )
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    other = {"aws_endpoint": f"http://{host}:{port}", "client_max_retries": "0"}
    perm = ll.open(f"s3://{bucket}/large.lance", storage_options=options | other)
    if is_open:
        perm.take_offsets([3])
    server.stop()
    with pytest.raises(OSError, match=r"could not read .*large.lance"):
        perm.take_offsets([5, 100_000])


def test_a_deleted_manifest_is_a_changed_table(perm, s3, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    pickled = pickle.dumps(perm)
    for key in sorted(objects(s3, bucket, "_versions"))[:1]:
        s3.delete_object(Bucket=bucket, Key=key)
    again = pickle.loads(pickled)
    with pytest.raises(errors.TableChangedError, match="version 2"):
        again.head()


@pytest.mark.parametrize("keep", [0, 20, 0.5, -1])
def test_a_truncated_object_is_named(perm, s3, bucket, keep):
    (key, *_) = objects(s3, bucket, "data")
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    length = int(len(content) * keep) if isinstance(keep, float) else keep
    s3.put_object(Bucket=bucket, Key=key, Body=content[:length])
    with pytest.raises((errors.CorruptFileError, OSError), match=key):
        perm.to_arrow()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore:lance:UserWarning")
@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_in_workers_after_the_parent_has_read(perm, context):
    """Connections and the threads behind them do not survive a fork."""
    perm = perm.select_columns(["id"]).shuffle(seed=2)
    wanted = perm.to_arrow()["id"].to_pylist()
    for _ in range(5 if context == "fork" else 1):
        loader = DataLoader(
            perm,
            batch_size=30,
            num_workers=2,
            multiprocessing_context=context,
            timeout=150,
        )
        assert [int(key) for batch in loader for key in batch["id"]] == wanted
    assert perm.to_arrow()["id"].to_pylist() == wanted


@pytest.mark.timeout(25)
def test_a_forked_process_makes_connections_of_its_own(tmp_path):
    """On those of its parent it would wait 30 seconds, one after the other."""
    lance.write_dataset(tables.narrow(200), tmp_path / "t.lance")
    with s3_folder.serving(tmp_path) as endpoint:
        options = {
            "aws_endpoint": endpoint,
            "allow_http": "true",
            "aws_region": "us-east-1",
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET,
        }
        uri = f"s3://{s3_folder.BUCKET}/t.lance"
        perm = ll.open(uri, storage_options=options).shuffle(seed=1)
        wanted = perm.to_arrow()["id"].to_pylist()
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(
            target=lambda: sender.send(perm.to_arrow()["id"].to_pylist())
        )
        child.start()
        try:
            assert receiver.poll(20)
            assert receiver.recv() == wanted
        finally:
            child.kill()
            child.join()
        assert perm.to_arrow()["id"].to_pylist() == wanted


def test_a_table_is_written_to_a_bucket(perm, bucket, options):
    copy = perm.shuffle(seed=3).materialize(
        f"s3://{bucket}/copy.lance", storage_options=options
    )
    assert copy.to_arrow() == perm.shuffle(seed=3).to_arrow()
    with pytest.raises(FileExistsError, match="exists already"):
        perm.materialize(copy.source.uri, storage_options=options)
