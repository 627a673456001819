"""Values of blob columns as files."""

from __future__ import annotations

import io
import os
import pickle
import threading

import lance
import lance_features
import lanceloader as ll
import pyarrow as pa
import pytest
import torch
from functions import first_bytes
from lanceloader import blob_files, errors
from lanceloader.torch import DataLoader

KINDS = {
    "version 1": lance_features.blobs_of_version_1,
    "version 2": lance_features.blobs_of_version_2,
    "external": lambda path: lance_features.external_blobs(path, nested=False),
}


@pytest.fixture(scope="module", params=KINDS)
def path(request, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("blobs") / "t.lance")
    KINDS[request.param](path)
    return path


@pytest.fixture
def videos(tmp_path):
    path = str(tmp_path / "t.lance")
    lance_features.blobs_of_version_2(path)
    return ll.open(path).with_blobs("files")


def contents(file):
    return None if file.is_null else file.readall()


def test_all_bytes(path):
    perm = ll.open(path)
    wanted = {row["id"]: row["image"] for row in perm[:]}
    for order in (perm, perm.shuffle(seed=3)):
        rows = order.with_blobs("files")[:]
        assert all(isinstance(row["image"], ll.BlobFile) for row in rows)
        assert {row["id"]: contents(row["image"]) for row in rows} == wanted
    back = perm.with_blobs("files").with_blobs("bytes")
    assert {row["id"]: row["image"] for row in back[:]} == wanted


@pytest.mark.parametrize("name", ["pair.blob", "deep.inner.blob"])
def test_blobs_in_structs(tmp_path, name):
    lance_features.blobs_in_structs(str(tmp_path / "t.lance"))
    perm = ll.open(tmp_path / "t.lance").select_columns({"clip": name, "id": "id"})
    wanted = [row["clip"] for row in perm[:]]
    found = [contents(row["clip"]) for row in perm.with_blobs("files", ["clip"])[:]]
    assert found == wanted


@pytest.mark.parametrize("format", ["python", "python_col", "numpy_dict", "torch_dict"])
def test_formats(videos, format):
    batch = next(iter(videos.loader(4, format=format)))
    if format == "python":
        batch = {name: [row[name] for row in batch] for name in batch[0]}
    assert list(batch) == ["id", "image"]
    assert [contents(file) for file in batch["image"]] == [
        bytes([at]) * size for at, size in enumerate([0, 10, 5_000, 70_000])
    ]
    assert [int(number) for number in batch["id"]] == [0, 1, 2, 3]


def test_formats_that_cannot_hold_files(videos):
    for format in ("arrow", "pandas", "polars", "torch"):
        with pytest.raises(errors.FormatError, match="with_blobs"):
            next(iter(videos.loader(4, format=format)))
    with pytest.raises(errors.FormatError, match="with_blobs"):
        videos.to_arrow()
    assert videos.schema.field("image").type == pa.large_binary()
    # Other columns are read as before.
    ids = videos.select_columns(["id"])
    assert ids.to_arrow()["id"].to_pylist() == list(range(20))
    assert next(iter(ids.loader(4, format="torch_matrix"))).shape == (4, 1)
    with pytest.raises(errors.FormatError, match="map"):
        videos.map(lambda row: {})[:2]


def test_nothing_is_read_before_it_is_asked_for(videos, monkeypatch):
    calls = []
    real = lance.LanceDataset.take_blobs

    def counted(*args, **options):
        calls.append(options)
        return real(*args, **options)

    monkeypatch.setattr(lance.LanceDataset, "take_blobs", counted)
    batches = list(videos.loader(10))
    assert calls == []
    file = batches[0][5]["image"]
    assert file.read(3) == b"\5\5\5"
    assert batches[0][3]["image"].size == 70_000
    assert len(calls) == 1
    batches[1][0]["image"].readall()
    assert len(calls) == 2


def test_a_file(tmp_path):
    value = bytes(range(256)) * 400
    schema = pa.schema([lance.blob_field("v")])
    data = pa.table({"v": lance.blob_array([value, b""])}, schema=schema)
    lance.write_dataset(data, tmp_path / "t.lance", data_storage_version="2.2")
    rows = ll.open(tmp_path / "t.lance").with_blobs("files")[:]
    file, empty = rows[0]["v"], rows[1]["v"]
    assert isinstance(file, io.RawIOBase)
    assert file.readable()
    assert file.seekable()
    assert not file.writable()
    same = io.BytesIO(value)
    for step in (
        lambda f: f.read(10),
        lambda f: f.seek(-7, io.SEEK_END),
        lambda f: f.read(100),
        lambda f: f.read(100),
        lambda f: f.seek(300),
        lambda f: f.seek(5, io.SEEK_CUR),
        lambda f: f.tell(),
        lambda f: f.readline(),
        lambda f: f.seek(10**6),
        lambda f: f.read(5),
        lambda f: f.read(),
        lambda f: f.seek(3),
        lambda f: f.read(),
    ):
        assert step(file) == step(same)
    assert file.read_range(5, 9) == value[5:9]
    assert file.read_range(len(value) - 2, len(value) + 9) == value[-2:]
    assert file.read_range(len(value) + 5, len(value) + 9) == b""
    assert file.tell() == len(value)
    buffered = io.BufferedReader(file, 1000)
    buffered.seek(1)
    assert buffered.read(5) == value[1:6]
    assert (empty.read(), empty.size, empty.is_null) == (b"", 0, False)
    for wrong in ((-1, 5), (5, 4)):
        with pytest.raises(ValueError, match="range"):
            empty.read_range(*wrong)
    for wrong, match in (((-1, 0), "negative"), ((0, 7), "whence")):
        with pytest.raises(ValueError, match=match):
            empty.seek(*wrong)


