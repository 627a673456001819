"""Tables in Google Cloud Storage and Azure are read natively, as those in S3 are."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import azure_folder
import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_folder
from lanceloader import errors
from read_natively import check_read_natively

ROWS = 5_000


@dataclass(frozen=True)
class Store:
    """A kind of store.

    Attributes:
        uri: The address of the table.
        request: Answers its requests.
        options: Its options, without the endpoint.
        endpoint: The option of the endpoint.
        secret: The option that holds a secret.
        missing: An address without a bucket.
        named: What the error calls the missing bucket.
    """

    uri: str
    request: type
    options: dict[str, str]
    endpoint: str
    secret: str
    missing: str
    named: str


AZURE = {"azure_storage_account_name": "account", "allow_http": "true"}
STORES = {
    # The protocol for reading is that of S3.
    "gs": Store(
        "gs://bucket/t.lance",
        s3_folder.Request,
        {"allow_http": "true"},
        "google_base_url",
        "google_storage_token",
        "gs://missing/t.lance",
        "bucket `missing`",
    ),
    "az": Store(
        "az://bucket/t.lance",
        azure_folder.Request,
        AZURE,
        "azure_storage_endpoint",
        "azure_storage_account_key",
        "az://missing/t.lance",
        "container `missing`",
    ),
    "abfss": Store(
        "abfss://bucket@account.dfs.core.windows.net/t.lance",
        azure_folder.Request,
        AZURE,
        "azure_storage_endpoint",
        "azure_storage_account_key",
        "abfss://missing@account.dfs.core.windows.net/t.lance",
        "container `missing`",
    ),
}

SECRET = "aHVzaC1odXNoLXRoaXMtaXMtYS1zZWNyZXQ="


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    """No credentials of Google Cloud and Azure, in place of those of S3."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    # Where credentials are looked for.
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(params=STORES)
def store(request):
    return STORES[request.param]


@pytest.fixture
def server(store, tmp_path):
    data = pa.table(
        {
            "id": range(ROWS),
            "x": np.random.default_rng(0).random(ROWS, np.float32),
            "text": [f"row {k}" * (k % 7) for k in range(ROWS)],
        }
    )
    lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=1000)
    with counting_s3.serving(tmp_path, store.request) as server:
        yield server


@pytest.fixture
def options(store, server):
    return {
        **store.options,
        store.endpoint: server.endpoint,
        store.secret: SECRET,
        "client_max_retries": "3",
    }


@pytest.fixture
def perm(store, options):
    return ll.open(store.uri, storage_options=options)


def test_rows_are_exact_and_read_natively(perm, tmp_path):
    local = ll.open(tmp_path / "t.lance")
    check_read_natively(perm, local)


def test_a_second_epoch_makes_no_request(perm, server, tmp_path):
    perm = perm.with_read(cache_dir=str(tmp_path / "cache"))
    loader = perm.loader(256, shuffle=True, seed=1, format="numpy_dict")
    epochs = [np.concatenate([batch["id"] for batch in loader])]
    assert server.requests
    server.reset()
    loader = perm.loader(256, shuffle=True, seed=1, format="numpy_dict")
    loader.set_epoch(1)
    epochs.append(np.concatenate([batch["id"] for batch in loader]))
    assert server.requests == 0
    assert all(sorted(ids) == list(range(ROWS)) for ids in epochs)
    assert list(epochs[0]) != list(epochs[1])


def test_a_store_that_is_busy_is_asked_again(perm, server, tmp_path):
    server.fault = lambda number: 503 if number % 3 == 0 else None
    perm = perm.with_read(cache_dir=str(tmp_path / "cache"))
    loader = perm.loader(256, shuffle=True, seed=1, format="numpy_dict")
    ids = np.concatenate([batch["id"] for batch in loader])
    assert sorted(ids) == list(range(ROWS))
    assert server.failed


def test_a_filter_is_answered_by_the_table_s_library(perm):
    assert len(perm.filter("id < 10")) == 10


def test_a_pickle_holds_no_secret(perm, server, store):
    assert SECRET.encode() not in pickle.dumps(perm)
    assert server.endpoint.encode() in pickle.dumps(perm)


def test_a_missing_bucket_is_named(store, options):
    with pytest.raises(FileNotFoundError, match=store.named):
        ll.open(store.missing, storage_options=options)


def test_a_missing_table_is_named(store, options):
    with pytest.raises(FileNotFoundError, match=r"u\.lance"):
        ll.open(store.uri.replace("t.lance", "u.lance"), storage_options=options)


def test_a_refusal_names_the_options_of_the_store(store, tmp_path):
    refusals = (403, b"<Error><Code>AccessDenied</Code></Error>")
    with s3_folder.serving(
        tmp_path, lambda: refusals, request=store.request
    ) as endpoint:
        options = {**store.options, store.endpoint: endpoint, store.secret: SECRET}
        with pytest.raises(errors.StorageDeniedError) as raised:
            ll.open(store.uri, storage_options=options)
    assert f"`{store.secret}`" in str(raised.value)
    assert "aws_" not in str(raised.value)
    assert SECRET not in str(raised.value)


def test_an_endpoint_that_nobody_serves_is_named(store):
    with s3_folder.Server(("127.0.0.1", 0), store.request) as gone:
        endpoint = f"http://127.0.0.1:{gone.server_port}"
    options = {**store.options, store.endpoint: endpoint, store.secret: SECRET}
    with pytest.raises(errors.StorageUnreachableError) as raised:
        ll.open(store.uri, storage_options={**options, "client_max_retries": "1"})
    assert endpoint in str(raised.value)
    assert f"`{store.endpoint}`" in str(raised.value)


def test_a_table_of_dynamodb_is_left_to_its_own_library():
    with pytest.raises(Exception, match=r"(?i)dynamodb|ddbTableName"):
        ll.open("s3+ddb://bucket/t.lance", storage_options=counting_s3.KEYS)
