"""Object storage that cannot be used: one line says what was tried, where, and what to check."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
import s3_folder
from lanceloader import errors
from process_state import soon
from vector_tables import large, table_of

pytestmark = pytest.mark.usefixtures("no_credentials")

KEY_ID = "AKIAQ7XEXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENG"
URI = f"s3://{s3_folder.BUCKET}/t.lance"


def options_of(endpoint, **more):
    return {
        "aws_endpoint": endpoint,
        "allow_http": "true",
        "aws_region": "eu-north-7",
        "aws_access_key_id": KEY_ID,
        "aws_secret_access_key": SECRET,
        **more,
    }


def refusal(code, status=403):
    content = (
        f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>No.</Message>'
        f"<StringToSign>{SECRET}</StringToSign></Error>"
    )
    return status, content.encode()


def said(opening, kind, *parts):
    """What an error says in its one line."""
    with pytest.raises(kind) as raised:
        opening()
    message = str(raised.value)
    for part in parts:
        assert part in message, message
    for part in ("\n", "<", "xml", ".rs:", "retries", "LanceError", SECRET, KEY_ID):
        assert part not in message, message
    return raised.value


@pytest.fixture
def folder(tmp_path):
    lance.write_dataset(pa.table({"x": range(100)}), tmp_path / "t.lance")
    return tmp_path


@pytest.mark.parametrize(
    "code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied"]
)
@pytest.mark.parametrize("pin", [{}, {"version": 1}], ids=["latest", "version"])
def test_keys_that_are_wrong(folder, code, pin):
    with s3_folder.serving(folder, lambda: refusal(code)) as endpoint:
        error = said(
            lambda: ll.open(URI, storage_options=options_of(endpoint), **pin),
            PermissionError,
            *(URI, endpoint, "eu-north-7", code, "`aws_secret_access_key`"),
            "AWS_SECRET_ACCESS_KEY",
        )
    assert isinstance(error, errors.StorageError)


def test_a_bucket_that_is_missing(folder):
    with s3_folder.serving(folder, lambda: refusal("NoSuchBucket", 404)) as endpoint:
        said(
            lambda: ll.open(URI, storage_options=options_of(endpoint)),
            FileNotFoundError,
            *(URI, endpoint, "no bucket `bucket`", "AWS_ENDPOINT"),
        )


def test_a_table_that_is_missing_is_no_missing_bucket(folder):
    with s3_folder.serving(folder) as endpoint:
        uri = f"s3://{s3_folder.BUCKET}/none.lance"
        error = said(
            lambda: ll.open(uri, storage_options=options_of(endpoint)),
            FileNotFoundError,
            uri,
        )
    assert "bucket `" not in str(error)


def test_a_bucket_in_another_region(folder):
    with s3_folder.serving(
        folder, lambda: refusal("PermanentRedirect", 301)
    ) as endpoint:
        said(
            lambda: ll.open(URI, storage_options=options_of(endpoint)),
            OSError,
            *(URI, endpoint, "region", "AWS_REGION"),
        )


def nobody():
    """An endpoint where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("pin", [{}, {"version": 1}], ids=["latest", "version"])
def test_an_endpoint_where_nobody_listens(pin):
    endpoint = nobody()
    error = said(
        lambda: ll.open(URI, storage_options=options_of(endpoint), **pin),
        ConnectionError,
        *(URI, endpoint, "refused", "`aws_endpoint`", "AWS_ENDPOINT"),
    )
    assert isinstance(error, errors.StorageError)


def test_a_host_that_does_not_exist():
    endpoint = "http://no-such-host.invalid:9000"
    said(
        lambda: ll.open(URI, storage_options=options_of(endpoint)),
        ConnectionError,
        *(URI, endpoint, "AWS_ENDPOINT"),
    )


@contextlib.contextmanager
def black_hole():
    """A server that takes connections and never answers; gives its endpoint and the connections."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_an_endpoint_that_never_answers():
    with black_hole() as (endpoint, taken):
        options = options_of(endpoint, timeout="2 seconds")
        said(
            lambda: ll.open(URI, storage_options=options),
            TimeoutError,
            *(URI, endpoint, "in time", "AWS_ENDPOINT", "`timeout`"),
        )
        # What Lance does on its own is more than 20.
        assert len(taken) <= 6


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_an_endpoint_that_never_answers_ends_without_options():
    """After hours, by the patience of the libraries below; the limit says that it ends."""
    with black_hole() as (endpoint, _):
        said(
            lambda: ll.open(URI, storage_options=options_of(endpoint)),
            TimeoutError,
            *(URI, endpoint),
        )


def test_credentials_are_not_pickled_and_the_error_says_so(folder):
    with s3_folder.serving(folder) as endpoint:
        perm = ll.open(URI, storage_options=options_of(endpoint))
        pickled = pickle.dumps(perm)
        error = said(
            lambda: pickle.loads(pickled).to_arrow(),
            PermissionError,
            *(URI, endpoint, "no credentials", "AWS_ACCESS_KEY_ID", "unpickled"),
        )
    assert isinstance(error, errors.StorageDeniedError)


def test_plain_http_that_is_not_allowed(folder):
    with s3_folder.serving(folder) as endpoint:
        options = options_of(endpoint) | {"allow_http": "false"}
        said(
            lambda: ll.open(URI, storage_options=options),
            OSError,
            *(URI, endpoint, "`allow_http`"),
        )


def test_what_was_open_says_the_same(folder):
    trouble = []
    with s3_folder.serving(folder, lambda: trouble[0] if trouble else None) as endpoint:
        options = options_of(endpoint, client_max_retries="0")
        perm = ll.open(URI, storage_options=options)
        trouble.append(refusal("AccessDenied"))
        said(
            perm.to_arrow,
            PermissionError,
            *(f"{URI}/data/", endpoint, "AWS_SECRET_ACCESS_KEY"),
        )
        trouble[0] = refusal("SlowDown", 503)
        said(perm.to_arrow, errors.StorageError, f"{URI}/data/", endpoint, "SlowDown")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("is_kept", [False, True])
def test_rows_are_packed_once_storage_can_be_read_again(tmp_path, is_kept):
    large(tmp_path / "t.lance")
    trouble = []
    with s3_folder.serving(
        tmp_path, lambda: trouble[0] if trouble else None
    ) as endpoint:
        more = {"client_max_retries": "0", "lance_aimd_max_retries": "0"}
        perm = ll.open(URI, storage_options=options_of(endpoint, **more))
        cache = str(tmp_path / "rows") if is_kept else ""
        loader = perm.loader(
            1000, shuffle=True, seed=1, format="arrow", read="resident", cache_dir=cache
        )
        loader.set_epoch(0)
        trouble.append(refusal("SlowDown", 503))
        with pytest.raises(errors.StorageError, match="SlowDown"):
            table_of(loader)
        trouble.clear()
        wanted = perm.shuffle(1).with_read("direct").to_arrow()

        def is_packed():
            loader.set_epoch(0)
            assert table_of(loader).equals(wanted)
            return loader.stats().fill_seconds > 0

        # The next epoch, or one of those after it: there is a pause.
        assert soon(is_packed, 60), loader.stats()
        assert loader.stats().failure is None
        assert loader.stats().is_shared == is_kept
        # And another permutation.
        other = perm.shuffle(2).loader(
            1000, format="arrow", read="resident", cache_dir=cache
        )
        assert table_of(other).num_rows == len(perm)
        # All but the first batch of whoever packed them, which both count.
        assert other.stats().rows_direct <= 1000
        assert other.stats().rows_packed >= len(perm)
