"""Clones of tables with computed columns, in the cache folder: made by one process, and used by all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from lanceloader.engine import PylanceEngine, engine_of_uri
from lanceloader.errors import UnsupportedError
from lanceloader.monitor.progress import progress_over
from lanceloader.sources.base import sql_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lanceloader._typing import Progress
    from lanceloader.sources.native import LanceSource

__all__ = ["clone", "expression_errors", "key_of", "locked", "locked_folder"]

DESCRIPTION = "columns.json"
"""The file that describes computed columns; it is written last."""

LOCK = "lock"
"""The file that users of computed columns lock, so that these are not removed."""

MAKING = "making"
"""The file that a process locks while it computes columns, and while it removes them."""

TABLE = "values.lance"
"""The name of the clone in its folder."""

BATCHES_AHEAD = 4
BATCH_BYTES = 8 << 20
BUFFER_BYTES = 128 << 20
"""How much is read ahead while expressions are computed; Lance's default is 2 GiB."""


def key_of(base: LanceSource, expressions: dict[str, str]) -> str:
    """Return the name of the folder of computed columns: of the table, its place and expressions."""
    parts = [base.identity or "", base.uri, base.version, base.branch]
    text = json.dumps([*parts, sorted(expressions.items())])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def locked_folder(folder: Path) -> int:
    """Make a folder and lock it against others that compute, and return the descriptor of the lock."""
    path = folder / MAKING
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = locked(path, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        # The previous holder of the lock has removed the folder.
        os.close(lock)


def locked(path: Path, how: int) -> int:
    """Open and lock a file, and return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(path, flags, 0o600)
    try:
        fcntl.flock(lock, how)
    except BaseException:
        os.close(lock)
        raise
    return lock


def clone(
    base: LanceSource, expressions: dict[str, str], folder: Path, progress: Progress
) -> None:
    """Write the clone of a table with computed columns into a folder, as a whole or not at all."""
    import pyarrow as pa

    engine = engine_of_uri(
        base.uri, base.version, base.branch, base.storage_options or None
    )
    if not isinstance(engine, PylanceEngine):
        message = (
            "expressions are computed by pylance, which is not installed: "
            'pip install "lanceloader[lance]"'
        )
        raise UnsupportedError(message)
    target = folder / TABLE
    # What an interrupted process left behind: its lock is gone.
    shutil.rmtree(target, ignore_errors=True)
    try:
        with expression_errors(expressions, base.column_names):
            stream = engine.dataset.scanner(
                columns=expressions,
                batch_readahead=BATCHES_AHEAD,
                fragment_readahead=1,
                io_buffer_size=BUFFER_BYTES,
                batch_size_bytes=BATCH_BYTES,
            ).to_reader()
            batches = progress_over(
                stream,
                base.num_rows,
                "computing columns",
                enabled=progress,
                rows_of=lambda batch: batch.num_rows,
            )
            reference: Any = base.version
            if base.branch:
                reference = base.branch, base.version
            copy = engine.dataset.shallow_clone(str(target), reference)
            copy.add_columns(pa.RecordBatchReader.from_batches(stream.schema, batches))
        # The table at this address may be another one by now.
        base.check_same()
        about = {
            "table": base.identity,
            "columns": list(expressions.values()),
            "rows": base.num_rows,
        }
        part = folder / f"{DESCRIPTION}.part"
        part.write_text(json.dumps(about))
        part.rename(folder / DESCRIPTION)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def expression_errors(
    expressions: dict[str, str], columns: Sequence[str]
) -> Iterator[None]:
    """Turn errors of a library into a ``ValueError`` that quotes the expressions."""
    with sql_errors("expression", ", ".join(expressions.values()), columns):
        yield
