"""From the arguments of a command to a table: paths, URIs, and tables of LanceDB databases."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import lanceloader as ll
from lanceloader.cli.failures import UsageError
from lanceloader.monitor import redaction
from lanceloader.sources.hf_addresses import revision_as_option

__all__ = ["Address", "Database"]

_MOST_NAMES = 20


@dataclass(frozen=True)
class Database:
    """A LanceDB database.

    Attributes:
        uri: Its address.
        tables: The names of its tables.
    """

    uri: str
    tables: list[str]


@dataclass(frozen=True)
class Address:
    """The address of a table, from the options of a command."""

    uri: str
    table: str | None
    version: int | None
    branch: str | None
    tag: str | None
    storage_options: dict[str, str]

    @classmethod
    def of(
        cls,
        uri: str,
        table: str | None,
        version: int | None,
        branch: str | None,
        tag: str | None,
        storage_option: list[str] | None,
    ) -> Address:
        """Check the options.

        Raises:
            UsageError: If a storage option has no value, or names another revision than the address.
        """
        options = parsed(storage_option or [])
        redaction.remember(options)
        if table is not None:
            table = table.removesuffix(".lance")
        try:
            uri, checked = revision_as_option(uri, options)
        except ValueError as error:
            raise UsageError(str(error)) from None
        return cls(uri, table, version, branch, tag, dict(checked or {}))

    def find(self) -> str | Database | Any:
        """Return an argument for ``lanceloader.open``, or the database if no table was named.

        Raises:
            UsageError: If a database on a server cannot be connected to.
        """
        if self.uri.startswith("db://"):
            return self._on_server()
        if self.table is not None:
            return f"{self.uri.rstrip('/')}/{self.table}.lance"
        path = local_path(self.uri)
        if path is None:
            return self._in_object_storage()
        if path.is_dir() and not (path / "_versions").is_dir():
            tables = sorted(each.stem for each in path.glob("*.lance"))
            if tables:
                return Database(self.uri, tables)
        named = path.with_name(f"{path.name}.lance") if path.name else path
        if not path.exists() and named.is_dir():
            return str(named)
        return self.uri

    def target(self) -> Any:
        """Return an argument for ``lanceloader.open``.

        Raises:
            UsageError: If it is a database, and no table was named.
        """
        found = self.find()
        if isinstance(found, Database):
            names = ", ".join(found.tables[:_MOST_NAMES]) or "none"
            more = ", …" if len(found.tables) > _MOST_NAMES else ""
            message = (
                f"{found.uri} is a LanceDB database; name one of its tables with --table "
                f"({names}{more})"
            )
            raise UsageError(message)
        return found

    def keywords(self, target: Any) -> dict[str, Any]:
        """Return the options that a path or URI takes."""
        if not isinstance(target, str):
            if self.version is not None or self.branch or self.tag:
                raise UsageError("--version, --branch and --tag need a path or URI")
            return {}
        return {
            "version": self.version,
            "branch": self.branch,
            "tag": self.tag,
            "storage_options": self.storage_options or None,
        }

    def open(self) -> ll.Permutation:
        """Open the table."""
        target = self.target()
        return ll.open(target, **self.keywords(target))

    def info(self) -> ll.TableInfo | Database:
        """Describe the table, or return the database if no table was named."""
        found = self.find()
        if isinstance(found, Database):
            return found
        return ll.table_info(found, **self.keywords(found))

    def _in_object_storage(self) -> str | Database:
        if self.uri.rstrip("/").endswith(".lance"):
            return self.uri
        if importlib.util.find_spec("lancedb") is None:
            return self.uri
        try:
            ll.open(self.uri, storage_options=self.storage_options or None)
        except FileNotFoundError:
            import lancedb

            options = self.storage_options or None
            database = lancedb.connect(self.uri, storage_options=options)
            tables = names_in(database)
            if tables:
                return Database(self.uri, tables)
        return self.uri

    def _on_server(self) -> Any:
        name, _, inner = self.uri.removeprefix("db://").partition("/")
        table = self.table or inner.removesuffix(".lance") or None
        options = dict(self.storage_options)
        key = options.pop("api_key", None) or os.environ.get("LANCEDB_API_KEY")
        if not key:
            message = (
                f"{self.uri} needs an API key: set LANCEDB_API_KEY, or pass "
                "--storage-option api_key=…"
            )
            raise UsageError(message)
        if importlib.util.find_spec("lancedb") is None:
            message = (
                f"{self.uri} needs lancedb, which is not installed: "
                'pip install "lanceloader[lancedb]"'
            )
            raise UsageError(message)
        import lancedb

        region = options.pop("region", os.environ.get("LANCEDB_REGION", "us-east-1"))
        host = options.pop("host_override", None)
        if options:
            message = (
                f"--storage-option {', '.join(sorted(options))}: db:// takes api_key, region and "
                "host_override"
            )
            raise UsageError(message)
        redaction.remember({"api_key": key})
        database = lancedb.connect(
            f"db://{name}", api_key=key, region=region, host_override=host
        )
        if table is None:
            return Database(self.uri, names_in(database))
        return database.open_table(table)


def names_in(database: Any) -> list[str]:
    """Return the names of the tables of a LanceDB database."""
    names: list[str] = []
    page = None
    while True:
        found = database.list_tables(page_token=page)
        names += found.tables
        page = found.page_token
        if not page:
            return sorted(names)


def local_path(uri: str) -> Path | None:
    """Return the path that a URI means, or ``None`` if it is in object storage."""
    if uri.startswith("file://"):
        return Path(url2pathname(urlsplit(uri).path))
    return None if "://" in uri else Path(uri)


def parsed(pairs: list[str]) -> dict[str, str]:
    """Return storage options as a dict.

    Raises:
        UsageError: If one has no name or value.
    """
    options = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            # The value may be a credential, so it is not shown.
            raise UsageError(
                "a storage option must be NAME=VALUE: check --storage-option and "
                "LANCELOADER_STORAGE_OPTIONS"
            )
        options[name.strip()] = value
    return options
