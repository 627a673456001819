"""The differences between the plan of a checkpoint and that of a loader, as phrases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["differences"]

_NOUNS = {
    "as it is": "epoch of the permutation",
    "rows": "number of rows",
    "fingerprint": "order",
}
_SEED = re.compile(r"\bseed (\d+)")
_NUM_ROWS = re.compile(r"^\d+ rows(?:, )?")
MAX_TEXT = 200
_OTHER_ROWS = "it has other rows"


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], *, is_numbered: bool
) -> list[str]:
    """Return the differences between two plans, as phrases.

    Args:
        theirs: The plan of the checkpoint.
        ours: The plan of the loader.
        is_numbered: Whether the checkpoint is of an epoch with a number, in which the order of the
            permutation itself does not matter.

    Returns:
        Phrases such as ``"another order: seed 2 there, seed 1 here"``; none if both plans have the
        same rows in the same order.
    """
    # Plans of rows have no entry for the unit.
    there, here = {"unit": "row"} | dict(theirs), {"unit": "row"} | dict(ours)
    names = [name for name in here | there if there.get(name) != here.get(name)]
    # The text of an order may change between releases, but not its fingerprint.
    if there.get("fingerprint") == here.get("fingerprint"):
        names = [name for name in names if name != "order"]
    elif "order" in names:
        names.remove("fingerprint")
    # The epoch of the permutation itself only matters without a number, and if the order is equal.
    if "as it is" in names and (is_numbered or {"order", "fingerprint"} & {*names}):
        names.remove("as it is")
    # Another version with the same files has the same rows.
    if "version" in names:
        names.remove("version")
    pairs = {name: _pair(name, there, here) for name in names}
    # Two orders of the same description have other rows, which other differences explain.
    if len(pairs) > 1 and pairs.get("order") == _OTHER_ROWS:
        del pairs["order"]
    return [f"another {_NOUNS.get(name, name)}: {pair}" for name, pair in pairs.items()]


def _pair(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    texts = there.get(name), here.get(name)
    if name == "order":
        one, other = _orders(*(text or "" for text in texts))
        return _OTHER_ROWS if one == other else f"{one} there, {other} here"
    if name in ("fingerprint", "as it is"):
        return _OTHER_ROWS
    if name == "table":
        versions = there.get("version"), here.get("version")
        if None not in versions and versions[0] != versions[1]:
            return "version {} there, version {} here".format(*versions)
        if all(isinstance(text, str) and " " not in text for text in texts):
            return "its files are other ones than here"
    return "{} there, {} here".format(*map(_text, texts))


def _orders(there: str, here: str) -> tuple[str, str]:
    """Return the texts of two orders, or only their seeds if nothing else differs."""
    if _SEED.sub("", there) == _SEED.sub("", here):
        seeds = zip(_SEED.findall(there), _SEED.findall(here), strict=True)
        one, other = next(pair for pair in seeds if pair[0] != pair[1])
        return f"seed {one}", f"seed {other}"
    one, other = (_NUM_ROWS.sub("", text) or "not shuffled" for text in (there, here))
    return _text(one), _text(other)


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
