"""What ``explain`` expects of tables in object storage, beside what was then fetched."""

from __future__ import annotations

import re

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest

pytestmark = pytest.mark.usefixtures("no_credentials")
server = counting_s3.server

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    rng = np.random.default_rng(0)
    wide = [rng.bytes(60_000 + 97 * (i % 50)) for i in range(1200)]
    images = pa.table({"id": range(1200), "image": pa.array(wide, pa.large_binary())})
    lance.write_dataset(images, folder / "images.lance", max_rows_per_file=500)
    narrow = {f"c{i}": rng.normal(size=500_000) for i in range(4)}
    lance.write_dataset(pa.table(narrow), folder / "narrow.lance")
    texts = pa.table(
        {"id": range(60_000), "text": [f"{i} " * 40 for i in range(60_000)]}
    )
    lance.write_dataset(texts, folder / "texts.lance", max_rows_per_file=20_000)
    few = pa.table({"id": range(2000), "text": [f"{i} " * 9 for i in range(2000)]})
    lance.write_dataset(few, folder / "fragments.lance", max_rows_per_file=20)
    return folder


def open_table(server, name, cache_dir, **read):
    perm = ll.open(f"s3://bucket/{name}.lance", storage_options=server.options)
    perm = perm.with_read(cache_dir=cache_dir, **read).with_format("arrow")
    return perm.with_batch_size(64).shuffle(seed=3)


def said(perm):
    lines = (line.partition(" ") for line in perm.explain().splitlines())
    return {name: text.strip() for name, _, text in lines}


def bytes_in(text):
    number, unit = re.search(r"about ([\d,.]+) (bytes|KiB|MiB|GiB)", text).groups()
    return float(number.replace(",", "")) * UNITS[unit]


def requests_in(text):
    first, again = re.fullmatch(
        r"(about [\d,]+|none) in epoch 0, (about [\d,]+|none) in each later one", text
    ).groups()
    return [
        0 if each == "none" else int(each.removeprefix("about ").replace(",", ""))
        for each in (first, again)
    ]


def seconds_in(text):
    found = re.findall(r"about ([\d,.e+]+) (ms|s|minutes) for", text)
    scale = {"ms": 1e-3, "s": 1, "minutes": 60}
    return [float(number.replace(",", "")) * scale[unit] for number, unit in found]


READS = {
    "images": {},
    "narrow": {},
    "texts": {},
    "fragments, kept nowhere": {},
    "narrow, external": {"read": "external", "memory_limit": "20MB"},
    "texts, external": {"read": "external", "memory_limit": "40MB"},
    "images, kept nowhere": {},
}


@pytest.mark.parametrize("table", READS)
def test_what_is_expected_is_what_is_fetched(server, tmp_path, table):
    name = table.partition(",")[0]
    is_kept = "nowhere" not in table

    def at(cache_dir):
        return open_table(server, name, cache_dir if is_kept else "", **READS[table])

    found = said(at(tmp_path / "explained"))
    # `explain` looks at some rows; the loader begins with nothing.
    loader = at(tmp_path / "read").loader(64)
    list(loader)
    stats = loader.stats()
    # Of files as small as footers, most is fetched twice.
    factor = 2.5 if table == "fragments, kept nowhere" else 1.4
    assert stats.bytes_fetched / factor < bytes_in(found["fetched"])
    assert bytes_in(found["fetched"]) < stats.bytes_fetched * factor
    first, again = requests_in(found["requests"])
    assert stats.requests / 3 < first < stats.requests * 3
    amplified = float(found["amplified"].split()[0])
    truth = stats.bytes_fetched / stats.bytes
    # It is said with one decimal.
    assert truth / factor - 0.05 < amplified < truth * factor + 0.05
    list(loader)
    later = loader.stats()
    if is_kept:
        assert (again, later.requests) == (0, 0)
        assert "once for all processes and later runs" in found["fetched"]
    else:
        assert later.requests / 3 <= again <= later.requests * 3


def test_the_speed_is_assumed_and_then_measured(server, tmp_path):
    server.latency = 0.05
    perm = open_table(server, "images", "")
    text = said(perm)["expected"]
    assert "at 200 MB/s (assumed)" in text
    latency = float(re.search(r"([\d,]+) ms a request \(measured\)", text)[1])
    assert latency >= 50
    list(perm.loader(64))
    text = said(perm)["expected"]
    assert "MB/s (measured)" in text
    assert text.endswith("if nothing else takes longer")
    both = seconds_in(text)
    assert len(both) == 1, "nothing is kept, so each epoch takes the same time"
    assert both[0] > 0.05


def test_later_epochs_and_later_runs_fetch_nothing(server, tmp_path):
    perm = open_table(server, "images", tmp_path)
    first, later = seconds_in(said(perm)["expected"])
    assert 0 < later < first
    list(perm.loader(64))
    del perm
    found = said(open_table(server, "images", tmp_path))
    assert found["fetched"] == f"nothing, as {tmp_path} has it"
    assert requests_in(found["requests"]) == [0, 0]
    assert found["amplified"].startswith("0.0 times")
    server.reset()
    loader = open_table(server, "images", tmp_path).loader(64)
    list(loader)
    assert loader.stats().requests == server.requests == 0


def test_packed_rows_of_an_earlier_run_need_no_request(server, tmp_path):
    open_table(server, "narrow", tmp_path).warm()
    found = said(open_table(server, "narrow", tmp_path))
    assert found["fetched"] == f"nothing, as {tmp_path} has it"
    assert requests_in(found["requests"]) == [0, 0]


def test_what_has_no_room_is_expected_in_every_epoch(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "20MB")
    loader = open_table(server, "images", tmp_path / "read").loader(64)
    found = said(open_table(server, "images", tmp_path / "explained"))
    list(loader)
    list(loader)
    stats = loader.stats()
    again = bytes_in("about " + found["fetched"].partition("the other ")[2])
    assert stats.bytes_fetched / 1.5 < again < stats.bytes_fetched * 1.5
    assert stats.requests / 3 < requests_in(found["requests"])[1] < stats.requests * 3


def test_a_local_table_says_nothing_of_requests(folder):
    text = ll.open(str(folder / "images.lance")).shuffle(seed=3).explain()
    assert "requests" not in text
    assert "expected  " not in text


def test_rows_in_order_are_expected_as_runs(server, tmp_path):
    perm = ll.open("s3://bucket/texts.lance", storage_options=server.options)
    perm = perm.with_read(cache_dir=tmp_path).with_format("arrow")
    found = said(perm)
    loader = perm.loader(64)
    list(loader)
    stats = loader.stats()
    assert stats.bytes_fetched / 1.4 < bytes_in(found["fetched"])
    assert bytes_in(found["fetched"]) < stats.bytes_fetched * 1.4
    first, _ = requests_in(found["requests"])
    assert stats.requests / 3 < first < stats.requests * 3
