"""Errors for arguments that a function does not have, which say what to pass instead."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["unexpected", "with_hints"]

P = ParamSpec("P")
R = TypeVar("R")


def unexpected(
    name: str, known: Iterable[str], function: str, instead_of: Mapping[str, str]
) -> TypeError:
    """Return the error for an argument that a function does not have.

    Args:
        name: The argument.
        known: The arguments that the function has.
        function: The name of the function.
        instead_of: Arguments of similar functions of other libraries, and what to do instead.
    """
    near = difflib.get_close_matches(name, known := list(known), n=1)
    instead = instead_of.get(name) or (
        f"did you mean `{near[0]}`?" if near else f"it takes {', '.join(known)}"
    )
    message = f"{function}() got an unexpected keyword argument {name!r}; {instead}"
    return TypeError(message)


def with_hints(
    name: str, instead_of: Mapping[str, str]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a method's error for an unknown keyword argument say what to pass instead.

    Args:
        name: The name of the method, for the message.
        instead_of: As for ``unexpected``.
    """

    def decorated(method: Callable[P, R]) -> Callable[P, R]:
        _, *known = inspect.signature(method).parameters

        @functools.wraps(method)
        def checked(*args: P.args, **options: P.kwargs) -> R:
            for option in options:
                if option not in known:
                    raise unexpected(option, known, name, instead_of)
            return method(*args, **options)

        return checked

    return decorated
