"""Checks a wheel before it is tested: where it runs, what is in it, and its size.

``python tools/check_wheel.py dist/*.whl`` fails with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

EXTENSION = "lanceloader/_native.abi3.so"
WANTED = (
    "lanceloader/py.typed",
    "lanceloader/_native.pyi",
    ".dist-info/licenses/LICENSE",
    ".dist-info/licenses/THIRD_PARTY_LICENSES",
    ".dist-info/sboms/lanceloader.cdx.json",
    ".dist-info/entry_points.txt",
)
OLDEST_GLIBC = (2, 28)


def faults(wheel: Path, limit_mb: float) -> list[str]:
    """Return what is wrong with a wheel."""
    found = []
    if (size_mb := wheel.stat().st_size / 1e6) > limit_mb:
        found.append(f"{size_mb:.2f} MB are more than {limit_mb:g} MB")
    if not re.search(r"-cp311-abi3-", wheel.name):
        found.append("its tag is not cp311-abi3")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found += [f"{end} is missing" for end in WANTED if not ends(names, end)]
        found += [
            f"{name} does not belong into it" for name in names if is_foreign(name)
        ]
        if "linux" in wheel.name and EXTENSION in names:
            found += unversioned(archive.read(EXTENSION))
    if "linux" in wheel.name:
        found += audit(wheel)
    return found


def ends(names: list[str], end: str) -> bool:
    """Return whether one of the names ends so."""
    return any(name.endswith(end) for name in names)


def is_foreign(name: str) -> bool:
    """Return whether a file is neither of the package nor about it."""
    folder = name.partition("/")[0]
    mine = folder == "lanceloader" or folder.endswith(".dist-info")
    return not mine or (name.endswith(".so") and name != EXTENSION)


def unversioned(extension: bytes) -> list[str]:
    """Return functions of a newer C library: the linker leaves open what it does not know."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(extension)
        file.flush()
        command = ["nm", "--dynamic", "--undefined-only", file.name]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    symbols = [line.split() for line in said.stdout.splitlines()]
    return [
        f"{name} is not in glibc 2.28"
        for kind, name in symbols
        if kind == "U" and "@" not in name and not name.startswith(("Py", "_Py"))
    ]


def audit(wheel: Path) -> list[str]:
    """Return what auditwheel has against the platform that a wheel is named after."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    tag = json.loads(result.stdout)["overall_tag"]
    version = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    if version is None or tuple(map(int, version.groups())) > OLDEST_GLIBC:
        return [f"it needs {tag}"]
    return []


def main() -> None:
    """Check the wheels that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, nargs="+")
    parser.add_argument("--limit-mb", type=float, default=15.0, help="largest size")
    arguments = parser.parse_args()
    for wheel in arguments.wheel:
        if found := faults(wheel, arguments.limit_mb):
            sys.exit("\n".join(f"{wheel.name}: {fault}" for fault in found))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
