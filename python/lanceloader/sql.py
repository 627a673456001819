"""Column names in users' SQL, and error messages about it.

The dialect is that of Lance: ``'`` quotes text, ```` ` ```` and ``"`` quote names, unquoted names
are case-insensitive, and dots separate the fields of structs.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from lanceloader.errors import ColumnNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "Reference",
    "missing_column",
    "name_not_found",
    "references",
    "sql_error",
    "with_names",
]

NAME = r'(?:`(?:[^`]|``)*`|"(?:[^"]|"")*"|[^\W\d][\w@$#]*)'
TOKEN = re.compile(
    rf"""
    '(?:[^']|'')*'          # text
    | --[^\n]*              # comments
    | /\*.*?\*/
    | \d[\w.]*              # numbers
    | (?P<path>{NAME}(?:\s*\.\s*{NAME})*) (?P<call>\s*\()?
    """,
    re.VERBOSE | re.DOTALL,
)
SOURCE_LOCATION = re.compile(r",?\s*\S+\.rs:\d+:\d+")
NO_FIELD = re.compile(r'No field named (?:"((?:[^"]|"")+)"|(\S+?))\.(?:\s|$)')


class Reference:
    """A reference to a column in an SQL text."""

    def __init__(self, column: str, start: int, stop: int) -> None:
        """Create a reference to ``column`` at ``text[start:stop]``."""
        self.column = column
        self.start = start
        self.stop = stop


def references(text: str, columns: Sequence[str]) -> Iterator[Reference]:
    """Iterate over the possible references to ``columns`` in an SQL text, from left to right.

    Keywords that are also names of columns are included, because only the engine's parser can
    distinguish ``day`` in ``INTERVAL '1' day`` from a column.
    """
    by_case: dict[str, list[str]] = {}
    for column in columns:
        by_case.setdefault(column.casefold(), []).append(column)
    exact = set(columns)
    for token in TOKEN.finditer(text):
        if token["path"] is None or (token["call"] and token["path"][0] not in '`"'):
            continue
        parts = list(re.finditer(NAME, token["path"]))
        names = [unquoted(part[0]) for part in parts]
        first = names[0]
        if first in exact:
            found, length = [first], 1
        elif parts[0][0][0] not in '`"' and first.casefold() in by_case:
            found, length = by_case[first.casefold()], 1
        else:
            # Names of columns may contain dots: try the longest name first.
            joined = [".".join(names[:end]) for end in range(len(names), 1, -1)]
            found = [name for name in joined if name in exact][:1]
            length = len(names) - joined.index(found[0]) if found else 0
        for column in found:
            start = token.start("path")
            yield Reference(column, start, start + parts[length - 1].end())


def with_names(text: str, columns: Sequence[str], names: Mapping[str, str]) -> str:
    """Return an SQL text in which columns are renamed.

    Args:
        text: The SQL text.
        columns: The names of all columns.
        names: The new names by old name.
    """
    parts, end = [], 0
    for found in references(text, columns):
        if found.column in names and found.start >= end:
            parts += [text[end : found.start], names[found.column]]
            end = found.stop
    return "".join([*parts, text[end:]])


def unquoted(name: str) -> str:
    """Return a name without its quotes."""
    quote = name[0]
    if quote in '`"':
        return name[1:-1].replace(quote * 2, quote)
    return name


def sql_error(
    what: str, text: str, error: Exception, columns: Sequence[str]
) -> ValueError:
    """Return an error that quotes an SQL text and a library's message about it.

    Args:
        what: The kind of text, for the message: ``"filter"`` or ``"expression"``.
        text: The SQL text.
        error: The exception that the library raised.
        columns: The names of the existing columns.

    Returns:
        A ``ColumnNotFoundError`` if the text names a column that does not exist, else a plain
        ``ValueError``.
    """
    reason = SOURCE_LOCATION.sub("", str(error)).removeprefix("Invalid input, ")
    reason = reason.removeprefix("Invalid user input: ")
    prefix = f"Invalid input, {what} {text!r}"
    name = name_not_found(error)
    if name is None:
        return ValueError(f"{prefix}: {reason}")
    message = f"{prefix}: column `{name}` does not exist"
    if f'"{name}"' in text:
        message += f"; a string has single quotes: '{name}'"
    return missing_column(message, name, columns)


def name_not_found(error: Exception) -> str | None:
    """Return the name of the missing column if an error is about one, else ``None``."""
    found = NO_FIELD.search(str(error))
    if found is None:
        return None
    return found[1].replace('""', '"') if found[1] else found[2]


def missing_column(
    message: str, name: str, known: Sequence[str]
) -> ColumnNotFoundError:
    """Return the error for a column that does not exist.

    Args:
        message: The beginning of the message.
        name: The name of the missing column.
        known: The names of the existing columns, the closest of which the message lists.
    """
    by_case = {column.casefold(): column for column in known}
    near = difflib.get_close_matches(str(name).casefold(), by_case, n=5, cutoff=0.4)
    if near:
        *others, last = [f"`{by_case[column]}`" for column in near]
        names = f"{', '.join(others)} or {last}" if others else last
        return ColumnNotFoundError(f"{message}; did you mean {names}?")
    names = ", ".join(f"`{column}`" for column in list(known)[:10])
    return ColumnNotFoundError(f"{message}; the columns are {names}")
