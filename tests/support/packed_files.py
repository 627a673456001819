"""Files of packed rows: where they are, whether they are used, and ways to damage them."""

from __future__ import annotations

import os
from pathlib import Path

from process_state import soon


def files(folder, suffix: str = "rows") -> list[Path]:
    """The files of a cache folder, by path."""
    return sorted(Path(folder).rglob(f"*.{suffix}"))


def is_cold(stats):
    return stats.blocks_filled > 0 and stats.blocks_mapped == 0


def is_warm(stats):
    return stats.blocks_filled == 0 and stats.blocks_mapped > 0


def filled(loader):
    """Wait until all rows are packed."""
    if not soon(lambda: loader.stats().fill_seconds > 0):
        raise AssertionError(loader.stats())


def cut(keep):
    return lambda file: os.truncate(
        file, keep if keep >= 0 else file.stat().st_size + keep
    )


def flip(place, bit=0):
    def change(file):
        content = bytearray(file.read_bytes())
        content[place] ^= 1 << bit
        file.write_bytes(content)

    return change


def swap(file):
    others = [each for each in files(file.parent) if each != file]
    spare = file.with_name("spare")
    file.rename(spare)
    others[0].rename(file)
    spare.rename(others[0])


def folder_instead(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "of length zero": cut(0),
    "a part of a header": cut(50),
    "only a header": cut(64),
    "cut by a byte": cut(-1),
    "cut by a half": lambda file: cut(file.stat().st_size // 2)(file),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 4096),
    "bytes of zero": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "magic": flip(0),
    "key": flip(9, 7),
    "number of rows": flip(16),
    "heads": flip(32, 3),
    "checksum": flip(50),
    "bits": flip(70),
    "a head": flip(5000, 5),
    "a tail": flip(-9, 1),
    "swapped": swap,
    "gone": lambda file: file.unlink(),
    "a description": lambda file: (file.parent / "entry.json").write_text("{"),
    "no description": lambda file: (file.parent / "entry.json").unlink(),
    "no lock": lambda file: (file.parent / "lock").unlink(),
}
