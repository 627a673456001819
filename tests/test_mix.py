"""``ll.mix``: several permutations in exact proportions, compared with a row-by-row mixture."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from fractions import Fraction

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.mixing.epochs import MOST_EPOCHS
from lanceloader.mixing.weights import integer_weights
from lanceloader.world import World
from mixture_reference import flat, mixed, numbered, served, shorter, sources_of
from vector_tables import STRATEGIES


def ids(rows):
    return [row for _, row in rows]


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)
numbers = st.one_of(
    st.integers(1, 20), st.integers(1, 10**9), st.floats(1e-6, 1e6), st.just(0.1)
)


@given(st.data(), sizes, st.booleans())
def test_a_mixture_equals_the_row_by_row_reference(data, sizes, one_table):
    sources = sources_of(sizes, one_table=one_table)
    weights = data.draw(
        st.lists(st.integers(1, 50), min_size=len(sizes), max_size=len(sizes))
    )
    size = data.draw(st.integers(1, 40))
    epoch = data.draw(st.sampled_from([None, 0, 3]))
    mixture = ll.mix(sources, weights=weights, stop=100, source_column="source")
    loader = mixture.loader(size, shuffle=True, seed=5, format="python_col")
    if epoch is not None:
        loader.set_epoch(epoch)
    batches = list(loader)
    wanted = mixed(sources, shorter(weights), 100, epoch=epoch, seed=5)
    assert flat(batch["id"] for batch in batches) == ids(wanted)
    assert flat(batch["source"] for batch in batches) == [name for name, _ in wanted]
    assert [len(batch["id"]) for batch in batches[:-1]] == [size] * (len(loader) - 1)
    # Rows of a source in each of its passes: all of them, each once.
    for name, view in sources.items():
        found = [row for of, row in wanted if of == name]
        passes = [found[k : k + len(view)] for k in range(0, len(found), len(view))]
        everything = set(view.with_format("python_col")[:]["id"])
        assert all(set(rows) == everything for rows in passes if len(rows) == len(view))
        assert all(len(set(rows)) == len(rows) for rows in passes)


@given(st.lists(numbers, min_size=1, max_size=9))
def test_no_source_is_ever_far_from_its_share(weights):
    whole = integer_weights(weights, range(len(weights)), [1] * len(weights))
    total = sum(map(Fraction, weights))
    for number, weight in zip(whole, weights, strict=True):
        assert abs(Fraction(number, sum(whole)) - Fraction(weight) / total) < 1e-6
    mixture = ll.mix([numbered(0, 5)] * len(weights), weights=weights, stop=300)
    bound = 1 if len(weights) <= 3 else 2
    for position in range(301):
        counts = mixture.counts(position)
        assert sum(counts.values()) == position
        for source, number in enumerate(whole):
            share = Fraction(number, sum(whole)) * position
            assert abs(counts[source] - share) < bound


@given(sizes, st.integers(0, 60), st.sampled_from(["size", "equal"]))
def test_where_an_epoch_ends(sizes, rows, weights):
    sources = sources_of(sizes)
    first = ll.mix(sources, weights=weights)
    assert all(first.counts()[name] <= len(view) for name, view in sources.items())
    more = first.counts(len(first) + 1)
    assert any(more[name] > len(view) for name, view in sources.items())
    every = ll.mix(sources, weights=weights, stop="all")
    assert all(every.counts()[name] >= len(view) for name, view in sources.items())
    fewer = every.counts(len(every) - 1)
    assert any(fewer[name] < len(view) for name, view in sources.items())
    assert len(ll.mix(sources, weights=weights, stop=rows)) == rows
    if weights == "size":
        assert len(first) == len(every) == sum(sizes)


@pytest.mark.parametrize("one_table", [False, True])
@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
def test_global_batches_are_the_same_for_every_world(one_table, tail):
    mixture = ll.mix(sources_of([50, 30, 7], one_table=one_table), stop="all")
    options = {"shuffle": True, "seed": 3, "format": "python_col", "tail": tail}
    alone = served(mixture.loader(12, **options))
    for world_size in (1, 2, 3, 4):
        ranks = [
            served(
                mixture.loader(
                    global_batch_size=12, rank=rank, world_size=world_size, **options
                )
            )
            for rank in range(world_size)
        ]
        assert len({len(batches) for batches in ranks}) == 1
        together = [flat(parts) for parts in zip(*ranks, strict=True)]
        # Of 87 rows, 3 are left after 7 batches.
        last, rows = alone[7], flat(together)
        whole = {
            "uneven": last,
            "pad": last + alone[0][: -3 % world_size],
            "drop": last[: 3 - 3 % world_size],
        }
        assert together[:7] == alone[:7]
        assert rows[84:] == whole[tail]


@pytest.mark.parametrize("one_table", [False, True])
def test_a_state_resumes_at_another_world_size(one_table):
    mixture = ll.mix(sources_of([40, 20], one_table=one_table), weights=[1, 3], stop=90)
    options = {"shuffle": True, "seed": 3, "format": "python_col"}
    whole = served(mixture.loader(10, **options).set_epoch(2))
    loader = mixture.loader(5, rank=1, world_size=2, **options).set_epoch(2)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (2, 40)
    other = pickle.loads(pickle.dumps(mixture)).loader(10, **options)
    other.load_state_dict(state)
    assert served(other) == whole[4:]
    skipped = mixture.loader(10, **options).set_epoch(2).skip_batches(7)
    assert served(skipped) == whole[7:]


@pytest.mark.parametrize("change", ["weights", "stop", "rows", "seed", "names"])
def test_a_state_of_another_mixture_is_refused(change):
    sources = sources_of([40, 20])
    options = {"weights": [1, 3], "stop": 90}
    state = ll.mix(sources, **options).loader(10).state_dict()
    seed = None
    if change == "weights":
        options["weights"] = [1, 2]
    elif change == "stop":
        options["stop"] = 91
    elif change == "rows":
        sources["a"] = sources["a"].with_take(39)
    elif change == "names":
        sources = {"c": sources["a"], "b": sources["b"]}
    else:
        seed = 4
    other = ll.mix(sources, **options).loader(10, shuffle=seed is not None, seed=seed)
    with pytest.raises(ValueError, match="this checkpoint is for another"):
        other.load_state_dict(state)


@pytest.mark.parametrize("one_table", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_serve_the_same_batches(num_workers, one_table):
    torch_data = pytest.importorskip("torch.utils.data")
    mixture = ll.mix(sources_of([40, 25], one_table=one_table), weights=[1, 1], stop=73)
    options = {"shuffle": True, "seed": 3, "format": "python_col"}
    wanted = served(mixture.loader(8, **options).set_epoch(1))
    loader = mixture.loader(8, **options).set_epoch(1)
    data = torch_data.DataLoader(
        loader,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
    )
    assert served(data) == wanted


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two tables of every kind of column, and one with a column that has other nulls."""
    folder = tmp_path_factory.mktemp("mix")
    paths = []
    for at, rows in enumerate([3000, 500]):
        path = folder / f"{at}.lance"
        data = tables.narrow(rows)
        shifted = pa.compute.add(data["id"], 10_000 * at)
        data = data.set_column(data.schema.get_field_index("id"), "id", shifted)
        lance.write_dataset(data, path, max_rows_per_file=700)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("num_tables", [1, 2])
