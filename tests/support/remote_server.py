"""A LanceDB server for one database folder: what clients of ``db://`` ask for when they read.

It promises no more than the protocol does: rows come in an order of their own.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import random
import threading
from typing import TYPE_CHECKING

import lance
import lancedb
import pyarrow as pa
from lance.schema import schema_to_json

if TYPE_CHECKING:
    from pathlib import Path

API_KEY = "sk_a1b2c3d4e5f6"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder of ``<name>.lance``, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.queries: list[dict] = []


class Connect:
    """Opens a table of a server by name, in any process: a connection factory."""

    def __init__(self, url: str, api_key: str = API_KEY) -> None:
        self.url = url
        self.api_key = api_key

    def __call__(self, name: str):
        db = lancedb.connect("db://dev", api_key=self.api_key, host_override=self.url)
        return db.open_table(name)

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)


class Request(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: two wait for each other.
    wbufsize = -1

    def do_POST(self) -> None:
        length = int(self.headers["content-length"] or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        if self.headers["x-api-key"] != API_KEY:
            self.answer(401, b"no such key")
            return
        name, *rest = self.path.partition("?")[0].strip("/").split("/")[2:]
        what = "/".join(rest)
        if what != "query" and what not in ANSWERS:
            self.answer(404, b"not known here")
            return
        try:
            dataset = lance.dataset(self.server.folder / f"{name}.lance")
            if body.get("version") is not None:
                dataset = dataset.checkout_version(body["version"])
        except (ValueError, OSError) as error:
            self.answer(404, str(error).encode())
            return
        try:
            if what == "query":
                self.server.queries.append(body)
                self.answer(
                    200, rows(dataset, body), "application/vnd.apache.arrow.file"
                )
            else:
                self.answer(200, json.dumps(ANSWERS[what](dataset, body)).encode())
        except (ValueError, OSError) as error:
            self.answer(400, str(error).encode())

    def do_GET(self) -> None:
        if self.headers["x-api-key"] != API_KEY:
            self.answer(401, b"no such key")
            return
        names = sorted(each.stem for each in self.server.folder.glob("*.lance"))
        self.answer(200, json.dumps({"tables": names}).encode())

    def answer(
        self, status: int, content: bytes, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


ANSWERS = {
    "describe": lambda dataset, body: {
        "version": dataset.version,
        "schema": schema_to_json(dataset.schema),
    },
    "count_rows": lambda dataset, body: dataset.count_rows(body.get("predicate")),
    "get_lsm_write_spec": lambda dataset, body: {},
}


def rows(dataset: lance.LanceDataset, query: dict) -> bytes:
    found = dataset.scanner(
        columns=query.get("columns"),
        filter=query.get("filter"),
        limit=query["k"] if query["k"] < 2**31 else None,
        with_row_id=query.get("with_row_id", False),
    ).to_table()
    order = random.sample(range(found.num_rows), found.num_rows)
    file = io.BytesIO()
    with pa.ipc.new_file(file, found.schema) as writer:
        writer.write_table(found.take(pa.array(order, pa.int64())))
    return file.getvalue()


@contextlib.contextmanager
def serving(folder: Path):
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
