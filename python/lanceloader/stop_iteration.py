"""``StopIteration`` raised by functions of users, which would end a loop over batches silently."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["as_runtime_error", "without_stop_iteration"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def without_stop_iteration(call: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return a function that raises RuntimeError where ``call`` raises what ends loops silently."""

    def checked(item: Item) -> Result:
        try:
            return call(item)
        except (StopIteration, GeneratorExit) as error:
            raise as_runtime_error(error) from error

    return checked


def as_runtime_error(error: BaseException) -> BaseException:
    """Return a RuntimeError in place of StopIteration and GeneratorExit, and other errors as they are."""
    if isinstance(error, StopIteration | GeneratorExit):
        new = RuntimeError(f"{type(error).__name__} was raised while a batch was made")
        new.__cause__ = error
        for note in getattr(error, "__notes__", ()):
            new.add_note(note)
        return new
    return error
