"""``lanceloader doctor``: what it finds on this machine."""

from __future__ import annotations

import importlib
import json

import command_line
import lanceloader as ll
import pyarrow as pa
import pytest
from command_line import SECRET, found, run

pytestmark = pytest.mark.timeout(200)
alone = command_line.alone


def test_doctor_finds_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("LANCELOADER_STORAGE_OPTIONS", f"secret={SECRET}")
    said = found("doctor")
    assert said["is_ok"]
    by_name = {finding["name"]: finding["text"] for finding in said["findings"]}
    assert by_name["lanceloader"] == ll.__version__
    assert by_name["pyarrow"] == pa.__version__
    assert {"cores", "memory", "/dev/shm", "cache", "workers"} <= by_name.keys()
    assert str(tmp_path / "rows") in by_name["cache"]
    shown = run("doctor").stdout
    assert f"LANCELOADER_CACHE_DIR={tmp_path}" in shown
    assert SECRET not in shown + json.dumps(said)


def test_doctor_names_the_command_that_installs_a_missing_library(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("polars", "tqdm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    shown = run("doctor").stdout
    assert 'pip install "lanceloader[polars]"' in shown
    assert 'pip install "lanceloader[progress]"' in shown
    assert "lanceloader[torch]" not in shown


def test_doctor_fails_where_the_cache_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "file" / "rows"))
    said = found("doctor", code=1)
    assert not said["is_ok"]
    assert [f["name"] for f in said["findings"] if f["level"] == "problem"] == ["cache"]
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(shared))
    assert f"chmod go-w {shared}" in run("doctor", code=1).stdout


def test_limits_of_control_groups(monkeypatch, tmp_path):
    from lanceloader.cli import machine

    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "memory.current").write_text("1610612736\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    free = tmp_path / "free"
    free.mkdir()
    (free / "memory.max").write_text("max\n")
    (free / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(machine, "control_groups", lambda: iter([tmp_path, free]))
    assert machine.memory_limit() == (2 << 30, 512 << 20)
    assert machine.cpu_quota() == 0.5
    assert "limited to 2.0 GiB by the control group" in machine.memory().text
    assert machine.cores().fix == "set LANCELOADER_THREADS=1, or raise the limit"
    monkeypatch.setattr(machine, "control_groups", lambda: iter([free]))
    assert machine.memory_limit() is None
    assert machine.cpu_quota() is None
