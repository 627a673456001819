"""A server that speaks as much of Azure's Blob Storage as reading takes, over a folder."""

from __future__ import annotations

import email.utils
import urllib.parse
from pathlib import Path

import s3_folder


class Request(s3_folder.Request):
    """Blobs have the addresses that objects have in S3; containers are listed otherwise."""

    def do_GET(self) -> None:  # noqa: N802
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        if query.get("comp") != ["list"]:
            super().do_GET()
        elif trouble := self.server.trouble and self.server.trouble():
            self.answer(*trouble)
        elif url.path.strip("/") == s3_folder.BUCKET:
            self.answer(200, listing(self.server.folder, query.get("prefix", [""])[0]))
        else:
            self.answer(404, b"<Error><Code>ContainerNotFound</Code></Error>")


def listing(root: Path, prefix: str) -> bytes:
    files = (file for file in sorted(root.rglob("*")) if file.is_file())
    changed = email.utils.formatdate(0, usegmt=True)
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>{changed}</Last-Modified>"
        f"<Content-Length>{file.stat().st_size}</Content-Length><Etag>x</Etag>"
        "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
        for file in files
        if (name := file.relative_to(root).as_posix()).startswith(prefix)
    )
    return (
        f'<EnumerationResults ContainerName="{s3_folder.BUCKET}"><Prefix>{prefix}</Prefix>'
        f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
    ).encode()