def test_every_way_of_reading_gives_the_same(folders, read, num_tables):
    if num_tables == 2:
        sources = [ll.open(path) for path in folders]
    else:
        sources = list(ll.open(folders[0]).split([0.7, 0.3], seed=1))
    mixture = ll.mix(sources, weights=[3, 1], stop="all").shuffle(9)
    loader = mixture.loader(100, read=read, memory_limit="1MiB", format="arrow")
    found = pa.Table.from_batches(loader.set_epoch(1), schema=mixture.schema)
    wanted = mixed(dict(enumerate(sources)), [3, 1], len(mixture), epoch=1, seed=9)
    assert found["id"].to_pylist() == ids(wanted)
    rows = {
        row["id"]: row for source in sources for row in source.with_format("python")[:]
    }
    assert found.to_pylist() == [rows[row] for row in ids(wanted)]
    assert loader.stats().rows == len(mixture)
    assert loader.stats().bytes > 0


def test_every_format_is_that_of_one_table(folders):
    mixture = ll.mix([ll.open(path) for path in folders], stop=50).shuffle(2)
    mixture = ll.mix(
        [source.select_columns(["id", "x"]) for source in mixture.sources.values()],
        stop=50,
    )
    wanted = served(mixture.loader(50, format="python_col"))[0]
    numpy = next(iter(mixture.with_format("numpy_dict").loader(50)))
    assert numpy["id"].tolist() == wanted
    frame = next(iter(mixture.loader(50, format="pandas")))
    assert frame["id"].tolist() == wanted
    narrow = ll.mix(
        [source.select_columns(["id"]) for source in mixture.sources.values()], stop=50
    )
    matrix = next(iter(narrow.loader(50, format="torch_matrix")))
    assert matrix[:, 0].tolist() == wanted


