"""Environments for peers that want other versions of what the rest of the benches run on.

They see the packages of the environment that makes them, behind their own.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from harness.tables import CACHE, make_once

REQUIREMENTS = {
    "mosaicml": "mosaicml-streaming==0.13.0",
    "dali": "nvidia-dali-cuda120==2.4.0",
}
"""Pinned; MosaicML's wants numpy below 2.2 and an older huggingface_hub, DALI is large (0.4 GB)."""


def python_of(name: str, folder: Path = CACHE) -> Path:
    """Return the interpreter of an environment, made now if there is none."""
    if not name:
        return Path(sys.executable)
    requirement = REQUIREMENTS[name]
    home = folder / f"venv-{requirement.replace('==', '-')}"
    make_once(home, functools.partial(make, requirement))
    return home / "bin" / "python"


def make(requirement: str, home: Path) -> None:
    print(f"installing {requirement} into an environment of its own", flush=True)
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    here = sysconfig.get_paths()["purelib"]
    # Unlike a plain path this also follows what was installed for editing.
    line = f"import site; site.addsitedir({here!r})\n"
    (Path(paths["purelib"]) / "behind.pth").write_text(line)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, requirement], check=True)
