"""Executes the notebooks of the tutorials, and compares what they put out with what is stored.

``python docs/notebooks.py`` executes all of them, or those whose names follow, and fails if an
output differs. With ``--write`` it stores the outputs in the notebooks instead.

All text and pictures must be equal, except in cells with one of these tags:

* ``varies``: numbers in the text, and pictures, may differ, since they depend on the processor.
* ``timing``: the text may differ altogether, since it says how fast this machine is.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import nbformat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbformat import NotebookNode

TUTORIALS = Path(__file__).parent / "tutorials"
PLACE = "/tutorials"
"""What the outputs show instead of the temporary folder in which a notebook was executed."""
SECONDS = 200
"""The limit for one cell, on a machine that is busy."""
TAGS = {"varies", "timing"}
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")
PICTURE = "image/png"


def paths() -> list[Path]:
    """Return the notebooks."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Return a notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Return a copy of a notebook with the outputs of a fresh kernel in an empty folder.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    from nbclient import NotebookClient

    copy = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as scratch:
        folder = Path(scratch).resolve()
        here = folder / "here"
        here.mkdir()
        with mock.patch.dict(os.environ, environment(folder)):
            client = NotebookClient(
                copy,
                timeout=SECONDS,
                kernel_name="python3",
                record_timing=False,
                resources={"metadata": {"path": str(here)}},
            )
            client.create_kernel_manager()
            # Sockets in a folder: neither a port nor the network is needed.
            client.km.transport = "ipc"
            client.km.ip = str(folder / "kernel")
            client.execute()
        for cell in copy.cells:
            cell.get("outputs", [])[:] = tidy(cell.get("outputs", []), str(here))
    copy.metadata.pop("widgets", None)
    copy.metadata.get("language_info", {}).pop("version", None)
    return copy


def environment(folder: Path) -> dict[str, str]:
    """Return variables that keep the settings, kernels and packed rows of the user out."""
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "LANCELOADER_CACHE_DIR": str(folder / "rows"),
        "PYTHONWARNINGS": "default",
    }


def tidy(outputs: list[NotebookNode], folder: str) -> list[NotebookNode]:
    """Return outputs in which streams are joined, without names of temporary folders."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = output.text.replace(folder, PLACE)
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = value.replace(folder, PLACE)
        kept.append(output)
    return kept


def errors(notebook: NotebookNode) -> Iterator[str]:
    """Yield what an executed notebook wrote to the standard error stream: warnings, mostly."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                yield f"cell {number}: {output.text.strip()}"


def differences(stored: NotebookNode, new: NotebookNode) -> Iterator[str]:
    """Yield a line for each output of a notebook that must be equal and is not."""
    for number, (before, after) in enumerate(
        zip(stored.cells, new.cells, strict=True), 1
    ):
        tags = set(before.metadata.get("tags", ()))
        old = list(contents(before, tags))
        now = list(contents(after, tags))
        if [kind for kind, _ in old] != [kind for kind, _ in now]:
            yield f"cell {number}: {old!r:.300} became {now!r:.300}"
            continue
        for (kind, one), (_, other) in zip(old, now, strict=True):
            same = alike(one, other) if kind == PICTURE else one == other
            if not same:
                shown = (
                    "" if kind == PICTURE else f": {one!r:.500} became {other!r:.500}"
                )
                yield f"cell {number}: another {kind}{shown}"


def contents(cell: NotebookNode, tags: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the kind of each output of a cell, and what of it must be equal."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.name, comparable(output.text, tags)
        elif PICTURE in output.data:
            yield PICTURE, None if tags & TAGS else output.data[PICTURE]
        else:
            yield "text/plain", comparable(output.data["text/plain"], tags)


def comparable(text: str, tags: set[str]) -> str | None:
    """Return what must be equal of a text, or ``None`` if nothing must."""
    if "timing" in tags:
        return None
    if "varies" in tags:
        return " ".join(NUMBER.sub("#", text).split())
    return text


def alike(one: str | None, other: str | None) -> bool:
    """Whether two pictures are equal, but for the last digits of what was drawn."""
    if one is None or other is None:
        return one is other
    before, after = pixels(one), pixels(other)
    if before.shape != after.shape:
        return False
    return bool(abs(before - after).mean() < 0.5)


def pixels(picture: str) -> Any:
    """Return the colours of a picture, from 0 to 255."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("RGB"), np.float32)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="as in: images packing")
    parser.add_argument("--write", action="store_true", help="store the outputs")
    options = parser.parse_args()
    failed = False
    for path in paths():
        if options.names and path.stem not in options.names:
            continue
        start = time.monotonic()
        stored = read(path)
        new = execute(stored)
        found = list(errors(new))
        if not options.write:
            found += differences(stored, new)
        elif not found:
            nbformat.write(new, path)
        failed = failed or bool(found)
        sys.stdout.write(f"{path.name}: {time.monotonic() - start:.1f} s\n")
        sys.stdout.writelines(f"  {line}\n" for line in found)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