def test_transforms_that_fail_on_rows():
    mixture = ll.mix(sources_of([10, 10]), source_column="source")

    def odd(batch):
        if any(row % 2 for row in batch["id"]):
            raise ValueError("odd")
        return batch

    loader = mixture.loader(5, format="python_col", transform=odd, on_error="skip")
    assert all(row % 2 == 0 for row in flat(served(loader)))
    assert loader.stats().rows_skipped == 10


def test_tables_read_by_their_own_library(folders, monkeypatch):
    native, other = (ll.open(path) for path in folders)
    wanted = served(ll.mix([native, other], stop=200).loader(64, format="python_col"))
    from lanceloader.engine import ROW_OFFSET
    from lanceloader.engine_reader import EngineReader

    source = other.source
    monkeypatch.setattr(
        source,
        "reader",
        lambda columns, _=None: EngineReader(source.engine(), columns, ROW_OFFSET),
    )
    other = other._replace(reader=None)
    mixture = ll.mix([native, other], stop=200, source_column="of")
    loader = mixture.loader(64, format="python_col")
    assert served(loader) == wanted
    assert loader.stats().rows == 200


def test_weights_change_over_training():
    sources = sources_of([10, 10, 10])
    schedule = [(0, [1, 0, 0]), (15, [0, 1, 1]), (40, [0, 0, 1])]
    mixture = ll.mix(sources, schedule=schedule, stop=20, source_column="s")
    loader = mixture.loader(20, format="python_col", epochs=3)
    found = [Counter(batch["s"]) for batch in loader]
    assert found == [{"a": 15, "b": 3, "c": 2}, {"b": 10, "c": 10}, {"c": 20}]
    again = [
        Counter(next(iter(mixture.loader(20, format="python_col").set_epoch(e)))["s"])
        for e in (2, 0, 1)
    ]
    assert again == [found[2], found[0], found[1]]


def test_epochs_that_differ_in_length():
    schedule = [(0, [1, 1]), (25, [1, 3])]
    mixture = ll.mix(sources_of([10, 30]), schedule=schedule)
    lengths = []
    for epoch in range(4):
        loader = mixture.loader(1, format="python_col").set_epoch(epoch)
        lengths.append(len(served(loader)))
        assert lengths[-1] == len(loader)
    # 20 and one more of the second; then 4 rows at 1:1 and the rest at 1:3; then 1:3.
    assert lengths[2] == lengths[3] == 40
    assert lengths[0] < lengths[1] < 40
    several = mixture.loader(1, format="python_col", epochs=4)
    assert len(served(several)) == len(several) == sum(lengths)


@pytest.mark.parametrize("stop", ["first", 16])
def test_epochs_of_a_schedule_are_found_again_and_few_are_kept(stop):
    schedule = [(0, {"a": 1, "b": 3}), (10_000, {"a": 3, "b": 1})]
    mixture = ll.mix(sources_of([10, 10]), schedule=schedule, shape="linear", stop=stop)
    other = copy.copy(mixture)
    counted = [mixture.with_epoch(epoch).counts() for epoch in range(60)]
    assert counted[0] != counted[59]
    assert other.with_epoch(59).counts() == counted[59]
    travelled = pickle.loads(pickle.dumps(mixture))
    for epoch in (30, 0, 59, 58):
        loader = mixture.loader(1, format="python_col").set_epoch(epoch)
        assert len(served(loader)) == sum(counted[epoch].values())
        for one in (mixture, travelled):
            one._epochs.of(epoch)
            assert one.with_epoch(epoch).counts() == counted[epoch]
        assert len(mixture._epochs._mixes) <= MOST_EPOCHS


def test_a_mixture_of_shards_is_not_shared_out_again(monkeypatch):
    monkeypatch.setattr(World, "in_use", classmethod(lambda cls: cls(0, 2)))
    shard = numbered(0, 20).shard(0, 2)
    assert flat(served(shard.loader(4, format="python_col"))) == ids_of(shard)
    for mixture in (ll.mix([shard]), ll.mix([numbered(100, 10), shard])):
        for one in (mixture, mixture.shuffle(1), pickle.loads(pickle.dumps(mixture))):
            rows = flat(served(one.loader(4, format="python_col")))
            assert sorted(rows) == sorted(
                row for view in mixture.sources.values() for row in ids_of(view)
            )
    whole = ll.mix([numbered(0, 20)]).loader(4, format="python_col")
    assert len(flat(served(whole))) == 10
    ranked = ll.mix([shard]).loader(2, rank=0, world_size=2, format="python_col")
    assert len(flat(served(ranked))) == 5


