"""The signatures of functions that forward options to ``loader()``, for ``help``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from lanceloader.loader.options import DEFAULTS, LoaderOptions

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["with_options_shown"]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


def with_options_shown(function: FunctionT) -> FunctionT:
    """Make ``help`` show the options of ``loader()`` in place of ``**options``."""
    signature = inspect.signature(function)
    kinds = inspect.Parameter
    shown = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not kinds.VAR_KEYWORD
    ]
    names = {parameter.name for parameter in shown}
    types = LoaderOptions.__annotations__
    shown += [
        kinds(
            name, kinds.KEYWORD_ONLY, default=default, annotation=text_of(types[name])
        )
        for name, default in DEFAULTS.items()
        if name not in names
    ]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def text_of(kind: Any) -> Any:
    """Return an annotation as text."""
    return getattr(kind, "__forward_arg__", kind)
