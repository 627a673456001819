"""What a release is made of: versions, licences, and the checks of a wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.checkout

needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="needs cargo")

PLATFORM = "macosx_11_0_arm64"
ABOUT = "lanceloader-0.1.0.dist-info"
FILES = [
    "lanceloader/__init__.py",
    "lanceloader/py.typed",
    "lanceloader/_native.pyi",
    "lanceloader/_native.abi3.so",
    f"{ABOUT}/METADATA",
    f"{ABOUT}/entry_points.txt",
    f"{ABOUT}/licenses/LICENSE",
    f"{ABOUT}/licenses/THIRD_PARTY_LICENSES",
    f"{ABOUT}/sboms/lanceloader.cdx.json",
]
VERSIONED = "#include <stdlib.h>\nvoid *f(void) { return malloc(1); }\n"
UNVERSIONED = "void of_a_newer_libc(void);\nvoid f(void) { of_a_newer_libc(); }\n"
OF_PYTHON = "void PyErr_Clear(void);\nvoid f(void) { PyErr_Clear(); }\n"


@pytest.fixture
def third_party(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import third_party

    return third_party


@pytest.fixture
def check_wheel(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_wheel

    return check_wheel


def version():
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    return cargo["workspace"]["package"]["version"]


def wheel(folder, names, tag=f"cp311-abi3-{PLATFORM}"):
    path = folder / f"lanceloader-0.1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def shared_library(folder, code):
    source, library = folder / "f.c", folder / "f.so"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library.read_bytes()


def test_the_changelog_and_the_citation_name_the_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert version() in headings
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [version()]


def test_licences_are_of_the_locked_versions():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    locked = {(each["name"], each["version"]) for each in lock["package"]}
    text = (ROOT / "THIRD_PARTY_LICENSES").read_text().partition("=" * 80)[0]
    named = re.findall(r"^([\w-]+) (\d\S*): ", text, re.MULTILINE)
    assert len(named) > 300
    assert set(named) - locked == set()


@needs_cargo
@pytest.mark.timeout(150)
def test_licences_that_are_out_of_date_are_noticed(third_party, tmp_path, monkeypatch):
    copy = tmp_path / "THIRD_PARTY_LICENSES"
    shutil.copy(third_party.LICENSES, copy)
    monkeypatch.setattr(third_party, "LICENSES", copy)
    monkeypatch.setattr(sys, "argv", ["third_party.py", "--check"])
    third_party.main()
    text = copy.read_text()
    copy.write_text(re.sub(r"^(bytes \d+\.\d+)\.\d+:", r"\1.999:", text, flags=re.M))
    with pytest.raises(SystemExit, match="make licenses"):
        third_party.main()


@needs_cargo
@pytest.mark.timeout(150)
def test_the_bill_of_materials_is_closed(third_party):
    bill = third_party.sbom(third_party.crates())
    names = {each["bom-ref"] for each in bill["components"]}
    assert len(names) == len(bill["components"])
    assert all(len(each["hashes"][0]["content"]) == 64 for each in bill["components"])
    this, *others = bill["dependencies"]
    assert this["ref"] == bill["metadata"]["component"]["bom-ref"]
    assert {each["ref"] for each in others} == names
    reached, next_ = set(), set(this["dependsOn"])
    needs = {each["ref"]: set(each["dependsOn"]) for each in others}
    while next_:
        reached |= next_
        next_ = set().union(*(needs[name] for name in next_)) - reached
    assert reached == names
    assert "/" not in "".join(
        name.partition(":")[2].replace("cargo/", "") for name in names
    )


def test_a_wheel_with_everything_passes(check_wheel, tmp_path):
    assert check_wheel.faults(wheel(tmp_path, FILES), 15) == []


@pytest.mark.parametrize("name", [FILES[1], FILES[2], *FILES[5:]])
def test_what_a_wheel_lacks_is_named(check_wheel, tmp_path, name):
    path = wheel(tmp_path, [file for file in FILES if file != name])
    (fault,) = check_wheel.faults(path, 15)
    assert fault == f"{name.removeprefix('lanceloader-0.1.0')} is missing"


@pytest.mark.parametrize(
    "name", ["tests/test_take.py", "lanceloader/other.so", "lanceloader.libs/z.so"]
)
def test_what_does_not_belong_into_a_wheel_is_named(check_wheel, tmp_path, name):
    (fault,) = check_wheel.faults(wheel(tmp_path, [*FILES, name]), 15)
    assert fault.startswith(name)


def test_a_wheel_that_is_too_large_or_for_one_version_is_refused(check_wheel, tmp_path):
    path = wheel(tmp_path, FILES, f"cp311-cp311-{PLATFORM}")
    size, tag = check_wheel.faults(path, 0.0001)
    assert "MB are more than" in size
    assert "abi3" in tag


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize(
    ("code", "found"),
    [
        (VERSIONED, []),
        (OF_PYTHON, []),
        (UNVERSIONED, ["of_a_newer_libc is not in glibc 2.28"]),
    ],
)
def test_functions_that_the_linker_left_open_are_found(
    check_wheel, tmp_path, code, found
):
    assert check_wheel.unversioned(shared_library(tmp_path, code)) == found