def ids_of(view):
    return view.to_arrow()["id"].to_pylist()


def test_weights_in_a_straight_line():
    schedule = [(0, {"a": 1, "b": 0}), (10_000, {"a": 0, "b": 1})]
    mixture = ll.mix(
        sources_of([10, 10]), schedule=schedule, shape="linear", stop=12_000
    )
    for row in range(0, 10_001, 500):
        # The area under the line.
        assert abs(mixture.counts(row)["a"] - (row - row * row / 20_000)) < 5
    assert mixture.counts(12_000)["a"] == mixture.counts(10_000)["a"]
    assert served(mixture.loader(100, format="python_col").skip_batches(119)) == [
        [1000 + row % 10 for row in range(k, k + 100)]
        for k in [mixture.counts(11_900)["b"]]
    ]


def test_strata_are_in_every_batch(folders):
    perm = numbered(0, 300, label=lambda k: "xyz"[min(k % 7, 2)])
    strata = perm.strata("label")
    assert list(strata) == ["x", "y", "z"]
    shares = {name: len(part) / 300 for name, part in strata.items()}
    mixture = ll.mix(strata)
    options = {"shuffle": True, "seed": 1, "format": "python_col"}
    batches = list(mixture.loader(20, **options))
    assert sorted(flat(batch["id"] for batch in batches)) == list(range(300))
    for batch in batches:
        found = Counter(batch["label"])
        assert all(abs(found[name] - share * 20) < 2 for name, share in shares.items())
    balanced = ll.mix(strata, weights="equal", stop="all")
    for batch in balanced.loader(30, **options, drop_last=True):
        assert Counter(batch["label"]) == {"x": 10, "y": 10, "z": 10}
    # All of one table: one reader, however many there are.
    many = ll.mix(perm.strata("id"))
    assert len(many._views) == 1
    assert sorted(flat(served(many.loader(32, **options)))) == list(range(300))
    assert len(many.loader(32).state_dict()["plan"]) < 10


def test_some_sources_of_the_same_table():
    one, two = numbered(0, 30).split([0.5, 0.5], how="sequential")
    mixture = ll.mix(
        {"one": one, "far": numbered(100, 30), "two": two}, source_column="s", stop=60
    )
    assert len(mixture._views) == 2
    batches = list(mixture.loader(7, format="python_col"))
    assert mixture.counts() == {"one": 15, "far": 30, "two": 15}
    by_name = {"one": range(15), "far": range(100, 130), "two": range(15, 30)}
    for name, wanted in by_name.items():
        found = [
            row
            for batch in batches
            for row, of in zip(batch["id"], batch["s"], strict=True)
            if of == name
        ]
        assert found == list(wanted)


def test_repr_and_explain_of_a_mixture():
    mixture = ll.mix(sources_of([40, 20]), weights=[1, 3])
    assert repr(mixture) == (
        "<Mixture of 27 rows of 2 sources: a, b; until a source would start again>"
    )
    text = mixture.explain()
    assert "source    b: weight 75.00%, 20 rows of an epoch, 1.00 times its 20" in text
    assert text.count("table  ") == 2
    loader = mixture.loader(5)
    assert loader.explain() == text
    assert "<Loader of 6 steps of 5 rows, at step 0; <Mixture of 27" in repr(loader)
    assert len(pickle.loads(pickle.dumps(mixture)).loader(5)) == 6
    assert mixture.schema.names == mixture.column_names == ["id"]


def test_memory_is_shared(folders):
    from lanceloader.mixing.budget import divided

    assert divided(100, [10, 500, 30]) == [10, 60, 30]
    assert divided(90, [500, 500, 500]) == [30, 30, 30]
    mixture = ll.mix([ll.open(path) for path in folders])
    limits = [
        view.read_options.memory_limit
        for view in mixture.with_read(memory_limit=1 << 20)._readers()
    ]
    assert sum(limits) == 1 << 20
    assert all(view.read_options.threads for view in mixture._readers())


def test_an_iteration_that_is_left_ends():
    from process_state import settle

    mixture = ll.mix(sources_of([500, 500]), stop=100_000)
    batches = iter(mixture.loader(10))
    next(batches)
    del batches
    settle()
