"""A server that speaks as much of Hugging Face's protocol as reading takes, over a folder.

Two servers, as there: the Hub, which knows repositories and tokens, and the storage behind it, which serves
what has a signed address. What is sent to the wrong one is noted.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import s3_folder

KINDS = ("datasets", "models", "spaces", "buckets")
PAGE_ENTRIES = 3
ENDLESS = False
"""Whether the next page of a list is always the same one."""
COMMIT = "c0ffee"
VARIABLES = (
    "HF_TOKEN",
    "HUGGINGFACE_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
)
CODES = {401: "", 403: "GatedRepo", 404: "RepoNotFound"}


@dataclass
class Hub:
    """What is served, how, and what was asked.

    Attributes:
        folder: Holds the files of the repository.
        repository: Its kind and name.
        revisions: Those that it has; all have the same files.
        token: Who may read it; ``None`` for everyone.
        is_gated: Whether other users know of it.
        is_mirror: Whether all files lie elsewhere, and sizes are left out.
        lifetime: Seconds for which a signed address is valid.
        fault: Called for each request for a signed address with its number; returns ``None``, a
            status, ``"short"`` (half of the body) or ``"reset"`` (no answer).
        trouble: Called for each request to the Hub with its path; returns ``None``, a
            status, or the address to ask instead.
        resolved: The files whose addresses were asked for, with the method.
        ranges: The ranges that were asked for at signed addresses.
        misplaced: What was sent to the wrong server, or asked by the wrong method.
    """

    folder: Path
    repository: str = "datasets/me/music"
    revisions: tuple[str, ...] = ("main", COMMIT)
    token: str | None = None
    is_gated: bool = False
    is_mirror: bool = False
    lifetime: float = 3600.0
    fault: object = None
    trouble: object = None
    endpoint: str = ""
    storage: str = ""
    key: int = 0
    pause: int | None = None
    pause_header: str = "RateLimit"
    requests: int = 0
    bytes: int = 0
    failed: int = 0
    resolved: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        with self.lock:
            self.requests = self.bytes = self.failed = 0
            self.resolved.clear()
            self.ranges.clear()

    def signature(self, path: str, expires: str) -> str:
        text = f"{self.key} {path} {expires}"
        return hashlib.sha256(text.encode()).hexdigest()

    def signed(self, path: str) -> str:
        expires = str(int(time.time() + self.lifetime))
        query = {"Expires": expires, "Signature": self.signature(path, expires)}
        return (
            f"{self.storage}/{urllib.parse.quote(path)}?{urllib.parse.urlencode(query)}"
        )


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, content: bytes = b"", headers=()) -> None:
        s3_folder.respond(self, status, content, dict(headers))

    def log_message(self, *args) -> None:
        pass


class HubRequest(Request):
    """Answers as the Hub does."""

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        if status := self.hub.trouble and self.hub.trouble(url.path):
            if isinstance(status, str):
                self.answer(307, headers={"Location": status})
                return
            pause = self.hub.pause
            more = {}
            if pause is not None:
                is_limit = self.hub.pause_header == "RateLimit"
                text = f'"api";r=0;t={pause}' if is_limit else str(pause)
                more = {self.hub.pause_header: text}
            self.answer(status, headers=more)
            return
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:2] == ["api", "resolve-cache"]:
            kind, owner, name, _, *path = parts[2:]
            if self.may_read(kind, owner, name):
                self.send_file("/".join(path))
        elif parts[0] == "api":
            kind, owner, name, what, *rest = parts[1:]
            if self.may_read(kind, owner, name):
                self.answer_api(kind, what, rest, urllib.parse.parse_qs(url.query))
        else:
            kind = parts.pop(0) if parts[0] in KINDS else "models"
            owner, name, what, *rest = parts
            assert what == "resolve"
            if self.may_read(kind, owner, name):
                self.resolve(kind, owner, name, rest)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.form = urllib.parse.parse_qs(self.rfile.read(length).decode())
        self.do_GET()

    def may_read(self, kind: str, owner: str, name: str) -> bool:
        """Whether the sender may read a repository; otherwise an answer was sent."""
        hub = self.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = f"{kind}/{owner}/{name}"
        is_there = asked.lower() == hub.repository.lower()
        if token and not token.startswith("hf_"):
            return self.refuse(401)
        if not is_there or (hub.token not in (None, token) and not hub.is_gated):
            return self.refuse(404 if token else 401)
        if hub.token not in (None, token):
            return self.refuse(403 if token else 401)
        if asked != hub.repository:
            # Names are found in upper and lower case, at the address in the right one.
            location = self.path.replace(
                f"{owner}/{name}", hub.repository[len(kind) + 1 :]
            )
            self.answer(307, headers={"Location": location})
            return False
        return True

    def refuse(self, status: int, code: str | None = None) -> bool:
        code = CODES[status] if code is None else code
        headers = {"X-Error-Code": code, "X-Error-Message": "no <b>access</b>"}
        self.answer(status, b"<html>sorry</html>", headers)
        return False

    def has_revision(self, kind: str, rest: list[str]) -> bool:
        if kind == "buckets":
            return True
        if rest[0] in self.hub.revisions:
            rest.pop(0)
            return True
        return self.refuse(404, "RevisionNotFound")

    def answer_api(self, kind: str, what: str, rest: list[str], query) -> None:
        if not self.has_revision(kind, rest):
            return
        root = self.hub.folder
        if what == "paths-info":
            files = [
                root / path for path in self.form["paths"] if (root / path).exists()
            ]
            self.answer(200, json.dumps([self.entry(file) for file in files]).encode())
            return
        assert what == "tree"
        folder = root.joinpath(*rest)
        if not folder.is_dir():
            self.refuse(404, "EntryNotFound")
            return
        is_recursive = query.get("recursive", ["false"])[0].lower() == "true"
        found = sorted(folder.rglob("*") if is_recursive else folder.iterdir())
        start = int(query.get("cursor", ["0"])[0])
        stop = start + PAGE_ENTRIES
        more = {}
        if stop < len(found) or ENDLESS:
            flag = str(is_recursive).lower()
            path = self.path.partition("?")[0]
            next_page = f"{self.hub.endpoint}{path}?recursive={flag}&cursor={stop}"
            more = {"Link": f'<{next_page}>; rel="next"'}
        entries = [self.entry(file) for file in found[start:stop]]
        self.answer(200, json.dumps(entries).encode(), more)

    def entry(self, file: Path) -> dict:
        path = file.relative_to(self.hub.folder).as_posix()
        if file.is_dir():
            return {"type": "directory", "oid": "d", "size": 0, "path": path}
        return {"type": "file", "oid": "f", "size": file.stat().st_size, "path": path}

    def resolve(self, kind: str, owner: str, name: str, rest: list[str]) -> None:
        if not self.has_revision(kind, rest):
            return
        path = "/".join(rest)
        with self.hub.lock:
            self.hub.resolved.append((self.command, path))
        file = self.hub.folder / path
        if not file.is_file():
            self.refuse(404, "EntryNotFound")
        elif file.suffix == ".lance" or self.hub.is_mirror:
            size = str(file.stat().st_size)
            headers = {"Location": self.hub.signed(path), "X-Xet-Hash": "beef"}
            if not self.hub.is_mirror:
                headers |= {"X-Linked-Size": size, "X-Linked-ETag": '"x"'}
            self.answer(302, b"moved", headers)
        else:
            cached = f"/api/resolve-cache/{kind}/{owner}/{name}/{COMMIT}/"
            location = cached + urllib.parse.quote(path)
            self.answer(307, headers={"Location": location})

    def send_file(self, path: str) -> None:
        self.answer(*part_of(self.hub.folder / path, self.headers.get("Range")))


class StorageRequest(Request):
    """Answers as the storage behind the Hub does."""

    def do_GET(self) -> None:
        hub = self.hub
        url = urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(url.path).lstrip("/")
        query = dict(urllib.parse.parse_qsl(url.query))
        if self.command != "GET" or "Authorization" in self.headers:
            with hub.lock:
                hub.misplaced.append(f"{self.command} {path}")
        with hub.lock:
            hub.requests += 1
            hub.ranges.append(self.headers.get("Range", ""))
            number = hub.requests
        fault = hub.fault and hub.fault(number)
        with hub.lock:
            hub.failed += fault is not None
        if fault == "reset":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self.answer(fault, b"<Error><Code>SlowDown</Code></Error>")
            return
        expires = query.get("Expires", "0")
        is_signed = query.get("Signature") == hub.signature(path, expires)
        if not is_signed or float(expires) < time.time():
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        status, content, headers = part_of(hub.folder / path, self.headers.get("Range"))
        with hub.lock:
            hub.bytes += len(content)
        if fault == "short":
            headers["Content-Length"] = str(len(content))
            content = content[: len(content) // 2]
            self.close_connection = True
        self.answer(status, content, headers)


def part_of(file: Path, asked: str | None) -> tuple[int, bytes, dict[str, str]]:
    if not file.is_file():
        return 404, b"", {}
    size = file.stat().st_size
    if asked is None:
        return 200, file.read_bytes(), {"ETag": '"x"'}
    first, last = asked.removeprefix("bytes=").split("-")
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    with file.open("rb") as opened:
        opened.seek(start)
        content = opened.read(stop - start)
    return (
        206,
        content,
        {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "ETag": '"x"'},
    )


@contextlib.contextmanager
def serving(folder: Path, **options):
    """Serve a folder as a repository; gives the Hub."""
    hub = Hub(folder, **options)
    with contextlib.ExitStack() as stack:
        addresses = []
        for request in (HubRequest, StorageRequest):
            server = stack.enter_context(s3_folder.Server(("127.0.0.1", 0), request))
            server.daemon_threads = True
            server.hub = hub
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(stop, server, thread)
            addresses.append(f"http://127.0.0.1:{server.server_port}")
        hub.endpoint, hub.storage = addresses
        yield hub


def stop(server, thread) -> None:
    server.shutdown()
    thread.join()
    # Connections that are open would be waited for.
    server.block_on_close = False


def forget_credentials(monkeypatch, empty: Path) -> None:
    """No token of the machine that the tests run on."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(empty))
