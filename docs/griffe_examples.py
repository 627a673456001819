"""Docstrings head their examples with "Example:"; griffe knows "Examples:"."""

from __future__ import annotations

import re
from typing import Any

import griffe

HEAD = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Render examples as code."""

    def on_instance(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Rename the section of a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = HEAD.sub(r"\1Examples:", obj.docstring.value)
