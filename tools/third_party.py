"""Writes the licences of the compiled crates, and a bill of materials for wheels.

``python tools/third_party.py`` writes ``THIRD_PARTY_LICENSES``, ``--check`` fails where it is out
of date, and ``--sbom FILE`` writes a CycloneDX document. They name the crates that are linked on
any platform of ``TARGETS``: neither build scripts nor procedural macros. Needs cargo, and the
sources that it keeps of the crates.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
import textwrap
import tomllib
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
LICENSES = ROOT / "THIRD_PARTY_LICENSES"
PACKAGE = "lanceloader-native"
TARGETS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
)
LICENSE_FILE = re.compile(
    r"(un)?licen[cs]e|copying|copyright|notice|third.party", re.IGNORECASE
)
# Folders of crates whose code is not compiled into the library.
NOT_LINKED = {
    "benches",
    "doc",
    "docs",
    "examples",
    "fuzz",
    "googletest",
    "test",
    "testdata",
    "testing",
    "tests",
    "wycheproof_testvectors",
}
# The other choice of zstd, and the licence of lz4's programs: the libraries are under BSD licences.
NOT_CHOSEN = re.compile(
    r"\s*GNU GENERAL PUBLIC LICENSE\s+Version 2, June 1991"
    r"|Full name:\s+GNU General Public License v2"
)
APACHE = re.compile(
    r"[ ]*Apache License\s+Version 2\.0, January 2004.*?END OF TERMS AND CONDITIONS",
    re.DOTALL,
)
APACHE_IS_BELOW = "[Apache License, Version 2.0: its terms are at the end of this file]"
SOURCE_CODE = {".c", ".cc", ".go", ".h", ".pl", ".py", ".rs", ".sh", ".toml"}
# What the linker adds beside the crates.
RUNTIME = """\
Rust standard library, https://github.com/rust-lang/rust: MIT OR Apache-2.0, copyright The Rust
Project contributors. LLVM libunwind, https://github.com/llvm/llvm-project, in wheels for Linux:
Apache-2.0 WITH LLVM-exception. The terms of the Apache License 2.0 are at the end; the exception:

    As an exception, if, as a result of your compiling your source code, portions of this Software
    are embedded into an Object form of such source code, you may redistribute such embedded
    portions in such Object form without complying with the conditions of Sections 4(a), 4(b) and
    4(d) of the License.
"""


class Crate(NamedTuple):
    """A crate at one version.

    Attributes:
        name: Its name.
        version: Its version.
        license: What its manifest says, as an SPDX expression.
        repository: Where its source is, if its manifest says so.
        folder: Where cargo keeps its source.
        checksum: The SHA-256 of the published archive.
        needs: The crates that it is linked with, as name and version.
    """

    name: str
    version: str
    license: str
    repository: str | None
    folder: Path
    checksum: str
    needs: tuple[tuple[str, str], ...]


def cargo(*arguments: str) -> str:
    """Return what a cargo command printed."""
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@functools.cache
def linked(target: str) -> set[tuple[str, str]]:
    """Return name and version of every crate in the library for one platform."""
    options = ("--edges", "normal,no-proc-macro", "--prefix", "none")
    lines = cargo(
        "tree", "--package", PACKAGE, "--target", target, *options, "--format", "{p}"
    ).splitlines()
    found = (line.split()[:2] for line in lines)
    return {(name, version.removeprefix("v")) for name, version in found}


@functools.cache
def crates() -> tuple[Crate, ...]:
    """Return the crates of others that are in the library, by name and version."""
    with (ROOT / "Cargo.lock").open("rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {
        (each["name"], each["version"]): each.get("checksum") for each in locked
    }
    packages: dict[tuple[str, str], dict[str, Any]] = {}
    needs: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for target in TARGETS:
        options = ("--format-version", "1", "--filter-platform", target)
        metadata = json.loads(cargo("metadata", *options))
        wanted = linked(target)
        by_id = {each["id"]: each for each in metadata["packages"]}
        for node in metadata["resolve"]["nodes"]:
            package = by_id[node["id"]]
            if (key := key_of(package)) not in wanted:
                continue
            packages[key] = package
            for dependency in node["deps"]:
                kinds = [kind["kind"] for kind in dependency["dep_kinds"]]
                needed = key_of(by_id[dependency["pkg"]])
                if None in kinds and needed in wanted:
                    needs[key].add(needed)
    return tuple(
        Crate(
            name,
            version,
            (package["license"] or "see its text").replace("/", " OR "),
            package["repository"],
            Path(package["manifest_path"]).parent,
            checksum,
            tuple(sorted(needs[name, version])),
        )
        for (name, version), package in sorted(packages.items())
        if (checksum := checksums[name, version])
    )


def key_of(package: dict[str, Any]) -> tuple[str, str]:
    """Return name and version of a package."""
    return package["name"], package["version"]


def texts(folder: Path) -> list[str]:
    """Return the licences in a crate's folder, those of code that it bundles too."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if NOT_LINKED.isdisjoint(inside[:-1]) and is_license(path):
            lines = path.read_text(errors="replace").splitlines()
            text = "\n".join(line.rstrip() for line in lines).strip("\n")
            if not NOT_CHOSEN.match(text):
                found.append(APACHE.sub(shortened, text))
    return found