def test_closing(videos):
    rows = videos[:4]
    with rows[2]["image"] as file:
        assert file.read(2) == b"\2\2"
    assert file.closed
    for call in (file.read, file.tell, lambda: file.seek(0), lambda: file.size):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert rows[3]["image"].read(1) == b"\3"


def test_errors_name_the_row(videos):
    file = videos[6][0]["image"]
    assert file.is_null
    with pytest.raises(ValueError, match="null") as caught:
        file.read()
    (note,) = caught.value.__notes__
    assert (
        f"column `image` of the row with `_rowid` {file.row_id} of {videos.source.uri}"
        in note
    )
    assert repr(file) == f"<BlobFile of column `image`, `_rowid` {file.row_id}>"


def test_a_pickle_is_a_description(videos):
    row = videos[5][0]
    row["image"].read(10)
    pickled = pickle.dumps(row)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)["image"]
    assert again.tell() == 0
    assert again.readall() == bytes([5]) * 5_000_000
    view = pickle.loads(pickle.dumps(videos.shuffle(seed=1)))
    assert isinstance(view[:1][0]["image"], ll.BlobFile)


FIRST_BYTES = [
    (at, b"" if at % 7 == 6 or at % 6 == 0 else bytes([at])) for at in range(20)
]


def as_they_are(batch):
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ours", "torch", "helper"])
def test_other_processes_read(videos, where):
    found = []
    workers = {"num_workers": 1, "multiprocessing_context": "spawn"}
    if where == "ours":
        loader = DataLoader(videos, 4, transform=first_bytes, **workers)
    elif where == "torch":
        loader = torch.utils.data.DataLoader(
            videos, 4, collate_fn=first_bytes, **workers
        )
    else:
        loader = videos.loader(4, transform=first_bytes, in_process=False)
    for batch in loader:
        found += batch
    assert found == FIRST_BYTES


def test_forked_workers_return_files_unread(videos):
    loader = torch.utils.data.DataLoader(
        videos,
        4,
        collate_fn=as_they_are,
        num_workers=1,
        multiprocessing_context="fork",
    )
    assert [pair for batch in loader for pair in first_bytes(batch)] == FIRST_BYTES


def test_forked_workers_do_not_read_files(videos):
    loader = torch.utils.data.DataLoader(
        videos,
        4,
        collate_fn=first_bytes,
        num_workers=1,
        multiprocessing_context="fork",
    )
    with pytest.raises(RuntimeError, match="forkserver"):
        next(iter(loader))


def test_several_threads_read_the_files_of_a_batch(videos):
    files = [row["image"] for row in videos[:6]]
    found = {}

    def read(at):
        found[at] = files[at].readall()

    threads = [threading.Thread(target=read, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[at][:1] for at in range(6)] == [
        b"",
        *(bytes([at]) for at in range(1, 6)),
    ]


def test_the_version_that_was_opened(tmp_path):
    path = str(tmp_path / "t.lance")
    lance_features.blobs_of_version_2(path)
    perm = ll.open(path).with_blobs("files")
    lance.dataset(path).delete("id = 1")
    assert perm[1][0]["image"].readall() == b"\1" * 10


def test_columns_that_are_no_blobs(videos):
    with pytest.raises(ValueError, match="not a blob column"):
        videos.with_blobs("files", ["id"])
    with pytest.raises(errors.ColumnNotFoundError):
        videos.with_blobs("files", ["nothing"])
    with pytest.raises(ValueError, match="blobs"):
        videos.with_blobs("handles")
    with pytest.raises(errors.UnsupportedError, match="in files"):
        ll.open(pa.table({"x": [1]})).with_blobs("files")


def test_a_process_keeps_few_tables_open(videos):
    videos[1][0]["image"].read()
    ours = [key for key in blob_files._DATASETS if key[0] == os.getpid()]
    assert 1 <= len(ours) <= blob_files.MOST_DATASETS
