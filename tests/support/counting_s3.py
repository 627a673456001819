"""An S3 server over a folder that counts what is asked of it, and fails when told to."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest
import s3_folder

KEYS = {
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "aws_region": "us-east-1",
    "allow_http": "true",
}


def data_bytes(folder, name="t"):
    """Return the bytes of the data files of a table."""
    return sum(
        file.stat().st_size for file in (folder / f"{name}.lance/data").iterdir()
    )


@dataclass
class Server:
    """What data files were asked for, and how to answer.

    Attributes:
        requests: Requests for data files, since the last ``reset``.
        bytes: Bytes of the answers.
        most: The most requests at once.
        failed: The requests that ``fault`` spoiled.
        fault: Called for each request with its number; returns ``None``, a status, ``"short"``
            (half of the body) or ``"reset"`` (no answer).
        latency: Seconds before each answer.
        spans: When each request came and was answered.
    """

    endpoint: str = ""
    requests: int = 0
    bytes: int = 0
    now: int = 0
    most: int = 0
    failed: int = 0
    fault: object = None
    latency: float = 0.0
    spans: list = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def options(self) -> dict[str, str]:
        return KEYS | {"aws_endpoint": self.endpoint}

    def reset(self) -> None:
        with self.lock:
            self.requests = self.bytes = self.most = self.failed = 0
            self.spans.clear()

    @property
    def round_trips(self) -> int:
        """The most requests of which each came after the answer to the one before."""
        count, end = 0, 0.0
        for came, answered in sorted(self.spans, key=lambda span: span[1]):
            if came >= end:
                count, end = count + 1, answered
        return count

    @contextlib.contextmanager
    def counted(self):
        with self.lock:
            self.requests += 1
            self.now += 1
            self.most = max(self.most, self.now)
            number = self.requests
            came = time.monotonic()
        try:
            yield number
        finally:
            with self.lock:
                self.now -= 1
                self.spans.append((came, time.monotonic()))


@contextlib.contextmanager
def serving(folder, request=s3_folder.Request):
    """Serve a folder as a bucket of the store whose requests ``request`` answers; gives the server."""
    server = Server()

    class Request(request):
        fault = None

        def do_GET(self) -> None:  # noqa: N802
            self.fault = None
            if "/data/" not in unquote(self.path):
                super().do_GET()
                return
            with server.counted() as number:
                time.sleep(server.latency)
                self.fault = server.fault and server.fault(number)
                with server.lock:
                    server.failed += self.fault is not None
                if isinstance(self.fault, int):
                    self.answer(self.fault, b"<Error><Code>SlowDown</Code></Error>")
                elif self.fault == "reset":
                    self.close_connection = True
                else:
                    super().do_GET()

        def answer(self, status, content, headers=None) -> None:
            if (
                status < 300
                and self.command == "GET"
                and "/data/" in unquote(self.path)
            ):
                with server.lock:
                    server.bytes += len(content)
            if self.fault != "short":
                super().answer(status, content, headers)
                return
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(content)),
                "ETag": '"x"',
                "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True

    with s3_folder.serving(folder, request=Request) as endpoint:
        server.endpoint = endpoint
        yield server


@pytest.fixture
def server(folder):
    """The folder that the fixture ``folder`` returns, as a bucket of S3."""
    with serving(folder) as server:
        yield server
