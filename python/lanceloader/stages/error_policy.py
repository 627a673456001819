"""``ErrorPolicy``: what becomes of rows for which a transform raises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from lanceloader.choices import check_function
from lanceloader.stages.concat import num_rows_of

__all__ = ["UNSET", "ErrorPolicy", "OnError"]

OnError: TypeAlias = (
    Literal["raise", "skip", "warn", "fill"] | Callable[[Exception], Any]
)
"""What to do with rows for which a transform raises."""


class Unset:
    """The type of ``UNSET``, of which there is one instance, also after pickling."""

    def __reduce__(self) -> str:
        return "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = Unset()
"""The default of ``error_value``, for which ``None`` is a valid value."""


class ErrorPolicy:
    """What to do with rows for which a transform raises.

    Args:
        on_error: ``"raise"`` raises the error. ``"skip"`` drops the rows, ``"warn"`` drops them
            with a warning in the log, and a function of the exception drops them if it returns
            true. ``"fill"`` replaces them.
        error_value: With ``"fill"``, the result of the transform for a batch of one such row, such
            as ``[None]`` or ``{"x": torch.zeros(1, 3)}``. Each row gets a deep copy.
        repair: With ``"fill"``, in place of ``error_value``: a function of the exception and the
            batch of one row that returns this result. It is also called with a batch without
            rows, which a rank may have so that all take the same number of steps; the rows of
            its result are then dropped.

    Raises:
        ValueError: If the policy is unknown, or ``error_value`` and ``repair`` do not fit it.
    """

    def __init__(
        self,
        on_error: OnError = "raise",
        error_value: Any = UNSET,
        repair: Callable[[Exception, Any], Any] | None = None,
    ) -> None:
        is_name = isinstance(on_error, str) and on_error in (
            *("raise", "skip", "warn", "fill"),
        )
        if not is_name and not callable(on_error):
            message = (
                '`on_error` must be "raise", "skip", "warn", "fill" or a function, got '
                f"{on_error!r}"
            )
            raise ValueError(message)
        check_function("repair", repair)
        num_given = (error_value is not UNSET) + (repair is not None)
        if num_given != (on_error == "fill"):
            message = (
                f"`on_error`={on_error!r} with {num_given} of `error_value` and `repair`: pass "
                'exactly one of them with on_error="fill", and neither otherwise'
            )
            raise ValueError(message)
        if error_value is not UNSET and num_rows_of(error_value) != 1:
            message = (
                f"`error_value` has {num_rows_of(error_value)} rows: pass the result of the "
                "transform for a batch of one row"
            )
            raise ValueError(message)
        self.on_error = on_error
        self.error_value = error_value
        self.repair = repair

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1.0 name it `fill_value`.
        if "fill_value" in state:
            state = {**state, "error_value": state["fill_value"]}
            del state["fill_value"]
        self.__dict__.update(state)

    def forgives(self, error: Exception) -> bool:
        """Return whether to continue, without the rows or with replacements."""
        if callable(self.on_error):
            return bool(self.on_error(error))
        return self.on_error != "raise"

    def filler(self, error: Exception, row: Any) -> Any:
        """Return the replacement of a row, as a batch of one row."""
        if self.repair is not None:
            return self.repair(error, row)
        return copy.deepcopy(self.error_value)
