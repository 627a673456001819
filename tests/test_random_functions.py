"""Functions with ``rng`` in `map`, `filter`, `with_transform` and StreamingDataset: keyed by row."""

from __future__ import annotations

import functools
import pickle

import determinism_page
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from torch.utils.data import DataLoader

ROWS = 40


def drawn_by_row(row, rng):
    return {"u": float(rng.random()), "n": int(rng.named("n").integers(1000))}


def drawn_by_batch(batch, rng):
    return {"u": rng.per_row.random(), "n": rng.named("n").per_row.integers(1000)}


def as_pairs(batch, rng):
    numbers = batch.column("number").to_pylist()
    return list(zip(numbers, rng.per_row.random().tolist(), strict=True))


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("random") / "t.lance")
    table = pa.table({"number": np.arange(ROWS)})
    lance.write_dataset(table, uri, max_rows_per_file=16)
    return ll.open(uri, format="numpy_dict")


def joined(batches) -> list:
    return [row for batch in batches for row in batch]


def values_of(batches) -> dict[int, tuple[float, int]]:
    """Return what was drawn for each row."""
    return {
        int(number): (float(u), int(n))
        for batch in batches
        for number, u, n in zip(batch["number"], batch["u"], batch["n"], strict=True)
    }


def loaded(perm, size=8, **options):
    options = {"shuffle": True, "seed": 5} | options
    return values_of(perm.loader(size, **options).set_epoch(2))


@pytest.mark.parametrize("batched", [False, True])
def test_functions_of_map_draw_by_row(perm, batched, tmp_path):
    function = drawn_by_batch if batched else drawn_by_row
    mapped = perm.map(function, batched=batched)
    wanted = loaded(mapped)
    assert len(set(wanted.values())) == ROWS
    assert loaded(mapped, 3) == wanted
    assert loaded(mapped, transform_threads=0) == wanted
    assert loaded(mapped, shuffle=False) == wanted
    assert loaded(pickle.loads(pickle.dumps(mapped))) == wanted
    parts = [loaded(mapped, 4, rank=rank, world_size=3) for rank in range(3)]
    assert parts[0] | parts[1] | parts[2] == wanted
    assert loaded(mapped, seed=6) != wanted
    shuffled = mapped.shuffle(5, epoch=2)
    assert values_of([shuffled[:]]) == wanted
    assert values_of(shuffled.iter(7)) == wanted
    assert values_of([shuffled[[3, 1]]]).items() < wanted.items()
    assert values_of([shuffled.to_arrow().to_pydict()]) == wanted
    written = shuffled.materialize(tmp_path / "t.lance")
    assert values_of([written[:]]) == wanted
    through_torch = DataLoader(shuffled.with_format("torch_dict"), batch_size=6)
    assert values_of(through_torch) == wanted


def test_functions_of_map_draw_the_numbers_of_the_page(perm):
    mapped = perm.map(drawn_by_batch, batched=True)
    mapped = mapped.map(lambda batch, rng: {"v": rng.per_row.random()}, batched=True)
    batch = mapped.shuffle(7, epoch=3)[:]
    page = determinism_page.load()
    for name, column in (("map", "u"), ("n", "n"), ("map 2", "v")):
        for number, value in zip(batch["number"], batch[column], strict=True):
            word = page.word(page.row_key(7, 3, name, int(number)), 0)
            is_whole = column == "n"
            wanted = (
                page.integer_of(word, 0, 1000) if is_whole else page.random_of(word)
            )
            assert value == wanted


def test_functions_draw_the_same_after_a_resume(perm):
    mapped = perm.map(drawn_by_row)
    options = {"shuffle": True, "seed": 5}
    loader = mapped.loader(8, **options)
    batches = iter(loader)
    before = [next(batches) for _ in range(2)]
    resumed = mapped.loader(5, **options)
    resumed.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
    whole = values_of(mapped.loader(8, **options))
    assert values_of(before) | values_of(resumed) == whole


def test_rows_that_fail_draw_as_they_would_alone(perm):
    def fails(batch, rng):
        if 11 in batch["number"]:
            raise ValueError("eleven")
        return drawn_by_batch(batch, rng)

    wanted = loaded(perm.map(drawn_by_batch, batched=True))
    del wanted[11]
    mapped = perm.map(fails, batched=True)
    assert loaded(mapped, on_error="skip", transform=lambda batch: batch) == wanted


def test_a_function_in_place_of_the_format_draws_by_row(perm):
    pairs = perm.with_transform(as_pairs)

    def all_of(size, **options):
        loader = pairs.loader(size, shuffle=True, seed=5, **options).set_epoch(2)
        return dict(joined(loader))

    wanted = all_of(8)
    assert all_of(3) == all_of(4, transform_threads=0) == wanted
    assert dict(pairs.shuffle(5, epoch=2)[:]) == wanted
    assert dict(joined(pairs.shuffle(5, epoch=2).iter(6))) == wanted
    page = determinism_page.load()
    key = page.row_key(5, 2, "with_transform", 17)
    assert wanted[17] == page.random_of(page.word(key, 0))
    # A generator of one's own stays.
    own = functools.partial(as_pairs, rng=ll.BatchGenerator)
    with pytest.raises(AttributeError, match="per_row"):
        perm.with_transform(own)[:]


