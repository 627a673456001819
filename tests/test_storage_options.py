"""What docs/how-to/object-storage.md says of options, variables, credentials and retries of S3."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import threading

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_folder
from lanceloader import errors

URI = f"s3://{s3_folder.BUCKET}/t.lance"
KEYS = {"aws_access_key_id": "KEY", "aws_secret_access_key": "hush-hush"}
ENVIRONMENT = {
    "AWS_REGION": "eu-north-1",
    "AWS_ACCESS_KEY_ID": "ENVKEY",
    "AWS_SECRET_ACCESS_KEY": "ENVSECRET",
}

pytestmark = pytest.mark.timeout(120)


class Server:
    """A bucket with a table, and the requests that it got."""

    def __init__(self, endpoint, requests):
        self.endpoint = endpoint
        self.requests = requests
        self.options = {"aws_endpoint": endpoint, "allow_http": "true"}

    def signed(self, number=0):
        """The key, the region and the token of a request."""
        request = self.requests[number]
        headers = {name.lower(): value for name, value in request.items()}
        _, _, credential = headers.get("authorization", "").partition("Credential=")
        key, _, region, *_ = (credential or "//").split("/")
        return key, region, headers.get("x-amz-security-token", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    lance.write_dataset(pa.table({"id": range(1000)}), folder / "t.lance")
    return folder


@contextlib.contextmanager
def serving(folder, trouble=None):
    """Serve the folder, and keep the headers of each request."""
    requests = []

    class Request(s3_folder.Request):
        def do_GET(self):  # noqa: N802
            requests.append(dict(self.headers))
            super().do_GET()

    with s3_folder.serving(folder, trouble, request=Request) as endpoint:
        yield Server(endpoint, requests)


@pytest.fixture
def server(folder, no_credentials):
    with serving(folder) as server:
        yield server


def test_options(server):
    options = server.options | KEYS | {"aws_region": "eu-north-1"}
    assert len(ll.open(URI, storage_options=options)) == 1000
    assert server.signed() == ("KEY", "eu-north-1", "")


@pytest.mark.parametrize(
    "spelling", [str.upper, lambda name: name.removeprefix("aws_")]
)
def test_spellings_of_options(server, spelling):
    options = server.options | KEYS
    options |= {"aws_region": "eu-north-1", "aws_session_token": "TOKEN"}
    renamed = {spelling(name): value for name, value in options.items()}
    assert len(ll.open(URI, storage_options=renamed)) == 1000
    assert server.signed() == ("KEY", "eu-north-1", "TOKEN")


@pytest.mark.parametrize("endpoint", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("region", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_variables(server, monkeypatch, endpoint, region):
    variables = ENVIRONMENT | {"AWS_SESSION_TOKEN": "TOKEN", "AWS_ALLOW_HTTP": "true"}
    variables[endpoint] = server.endpoint
    variables[region] = variables.pop("AWS_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert len(ll.open(URI)) == 1000
    assert server.signed() == ("ENVKEY", "eu-north-1", "TOKEN")


def test_each_option_takes_precedence_over_its_own_variable(server, monkeypatch):
    for name, value in (ENVIRONMENT | {"AWS_SESSION_TOKEN": "TOKEN"}).items():
        monkeypatch.setenv(name, value)
    ll.open(URI, storage_options=server.options | KEYS)
    # The token of the environment belongs to other keys.
    assert server.signed() == ("KEY", "eu-north-1", "TOKEN")
    server.requests.clear()
    ll.open(URI, storage_options=server.options | {"aws_region": "us-east-2"})
    assert server.signed() == ("ENVKEY", "us-east-2", "TOKEN")


def test_public_buckets_need_no_credentials(server):
    options = server.options | {
        "aws_region": "eu-north-1",
        "aws_skip_signature": "true",
    }
    assert len(ll.open(URI, storage_options=options)) == 1000
    assert server.signed() == ("", "", "")


def test_the_region_with_an_endpoint(server):
    ll.open(URI, storage_options=server.options | KEYS)
    assert server.signed() == ("KEY", "us-west-2", "")


@pytest.mark.parametrize(("profile", "key"), [(None, "FIRST"), ("other", "SECOND")])
def test_profiles(server, tmp_path, monkeypatch, profile, key):
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = FIRST\naws_secret_access_key = a\n"
        "[other]\naws_access_key_id = SECOND\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    options = server.options | {"aws_region": "eu-north-1"}
    assert len(ll.open(URI, storage_options=options)) == 1000
    assert server.signed() == (key, "eu-north-1", "")


class Role(http.server.BaseHTTPRequestHandler):
    """Hands out temporary credentials, as the service of a container does."""

    def do_GET(self):
        self.server.number += 1
        names = {
            "AccessKeyId": f"ROLE{self.server.number}",
            "SecretAccessKey": "c",
            "Token": "TEMPORARY",
            "Expiration": self.server.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        content = json.dumps(names).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def role(monkeypatch):
    """The service of a container's role."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Role) as service:
        service.number = 0
        service.expiration = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{service.server_port}/role"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


