"""Figures in README.md and benches/README.md are those of benches/results/loader.json."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.checkout, pytest.mark.slow]


def check(root):
    command = [sys.executable, str(root / "benches" / "report.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "benches", tmp_path / "benches", ignore=ignored)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_pages_agree_with_the_results():
    found = check(ROOT)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("page", ["README.md", "benches/README.md"])
def test_a_figure_typed_by_hand_is_found(copy, page):
    path = copy / page
    before, mark, figures = path.read_text().partition("<!-- figures: begin -->")
    changed, count = re.subn(r"\d\.\d\d", "9.99", figures, count=1)
    assert count == 1
    path.write_text(before + mark + changed)
    found = check(copy)
    assert found.returncode == 1
    assert f"{page} as it is" in found.stderr
    assert "9.99" in found.stderr


def test_a_row_is_the_call_that_it_names(copy):
    """`loader()` stands for the loader without a strategy, whatever another one gives."""
    path = copy / "benches" / "results" / "loader.json"
    run = json.loads(path.read_text())
    for sample in run["parts"]["tables"]["samples"]:
        if sample["race"] == "image" and sample["contender"].startswith("lanceloader"):
            ways = {"loader()": 1e3, "loader(read='resident')": 2e3}
            way = sample["contender"].partition(", ")[2]
            sample["rows_per_s"] = ways.get(way, 9e9)
    path.write_text(json.dumps(run))
    command = [sys.executable, str(copy / "benches" / "report.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [
        line for line in found.stderr.splitlines() if line.startswith("+| images: ")
    ]
    assert [re.split(r" *\| *", row)[4] for row in rows] == ["1 k", "2 k"]


def test_arms_name_functions_that_are_there(monkeypatch):
    """Most libraries that the benches run are not installed here."""
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    import peers
    from scenarios import (
        images,
        lance_torch,
        packing,
        processes,
        storage,
        wide,
        windows,
        workers,
    )

    arms = [peers.REFERENCE, *peers.followed(), *peers.in_storage_order()]
    arms += [*wide.ARMS.values(), *(arm for arm, *_ in workers.CASES), workers.IDLE]
    arms += processes.ways(peers.TENSORS)
    arms += [*lance_torch.scans(), *lance_torch.rows_at_random(0)]
    for table in (*peers.TABLES, "mixed"):
        arms += [*peers.readers_of(table), *peers.peers_of(table)]
    named = {name for arm in arms for name in (arm.open, arm.make, arm.state) if name}
    named |= {reference for reference, _ in packing.ARMS.values()}
    named |= {f"peers.images:{way.opened}" for way in images.WAYS.values()}
    named |= {f"peers.windows:{opened}" for opened in windows.WAYS.values()}
    named |= {f"peers.stored:{peer}" for peer in storage.PEERS.values()}
    for name in sorted(named):
        module, _, function = name.partition(":")
        source = (ROOT / "benches" / f"{module.replace('.', '/')}.py").read_text()
        assert f"\ndef {function}(" in source, name
    for module in (ROOT / "benches" / "peers").glob("[a-z]*.py"):
        is_used = any(f"peers.{module.stem}:" in name for name in named)
        assert is_used or module.stem == "records", module


def test_the_page_of_ray_says_what_was_measured():
    found = json.loads((ROOT / "benches" / "results" / "ray.json").read_text())
    page = " ".join((ROOT / "docs" / "how-to" / "ray.md").read_text().split())
    assert not found["quick"]
    narrow, image = (found["tables"][name] for name in ("narrow", "image"))
    scans = [each["times_of_read"]["read_lance, in order"] for each in (narrow, image)]
    assert f"{scans[0]:.1f} times as long as ours on narrow rows" in page
    assert f"and {scans[1]:.1f} times on images" in page
    shuffled = narrow["times_of_read"]["read_lance, random_shuffle"]
    assert f"its `random_shuffle` {int(shuffled)} times and more" in page
    assert f"({narrow['overhead_ms']:.1f} ms more)" in page
    twice, twelve = (
        1 / each["times_of_read"]["loader, shuffled"] for each in (image, narrow)
    )
    assert (round(twice), round(twelve)) == (2, 12)
