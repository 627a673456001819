"""A read-only server of a folder that speaks S3, as slow and as limited as a real one.

Answers begin after a time that is lognormal; each connection has a bandwidth, all of them together have
another, and requests above a rate are refused with 503. ``GET /__stats`` gives the counts, and starts them anew. It runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET = "bucket"
CHUNK_BYTES = 256 << 10
BURST_S = 0.002
"""How far all connections together may be ahead of their bandwidth."""
Z_99 = 2.326
"""The 99 % quantile of the standard normal distribution."""
READY_S = 20.0


@dataclass(frozen=True)
class Slowness:
    """How slow a server is.

    Attributes:
        p50: The median time until an answer begins, in seconds.
        p99: Its 99 % quantile.
        bandwidth: Bytes per second of one connection.
        total: Bytes per second of all connections, as of a network of 10 Gbit/s.
        rate: Requests per second above which some are refused.
    """

    p50: float = 0.03
    p99: float = 0.2
    bandwidth: float = 100e6
    total: float = 1.25e9
    rate: float = 5500.0


class Server:
    def __init__(self, folder: Path, slowness: Slowness) -> None:
        self.folder = folder
        self.slowness = slowness
        self.random = random.Random(0)
        self.files: dict[Path, tuple[int, int]] = {}
        self.tokens, self.filled = slowness.rate, time.monotonic()
        self.sent_until = 0.0
        """When all that was sent is through, by the bandwidth of all connections."""
        self.reset()

    def reset(self) -> None:
        self.counts = {"requests": 0, "bytes": 0, "refused": 0, "most": 0}
        self.now = 0

    def delay(self) -> float:
        """Return a time until an answer begins."""
        sigma = math.log(self.slowness.p99 / self.slowness.p50) / Z_99
        return self.slowness.p50 * math.exp(sigma * self.random.gauss(0, 1))

    def is_refused(self) -> bool:
        now = time.monotonic()
        rate = self.slowness.rate
        # As many as come in a fifth of a second may come at once.
        self.tokens = min(rate / 5, self.tokens + (now - self.filled) * rate)
        self.filled = now
        if self.tokens < 1:
            return True
        self.tokens -= 1
        return False

    def opened(self, path: Path) -> tuple[int, int]:
        if path not in self.files:
            number = os.open(path, os.O_RDONLY)
            self.files[path] = number, os.fstat(number).st_size
        return self.files[path]

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self.answer(head.decode("latin1"), writer)
        writer.close()

    async def answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        line, *lines = head.split("\r\n")
        method, target, _ = line.split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (each.partition(":") for each in lines if each)
        }
        url = urllib.parse.urlparse(target)
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/__stats":
            body = json.dumps(self.counts).encode()
            self.reset()
            await send(writer, 200, body)
            return
        self.counts["requests"] += 1
        self.now += 1
        self.counts["most"] = max(self.counts["most"], self.now)
        try:
            await asyncio.sleep(self.delay())
            if self.is_refused():
                self.counts["refused"] += 1
                await send(writer, 503, b"<Error><Code>SlowDown</Code></Error>")
            elif "list-type" in query:
                await send(
                    writer, 200, listing(self.folder, query.get("prefix", [""])[0])
                )
            else:
                await self.send_object(method, url.path, headers, writer)
        finally:
            self.now -= 1

    async def send_object(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> None:
        path = self.folder / urllib.parse.unquote(target).removeprefix(f"/{BUCKET}/")
        if not path.is_file():
            await send(writer, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        number, size = self.opened(path)
        start, stop, status = 0, size, 200
        if "range" in headers:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            start = int(first) if first else size - int(last)
            stop = min(int(last) + 1, size) if first and last else size
            status = 206
        more = f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n"
        writer.write(head_of(status, stop - start, more))
        if method == "HEAD":
            await writer.drain()
            return
        began = time.monotonic()
        for at in range(start, stop, CHUNK_BYTES):
            chunk = os.pread(number, min(CHUNK_BYTES, stop - at), at)
            writer.write(chunk)
            self.counts["bytes"] += len(chunk)
            await writer.drain()
            due = began + (at + len(chunk) - start) / self.slowness.bandwidth
            now = time.monotonic()
            self.sent_until = max(self.sent_until, now)
            self.sent_until += len(chunk) / self.slowness.total
            if self.sent_until > now + BURST_S:
                due = max(due, self.sent_until)
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)


def head_of(status: int, length: int, more: str = "") -> bytes:
    return (
        f'HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nETag: "x"\r\n'
        f"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n{more}\r\n"
    ).encode()


async def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(head_of(status, len(body)) + body)
    await writer.drain()


def listing(root: Path, prefix: str) -> bytes:
    found = (
        (file.relative_to(root).as_posix(), file)
        for file in sorted((root / prefix).parent.rglob("*"))
        if file.is_file()
    )
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"x"</ETag><Size>{file.stat().st_size}</Size></Contents>'
        for key, file in found
        if key.startswith(prefix)
    )
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{prefix}</Prefix>"
        f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


@dataclass(frozen=True)
class Store:
    """A server that runs."""

    endpoint: str

    @property
    def options(self) -> dict[str, str]:
        """What lance, lancedb and lanceloader take to reach it."""
        return {
            "aws_endpoint": self.endpoint,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
            "aws_region": "us-east-1",
            "allow_http": "true",
        }

    def counts(self) -> dict[str, int]:
        """Return what was asked since the last time."""
        with urllib.request.urlopen(f"{self.endpoint}/__stats") as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Store]:
    """Serve a folder as a bucket, from a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Store(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


async def run(folder: Path, slowness: Slowness) -> None:
    server = Server(folder, slowness)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    options: Any = arguments.parse_args()
    asyncio.run(run(options.folder, Slowness()))


if __name__ == "__main__":
    main()