def test_filters_may_draw(perm):
    half = perm.shuffle(5).filter(lambda row, rng: rng.random() < 0.5)
    assert 8 < len(half) < 32
    again = perm.filter(lambda row, rng: rng.random() < 0.5)
    assert set(again[:]["number"]) != set(half[:]["number"])
    by_batch = perm.shuffle(5).filter(
        lambda batch, rng: rng.per_row.random() < 0.5, batched=True
    )
    page = determinism_page.load()
    assert set(by_batch[:]["number"]) == {
        row
        for row in range(ROWS)
        if page.random_of(page.word(page.row_key(5, 0, "filter", row), 0)) < 0.5
    }


def test_blocks_of_documents_draw_by_their_number():
    documents = ll.open(pa.table({"tokens": [[n, n + 1, n + 2] for n in range(20)]}))
    packed = documents.with_transform(
        lambda batch, rng: rng.per_row.integers(1000).tolist()
    ).pack(4)
    wanted = joined(packed.loader(4))
    assert len(set(wanted)) > 10
    assert packed[:] == wanted
    assert packed[[3, 1]] == [wanted[3], wanted[1]]
    assert joined(packed.loader(7, transform_threads=0)) == wanted


def test_mixtures_draw_by_source_and_row(perm):
    first, second = perm.with_transform(as_pairs).split([0.5, 0.5], seed=1)
    mixed = ll.mix({"a": first, "b": second})
    whole = joined(mixed.loader(7, shuffle=True, seed=3))
    assert joined(mixed.loader(4, shuffle=True, seed=3)) == whole
    assert len(set(whole)) == ROWS


def test_functions_whose_rng_is_set_are_called_as_they_are(perm):
    def own(batch, rng):
        return {"u": rng.random(len(batch["number"]))}

    mapped = perm.map(
        functools.partial(own, rng=np.random.default_rng(3)), batched=True
    )
    assert (mapped[:]["u"] == np.random.default_rng(3).random(ROWS)).all()


def streamed(uri, **options) -> dict[int, float]:
    options = {"num_splits": 4, "shuffle_seed": 5, "epoch": 2} | options
    dataset = StreamingDataset(lance_table(uri), transform=as_pairs, **options)
    return dict(dataset)


def lance_table(uri):
    import lancedb

    folder, name = uri.rsplit("/", 1)
    return lancedb.connect(folder).open_table(name.removesuffix(".lance"))


def test_transforms_of_streaming_datasets_draw_by_row(perm, tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"number": np.arange(ROWS)}), uri)
    wanted = streamed(uri)
    page = determinism_page.load()
    assert wanted == {
        row: page.random_of(page.word(page.row_key(5, 2, "transform", row), 0))
        for row in range(ROWS)
    }
    assert streamed(uri, read_batch_size=3, transform_parallelism=1) == wanted
    assert streamed(uri, num_splits=2) == wanted
    assert streamed(uri, tail="uneven") == wanted
    assert streamed(uri, shuffle=False) == wanted
    parts = [streamed(uri, rank=rank, world_size=2) for rank in range(2)]
    assert parts[0] | parts[1] == wanted
    assert streamed(uri, epoch=3) != wanted


def test_streaming_datasets_draw_the_same_after_a_resume(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"number": np.arange(ROWS)}), uri)
    wanted = streamed(uri)
    options = {"num_splits": 4, "shuffle_seed": 5, "epoch": 2, "transform": as_pairs}
    first = StreamingDataset(lance_table(uri), **options)
    loader = StreamingDataLoader(first, batch_size=4, collate_fn=list)
    batches = iter(loader)
    before = dict(joined(next(batches) for _ in range(3)))
    state = first.state_dict()
    del batches
    second = StreamingDataset(lance_table(uri), read_batch_size=3, **options)
    second.load_state_dict(state)
    resumed = StreamingDataLoader(second, batch_size=4, collate_fn=list)
    assert before | dict(joined(resumed)) == wanted


def test_rows_that_fail_in_streaming_datasets_draw_as_they_would_alone(tmp_path):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"number": np.arange(ROWS)}), uri)

    def fails(batch, rng):
        if 11 in batch.column("number").to_pylist():
            raise ValueError("eleven")
        return as_pairs(batch, rng)

    dataset = StreamingDataset(
        lance_table(uri),
        num_splits=4,
        shuffle_seed=5,
        epoch=2,
        transform=fails,
        on_transform_error="skip",
    )
    wanted = streamed(uri)
    del wanted[11]
    found = dict(dataset)
    assert found.items() <= wanted.items()
    assert len(found) >= ROWS - 4
