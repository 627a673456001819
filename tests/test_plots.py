"""``lanceloader.plots``: the pictures show the statistics."""

from __future__ import annotations

import subprocess
import sys

import lance
import lanceloader as ll
import matplotlib as mpl
import numpy as np
import pytest
import tables
from lanceloader.monitor.stats import Stats
from matplotlib import pyplot as plt

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    """5,000 rows."""
    path = tmp_path_factory.mktemp("plots") / "t.lance"
    return ll.open(lance.write_dataset(tables.narrow(5000), path))


@pytest.fixture(scope="module")
def loader(perm):
    """A loader after an epoch of 50 batches."""
    loader = perm.loader(100, shuffle=True, seed=1)
    assert len(list(loader)) == 50
    return loader


STATS = Stats(
    batches=101,
    rows=1010,
    seconds=10.0,
    first_batch_seconds=2.0,
    wait_seconds=4.0,
    wait_p50=0.001,
    wait_p95=0.02,
    wait_p99=0.02,
    waits=((0.001, 70), (0.02, 29), (0.5, 1)),
    stage_seconds={"read": 3.0, "gather": 0.5, "copy": 0.0},
    series=((2.0, 10, 2.0), (6.0, 500, 3.0), (10.0, 1010, 4.0)),
)


def points(axes):
    (cloud,) = axes.collections
    return np.asarray(cloud.get_offsets())


def texts(axes):
    return [text.get_text().strip() for text in axes.texts]


@pytest.mark.parametrize("name", ll.plots.__all__)
def test_axes_are_made_or_used(perm, name):
    plot = getattr(ll.plots, name)
    what = perm if name == "order" else STATS
    axes = plot(what)
    assert axes.get_xlabel()
    assert axes.get_ylabel() or name == "stages"
    _, (left, right) = plt.subplots(1, 2)
    assert plot(what, right) is right
    assert plot(what, ax=left) is left
    axes.figure.canvas.draw()
    right.figure.canvas.draw()


def test_an_order(perm):
    view = perm.shuffle(seed=7)
    found = points(ll.plots.order(view))
    ids = view.with_format("arrow").select_columns(["id"]).to_arrow()["id"].to_numpy()
    assert (found[:, 0] == np.arange(5000)).all()
    assert (found[:, 1] == ids).all()
    few = points(ll.plots.order(view, num_points=600))
    assert len(few) == 556
    assert (few[:, 1] == ids[::9]).all()
    assert len(points(ll.plots.order(perm.with_take(0)))) == 0


def test_the_order_of_a_loader_is_that_of_its_epoch(perm):
    loader = perm.loader(100, shuffle=True, seed=7, rank=1, world_size=2)
    loader.set_epoch(3)
    found = points(ll.plots.order(loader))
    wanted = points(ll.plots.order(perm.shuffle(seed=7, epoch=3)))
    assert (found == wanted).all()


def test_throughput():
    axes = ll.plots.throughput(STATS, label="mine")
    (steps,) = axes.patches
    assert steps.get_data().values.tolist() == [490 / 4, 510 / 4]
    assert steps.get_data().edges.tolist() == [2, 6, 10]
    assert texts(axes) == ["125\n mean"]
    (label,) = axes.get_legend().get_texts()
    assert label.get_text() == "mine"


def test_throughput_of_a_loader(loader):
    axes = ll.plots.throughput(loader)
    values, edges, _ = axes.patches[0].get_data()
    assert (values * np.diff(edges)).sum() == pytest.approx(4900)
    assert len(values) <= 64
    # Two curves into the same picture.
    ll.plots.throughput(loader.stats(), axes)
    assert len(axes.patches) == 2


def test_waits():
    axes = ll.plots.waits(STATS)
    assert [bar.get_height() for bar in axes.patches] == [70, 29, 1]
    for bar, (seconds, _) in zip(axes.patches, STATS.waits, strict=True):
        assert bar.get_x() < seconds <= bar.get_x() + bar.get_width() * 1.001
    assert texts(axes) == ["p50: 1.00 ms", "p95, p99: 20.00 ms", "first batch: 2.00 s"]
    low, high = axes.get_xlim()
    assert low < 0.001 < 2 < high


def test_waits_of_a_loader(loader):
    axes = ll.plots.waits(loader)
    assert sum(bar.get_height() for bar in axes.patches) == 49


def test_stages():
    axes = ll.plots.stages(STATS)
    assert [bar.get_width() for bar in axes.patches] == [3.0, 0.5, 4.0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["read", "gather", "trainer waits"]
    assert texts(axes) == ["3.00 s", "500.00 ms", "4.00 s"]


def test_too_little_to_draw(perm):
    with pytest.raises(ValueError, match="at least 2 batches, got 0"):
        ll.plots.throughput(Stats())
    with pytest.raises(ValueError, match="at least 2 batches, got 0"):
        ll.plots.waits(perm.loader(100))
    with pytest.raises(ValueError, match="`num_points` must be at least 1, got 0"):
        ll.plots.order(perm, num_points=0)
    ll.plots.stages(Stats())


def test_without_matplotlib(perm, monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "lanceloader\[plots\]"'):
        ll.plots.order(perm)
    with pytest.raises(ImportError, match=r'pip install "lanceloader\[plots\]"'):
        ll.plots.waits(STATS)


def test_the_module_comes_when_it_is_asked_for():
    code = (
        "import sys, lanceloader as ll; before = 'lanceloader.plots' in sys.modules; "
        "ll.plots.order; print(before, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="no attribute 'pictures'"):
        ll.pictures  # noqa: B018