def test_roles(server, role):
    perm = ll.open(URI, storage_options=server.options | {"aws_region": "eu-north-1"})
    assert server.signed() == ("ROLE1", "eu-north-1", "TEMPORARY")
    assert perm.to_arrow().num_rows == 1000
    assert server.signed(-1)[0] == f"ROLE{role.number}"


def test_credentials_of_roles_are_renewed(folder, server, role):
    """They are when the request that follows their end is made, over the same connection."""
    role.expiration = dt.datetime.now(dt.UTC)
    numbers = np.random.default_rng(1).random(500_000)
    lance.write_dataset(pa.table({"x": numbers}), folder / "u.lance")
    uri = URI.replace("t.lance", "u.lance")
    options = server.options | {"aws_region": "eu-north-1"}
    perm = ll.open(uri, storage_options=options).with_read("direct", cache_dir="")
    perm.row(0)
    before = role.number
    perm.row(250_000)
    assert role.number > before
    assert server.signed(-1)[0] == f"ROLE{role.number}"


def test_times_have_a_unit(server):
    options = server.options | KEYS | {"timeout": "30"}
    with pytest.raises(errors.StorageError, match='failed to parse "30" as Duration'):
        ll.open(URI, storage_options=options)
    assert (
        len(ll.open(URI, storage_options=options | {"timeout": "30 seconds"})) == 1000
    )


def test_unknown_options_are_ignored(server):
    options = server.options | KEYS | {"aws_regoin": "eu-north-1"}
    with pytest.warns(UserWarning, match="did you mean 'aws_region'"):
        perm = ll.open(URI, storage_options=options)
    assert len(perm) == 1000


def test_filters_use_the_same_options(server):
    options = server.options | KEYS | {"aws_region": "eu-north-1"}
    assert len(ll.open(URI, storage_options=options).filter("id < 10")) == 10


def passing(number, status, code):
    """Trouble for the first requests."""
    answers = iter([(status, f"<Error><Code>{code}</Code></Error>".encode())] * number)
    return lambda: next(answers, None)


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (500, "InternalError")]
)
def test_failures_that_pass_are_tried_again(folder, monkeypatch, status, code):
    s3_folder.forget_credentials(monkeypatch)
    with serving(folder, passing(3, status, code)) as server:
        assert len(ll.open(URI, storage_options=server.options | KEYS)) == 1000
        assert len(server.requests) > 3


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_keys_that_expire_or_may_not_read(folder, monkeypatch, code):
    s3_folder.forget_credentials(monkeypatch)
    trouble = []
    with serving(folder, lambda: trouble[0] if trouble else None) as server:
        perm = ll.open(URI, storage_options=server.options | KEYS)
        # Rows that were fetched before need no permission.
        perm = perm.with_read(cache_dir="")
        trouble.append((403, f"<Error><Code>{code}</Code></Error>".encode()))
        with pytest.raises(errors.StorageDeniedError, match=code) as caught:
            perm.to_arrow()
    assert isinstance(caught.value, PermissionError)
    assert "hush-hush" not in str(caught.value)
