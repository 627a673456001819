"""What the figures of ``bench`` mean for a training, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader.cli.output import quantity

if TYPE_CHECKING:
    from lanceloader.cli.racing import Result

__all__ = ["verdict"]

_AMPLE = 1.2
"""This many times the needed rate is enough, whatever else runs on the machine."""
_AS_FAST = 1.1


def verdict(results: list[Result], *, batch_size: int, step_ms: float) -> str:
    """Return whether reading keeps up with training, in words, and what to do if it does not.

    Args:
        results: What was measured; that of ``loader()`` first.
        batch_size: Rows of a batch.
        step_ms: Milliseconds of a training step.
    """
    ours, *others = results
    rate = ours.rows_per_second
    needed = batch_size / step_ms * 1e3
    words = [
        f"reading gives {quantity(rate)} rows/s; a step of {step_ms:g} ms at batch "
        f"{batch_size:,} needs {quantity(needed)} rows/s:"
    ]
    shortest = batch_size / rate * 1e3
    if rate >= _AMPLE * needed:
        words.append(
            f"loader() is fast enough without worker processes: {times(rate / needed)} the needed rate."
        )
    elif rate >= needed:
        words.append(
            f"loader() is just enough: steps shorter than {shortest:.3g} ms would wait for it."
        )
    else:
        words.append(
            f"training would wait for reading, which only keeps up with steps of {shortest:.3g} ms "
            "or more. Read fewer columns, pack the rows first with `lanceloader warm`, or copy "
            "them in order with `lanceloader materialize --shuffle`."
        )
    for other in others:
        if other.name.startswith("scan"):
            continue
        share = rate / other.rows_per_second
        if share >= _AS_FAST:
            words.append(f"loader() is {times(share)} as fast as {other.name}.")
        elif share <= 1 / _AS_FAST:
            words.append(f"{other.name} is {times(1 / share)} as fast.")
        else:
            words.append(f"{other.name} is as fast.")
    return " ".join(words)


def times(number: float) -> str:
    """Return a factor as a text, as in ``3.1 times``."""
    return f"{number:,.0f} times" if number >= 10 else f"{number:.1f} times"
