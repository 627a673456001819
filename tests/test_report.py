"""``Loader.report``, and what notebooks show of loaders, splits and statistics."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lanceloader.monitor.stats import Stats

VOID = {"meta", "img", "br"}


class Checked(HTMLParser):
    """Every element is closed in its turn, and nothing is loaded from elsewhere."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.images, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        self.tags.append(tag)
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    """5,000 rows."""
    path = tmp_path_factory.mktemp("report") / "t.lance"
    return ll.open(lance.write_dataset(tables.narrow(5000), path))


@pytest.fixture
def loader(perm):
    """A loader after an epoch of 50 batches."""
    loader = perm.loader(100, shuffle=True, seed=1)
    assert len(list(loader.set_epoch(3))) == 50
    return loader


# The report


def test_a_report(loader, tmp_path):
    path = tmp_path / "run.html"
    loader.report(path)
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>")
    found = Checked(text)
    for words in (
        loader.stats().verdict,
        "50 steps of 100 rows",
        "at step 50",
        "shuffled by seed 1 epoch 3",
        "5,000 rows",
        f"lanceloader {ll.__version__}",
        f"pyarrow {pa.__version__}",
        "gather",
    ):
        assert words in found.text
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    # The same place, written again.
    loader.report(str(path))


def test_the_pictures_are_in_the_file(loader, tmp_path):
    pytest.importorskip("matplotlib")
    loader.report(tmp_path / "run.html")
    found = Checked((tmp_path / "run.html").read_text())
    assert len(found.images) == 3
    for source in found.images:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_pictures_leave_pyplot_alone(loader, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    loader.report(tmp_path / "run.html")
    assert pyplot.get_fignums() == before


def test_without_matplotlib(loader, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    loader.report(tmp_path / "run.html")
    found = Checked((tmp_path / "run.html").read_text())
    assert not found.images
    assert 'no pictures, as matplotlib is not installed: pip install "' in found.text
    assert loader.stats().verdict in found.text


def test_a_loader_that_has_not_begun(perm, tmp_path):
    perm.loader(100).report(tmp_path / "run.html")
    found = Checked((tmp_path / "run.html").read_text())
    assert "too few batches" in found.text
    assert "Nothing to draw: a curve needs at least 2 batches" in found.text


def test_a_mixture(perm, tmp_path):
    mixture = ll.mix({"a<b": perm, "c": perm.shuffle(seed=3)}, weights=[1, 2])
    loader = mixture.loader(100)
    assert len(list(loader)) == len(loader)
    loader.report(tmp_path / "run.html")
    found = Checked((tmp_path / "run.html").read_text())
    assert "Mixture of" in found.text
    assert "source a<b: weight 33.33%" in found.text


def packs():
    tokens = [list(range(1 + k % 9)) for k in range(300)]
    return ll.open(pa.table({"tokens": pa.array(tokens, pa.list_(pa.int32()))}))


def test_packed_documents(tmp_path):
    loader = packs().pack(32, column="tokens").loader(4)
    text = repr(loader)
    # Nothing is read for it.
    assert text.startswith("<Loader of steps of 4 blocks of 32 tokens, at step 0; ")
    assert len(list(loader)) == len(loader)
    number = len(loader)
    assert f"<Loader of {number} steps of 4 blocks of 32 tokens, at" in repr(loader)
    loader.report(tmp_path / "run.html")
    found = Checked((tmp_path / "run.html").read_text())
    assert f"{number} steps of 4 blocks" in found.text
    assert "filled" in found.text


def test_all_ranks(perm, tmp_path):
    loaders = [perm.loader(100, rank=rank, world_size=2) for rank in range(2)]
    assert [len(list(loader)) for loader in loaders] == [25, 25]
    merged = Stats.merged(loader.stats() for loader in loaders)
    loaders[0].report(tmp_path / "run.html", stats=merged)
    found = Checked((tmp_path / "run.html").read_text())
    assert "to 2 of 2 ranks" in found.text
    assert f"Throughput over time of rank {merged.rank}" in found.text
    assert "rank batches rows rows/s" in found.text


def test_names_are_escaped_and_credentials_replaced(tmp_path, monkeypatch):
    secret = "hunter2hunter2"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("LANCELOADER_STORAGE_OPTIONS", f"aws_secret_access_key={secret}")
    name = f"<b>{secret}</b>&amp;"
    perm = ll.open(pa.table({name: np.arange(10)}))
    loader = perm.loader(2)
    assert len(list(loader)) == 5
    loader.report(tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text()
    assert secret not in text
    assert "<b>***</b>&amp;" in Checked(text).text
    assert "b" not in Checked(text).tags


def test_reports_that_cannot_be_written(loader, tmp_path):
    with pytest.raises(FileNotFoundError):
        loader.report(tmp_path / "no" / "folder.html")
    with pytest.raises(TypeError, match="`stats` must be a Stats"):
        loader.report(tmp_path / "run.html", stats={"rows": 3})
    with pytest.raises(TypeError, match="`path` must be a string or a path, not 3"):
        loader.report(3)
    assert not list(tmp_path.iterdir())


# Notebooks


def test_a_loader_in_a_notebook(loader):
    found = Checked(loader._repr_html_())
    assert "steps 50 steps of 100 rows epoch 3 place at step 50 reads" in found.text
    assert found.text.endswith(loader.stats().verdict)


def test_the_text_of_a_loader(perm):
    loader = perm.loader(300, drop_last=True, rank=1, world_size=2).set_epoch(7)
    start = "<Loader of 8 steps of 300 rows, epoch 7, at step 0, rank 1 of 2; <Perm"
    assert repr(loader).startswith(start)
    batches = iter(loader)
    next(batches)
    next(batches)
    assert "epoch 7, at step 2, rank 1 of 2; " in repr(loader)
    state = loader.state_dict()
    again = perm.loader(300, drop_last=True, rank=0, world_size=2)
    again.load_state_dict(state)
    assert "epoch 7, at step 2, rank 0 of 2; " in repr(again)
    endless = perm.loader(300, epochs=None)
    assert "<Loader of 17 steps of 300 rows per epoch, endless, at step 0; " in repr(
        endless
    )
    several = repr(perm.loader(1, epochs=2))
    assert several.startswith("<Loader of 10,000 steps of 1 row in 2 epochs, ")


def test_a_token_budget():
    loader = packs().loader(batch_tokens=64, length="tokens")
    start = "steps of at most 64 padded tokens, at step 0; "
    assert repr(loader).startswith(f"<Loader of {start}")
    assert repr(loader).startswith(f"<Loader of {start}")
    assert len(list(loader)) == len(loader)
    assert f"<Loader of {len(loader)} steps of at most 64" in repr(loader)


def test_the_loader_of_torch(perm):
    torch = pytest.importorskip("lanceloader.torch")
    loader = torch.DataLoader(perm, 500, num_workers=2)
    assert repr(loader).startswith("<DataLoader with 2 workers of <Loader of 10 steps")
    assert "DataLoader with 2 workers" in Checked(loader._repr_html_()).text


def test_a_report_of_the_loader_of_torch(perm, tmp_path):
    torch = pytest.importorskip("lanceloader.torch")
    loader = torch.DataLoader(perm, 500)
    assert len(list(loader)) == 10
    loader.report(tmp_path / "run.html")
    assert "10 steps of 500 rows" in Checked((tmp_path / "run.html").read_text()).text


def test_splits_in_a_notebook(perm):
    named = Checked(perm.split({"a<": 0.8, "b": 0.2}, seed=1)._repr_html_())
    assert named.text == "split rows share a< 4,000 80.0% b 1,000 20.0%"
    plain = Checked(perm.split(2, seed=1)._repr_html_())
    assert plain.text == "split rows share 0 2,500 50.0% 1 2,500 50.0%"
    none = Checked(perm.with_take(0).split_by("id")._repr_html_())
    assert none.text == "split rows share"


def test_statistics_in_a_notebook(loader):
    stats = loader.stats()
    found = Checked(stats._repr_html_())
    assert f"verdict {stats.verdict}" in found.text
    assert found.text.startswith("served 50 batches, 5,000 rows")
    merged = Stats.merged([stats])
    assert "rank batches rows" in Checked(merged._repr_html_()).text