def shortened(match: re.Match[str]) -> str:
    """Return a reference instead of the terms of the Apache License, if they are just these."""
    text = match.group()
    return APACHE_IS_BELOW if letters(text) == letters(apache()) else text


def apache() -> str:
    """Return the terms of the Apache License, which are those of this project."""
    found = APACHE.search((ROOT / "LICENSE").read_text())
    assert found
    return found.group()


def letters(text: str) -> str:
    """Return a text without what differs between copies of a licence."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("https:", "http:"))


def is_license(path: Path) -> bool:
    """Return whether a file holds a licence, by its name."""
    named = LICENSE_FILE.match(path.name) is not None
    return named and path.suffix not in SOURCE_CODE and path.is_file()


def licenses(found: tuple[Crate, ...]) -> str:
    """Return the text of ``THIRD_PARTY_LICENSES``."""
    users: dict[str, list[str]] = defaultdict(list)
    shown: dict[str, str] = {}
    without = []
    for crate in found:
        label = f"{crate.name} {crate.version}"
        there = texts(crate.folder)
        if not there:
            source = crate.repository or "see crates.io"
            without.append(f"{label}: {crate.license}, {source}")
        for text in there:
            same = letters(text)
            shown.setdefault(same, text)
            if label not in users[same]:
                users[same].append(label)
    lines = [
        "Licences of third-party code in the compiled part of lanceloader",
        "",
        "Written by tools/third_party.py from Cargo.lock. lanceloader itself is under the",
        "Apache License 2.0; see LICENSE.",
        "",
        RUNTIME,
        f"{len(found)} crates, each from https://crates.io/crates/NAME:",
        "",
        *(f"{crate.name} {crate.version}: {crate.license}" for crate in found),
        "",
        "These are published without a text; their manifests name the licence:",
        "",
        *without,
        "",
    ]
    for same in sorted(users, key=lambda same: (-len(users[same]), users[same])):
        named = textwrap.fill(
            f"Used by {', '.join(users[same])}:", 100, break_on_hyphens=False
        )
        lines += ["=" * 80, named, "", shown[same], ""]
    return "\n".join([*lines, "=" * 80, apache(), ""])


def sbom(found: tuple[Crate, ...]) -> dict[str, Any]:
    """Return a CycloneDX document; the same for the same Cargo.lock and version."""
    with (ROOT / "Cargo.toml").open("rb") as file:
        version = tomllib.load(file)["workspace"]["package"]["version"]
    this = f"pkg:pypi/lanceloader@{version}"
    linked_directly = {key for target in TARGETS for key in linked(target)} - {
        need for crate in found for need in crate.needs
    }
    roots = [
        purl(crate.name, crate.version)
        for crate in found
        if crate[:2] in linked_directly
    ]
    components = [component(crate) for crate in found]
    dependencies = [
        {
            "ref": purl(crate.name, crate.version),
            "dependsOn": [purl(*need) for need in crate.needs],
        }
        for crate in found
    ]
    content = json.dumps([this, components, dependencies], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, content).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": this,
                "name": "lanceloader",
                "version": version,
                "purl": this,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [{"ref": this, "dependsOn": roots}, *dependencies],
    }


def component(crate: Crate) -> dict[str, Any]:
    """Return what a bill of materials says of a crate."""
    about: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl(crate.name, crate.version),
        "name": crate.name,
        "version": crate.version,
        "purl": purl(crate.name, crate.version),
        "licenses": [{"expression": crate.license}],
        "hashes": [{"alg": "SHA-256", "content": crate.checksum}],
    }
    if crate.repository:
        about["externalReferences"] = [{"type": "vcs", "url": crate.repository}]
    return about


def purl(name: str, version: str) -> str:
    """Return the package URL of a crate."""
    return f"pkg:cargo/{name}@{version}"


def main() -> None:
    """Write or check the files that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if out of date")
    parser.add_argument("--sbom", type=Path, help="write a CycloneDX document instead")
    arguments = parser.parse_args()
    found = crates()
    if arguments.sbom:
        arguments.sbom.parent.mkdir(parents=True, exist_ok=True)
        arguments.sbom.write_text(json.dumps(sbom(found), indent=1) + "\n")
    elif not arguments.check:
        LICENSES.write_text(licenses(found))
    elif not LICENSES.exists() or LICENSES.read_text() != licenses(found):
        sys.exit(f"{LICENSES.name} is out of date: run `make licenses`")


if __name__ == "__main__":
    main()
