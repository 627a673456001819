"""A server that speaks as much S3 as reading takes, over a folder, and keeps connections open."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import os
import threading
import urllib.parse
from pathlib import Path

BUCKET = "bucket"


def respond(request, status: int, content: bytes, headers: dict) -> None:
    """Answer a request, without the content if it is one for headers alone."""
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        trouble = self.server.trouble and self.server.trouble()
        if trouble is not None:
            self.answer(*trouble)
            return
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        root: Path = self.server.folder
        if "list-type" in query and url.path.strip("/") != BUCKET:
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return
        if "list-type" in query:
            self.answer(200, listing(root, query.get("prefix", [""])[0]))
            return
        file = root / urllib.parse.unquote(url.path).removeprefix(f"/{BUCKET}/")
        if not file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        size = file.stat().st_size
        start, stop = 0, size
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start = int(first) if first else stop - int(last)
            stop = min(int(last) + 1, stop) if first and last else stop
        with file.open("rb") as opened:
            opened.seek(start)
            content = opened.read(stop - start)
        place = f"bytes {start}-{stop - 1}/{size}"
        status = 206 if "Range" in self.headers else 200
        self.answer(status, content, {"Content-Range": place})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, content: bytes, headers: dict | None = None) -> None:
        own = {"ETag": '"x"', "Last-Modified": email.utils.formatdate(usegmt=True)}
        respond(self, status, content, own | (headers or {}))

    def log_message(self, *args) -> None:
        pass


def listing(root: Path, prefix: str) -> bytes:
    files = (file for file in sorted(root.rglob("*")) if file.is_file())
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"x"</ETag><Size>{file.stat().st_size}</Size></Contents>'
        for file in files
        if (key := file.relative_to(root).as_posix()).startswith(prefix)
    )
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{prefix}</Prefix>"
        f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


class Server(http.server.ThreadingHTTPServer):
    # As many connections as come at once: others would wait for a second.
    request_queue_size = 1024


@contextlib.contextmanager
def serving(folder: Path, trouble=None, *, request: type[Request] = Request):
    """Serve a folder as a bucket; gives the endpoint.

    Before each answer ``trouble`` is called, which may give another one: a status and a content.
    """
    with Server(("127.0.0.1", 0), request) as server:
        server.daemon_threads = True
        server.folder = folder
        server.trouble = trouble
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            # Connections that are open would be waited for.
            server.block_on_close = False


def forget_credentials(monkeypatch) -> None:
    """No credentials of the machine that the tests run on."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
