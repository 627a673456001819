"""Decoded columns of mixtures, of blocks of documents, and in torch's own DataLoader."""

from __future__ import annotations

import pickle
import warnings

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.errors import ImageError
from pictures import file_of, pattern, table_of
from torch.utils.data import DataLoader

RANDOM = ll.image(16, crop="random", flip=True)
DECODE = {"image": RANDOM}


def photos(start: int, rows: int) -> pa.Table:
    return table_of(
        [file_of(pattern(40 + n, 61 - n, n)) for n in range(start, start + rows)]
    )


def pixels_of(loader) -> list[tuple[str, int, bytes]]:
    """Return the source, the number and the pixels of each row, in order."""
    return [
        (source, int(number), image.tobytes())
        for batch in loader
        for source, number, image in zip(
            batch["source"], batch["number"], batch["image"], strict=True
        )
    ]


def mixture(sources=None, **options) -> ll.Mixture:
    if sources is None:
        sources = {"a": ll.open(photos(0, 25)), "b": ll.open(photos(25, 10))}
    options = {"weights": "equal", "stop": "all", "source_column": "source"} | options
    return ll.mix(sources, **options)


def loaded(mixed, size=8, **options):
    options = {"shuffle": True, "seed": 3, "format": "numpy_dict"} | options
    return pixels_of(mixed.loader(size, **options).set_epoch(1))


def test_mixtures_are_decoded_the_same_at_any_size_and_number_of_ranks():
    mixed = mixture()
    wanted = loaded(mixed, decode=DECODE)
    # The rows of the smaller source come more than once, each time with another crop.
    assert len(set(wanted)) == len(wanted) == 49
    assert loaded(mixed, 3, decode=DECODE) == wanted
    assert loaded(mixed.with_decode(DECODE), transform_threads=0) == wanted
    parts = [
        loaded(mixed, 4, decode=DECODE, rank=rank, world_size=2, tail="uneven")
        for rank in range(2)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(wanted)
    assert loaded(mixed, seed=4, decode=DECODE) != wanted


def test_sources_of_one_table_are_decoded_as_others():
    first, second = ll.open(photos(0, 12)).split([0.5, 0.5], seed=1)
    mixed = ll.mix({"a": first, "b": second})
    whole = mixed.loader(12, decode={"image": ll.image(16)}, format="numpy_dict")
    (batch,) = whole
    plain = ll.open(photos(0, 12)).with_decode({"image": ll.image(16)})
    wanted = plain.with_format("numpy_dict")[:]["image"]
    assert (batch["image"] == wanted[batch["number"]]).all()


def test_mixtures_continue_with_the_same_pixels():
    options = {"shuffle": True, "seed": 3, "format": "numpy_dict", "decode": DECODE}
    loader = mixture().loader(8, **options)
    batches = iter(loader)
    before = pixels_of([next(batches) for _ in range(3)])
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    resumed = mixture().loader(5, **options)
    resumed.load_state_dict(state)
    whole = pixels_of(mixture().loader(8, **options))
    assert before + pixels_of(resumed) == whole


def test_sources_may_be_decoded_if_all_are():
    first, second = ll.open(photos(0, 25)), ll.open(photos(25, 10))
    decoded = [perm.with_decode(DECODE) for perm in (first, second)]
    mixed = mixture(dict(zip("ab", decoded, strict=True)))
    assert loaded(mixed) == loaded(mixture(), decode=DECODE)
    for others in ([decoded[0], second], [second, decoded[0]]):
        with pytest.raises(ValueError, match=r"with_decode\(\) on the mixture"):
            ll.mix(others)
    with pytest.raises(ValueError, match=r"select_columns\(\) cannot follow with_dec"):
        ll.mix(decoded, columns=["image"])


def test_broken_images_of_mixtures_are_named_and_may_be_left_out():
    files = [file_of(pattern(20, 30, n)) for n in range(4)]
    mixed = ll.mix([ll.open(photos(0, 25)), ll.open(table_of([*files, b"x"]))])
    with pytest.raises(ImageError, match="begins with 78") as caught:
        list(mixed.loader(8, decode=DECODE))
    assert "mixed row 27, in batch 3" in "".join(caught.value.__notes__)
    batches = list(mixed.loader(8, decode=DECODE, on_error="skip"))
    assert sum(map(len, batches)) == len(mixed) - 1 == 29


def test_explanations_show_what_is_decoded():
    perm = ll.open(photos(0, 3)).with_decode(DECODE)
    line = f"decode    image: {RANDOM}"
    assert line in perm.explain()
    assert "map" not in perm.explain()
    assert line in ll.mix([perm]).explain()


def test_blocks_of_documents_hold_no_images():
    documents = ll.open(
        pa.table({"tokens": [[1, 2], [3]], "image": photos(0, 2)["image"]})
    )
    with pytest.raises(ValueError, match=r"`decode`=.* does not apply to blocks of 4"):
        documents.pack(4, column="tokens").loader(1, decode=DECODE)
    with pytest.raises(ValueError, match=r"with_decode\(\) return"):
        documents.with_decode(DECODE).pack(4, column="tokens")


def test_rows_of_like_length_are_decoded():
    tokens = [[1] * (1 + n % 7) for n in range(25)]
    table = photos(0, 25).append_column("tokens", pa.array(tokens))
    whole = loaded_by_number(ll.open(table).loader(25, decode=DECODE, **SEEDED))
    loader = ll.open(table).loader(
        batch_tokens=28, length="tokens", decode=DECODE, **SEEDED
    )
    assert loaded_by_number(loader) == whole


SEEDED = {"shuffle": True, "seed": 3, "format": "numpy_dict"}


def loaded_by_number(loader) -> dict[int, bytes]:
    return {
        int(number): image.tobytes()
        for batch in loader
        for number, image in zip(batch["number"], batch["image"], strict=True)
    }


def through_torch(perm, num_workers) -> dict[int, bytes]:
    context = "spawn" if num_workers else None
    loader = DataLoader(
        perm, batch_size=6, num_workers=num_workers, multiprocessing_context=context
    )
    # torch warns of arrays that it cannot write to.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return loaded_by_number(
            {name: value.numpy() for name, value in batch.items()} for batch in loader
        )


@pytest.mark.parametrize(
    "num_workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_torch_gets_the_pixels_of_the_loader(tmp_path, num_workers):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(photos(0, 25), uri)
    perm = ll.open(uri)
    loader = perm.loader(7, shuffle=True, seed=5, format="numpy_dict", decode=DECODE)
    wanted = loaded_by_number(loader.set_epoch(2))
    decoded = perm.shuffle(5, epoch=2).with_decode(DECODE)
    for format in ("torch_dict", "python"):
        assert through_torch(decoded.with_format(format), num_workers) == wanted


def test_python_arrays_may_be_changed():
    perm = ll.open(photos(0, 2)).with_decode({"image": ll.image(8)})
    image = perm[:][0]["image"]
    image += 1
    assert np.array_equal(perm[:][0]["image"] + np.uint8(1), image)


@pytest.mark.parametrize(
    "options", [{"size": 8}, {"size": 8, "dtype": "float32"}, {}], ids=str
)
def test_numpy_arrays_may_be_changed(options):
    perm = ll.open(photos(0, 2)).with_decode({"image": ll.image(**options)})
    perm = perm.with_format("numpy_dict")
    for make in (lambda: perm[:], lambda: next(iter(perm.loader(2)))):
        image = make()["image"][0]
        image += 1
        again = make()["image"][0]
        np.testing.assert_array_equal(again + np.ones(1, again.dtype), image)


def test_columns_are_decoded_once():
    perm = ll.open(table_of([file_of(pattern(4, 4))] * 4))
    decode = {"image": ll.image(4)}
    once = perm.with_decode(decode)
    for again in (
        lambda: once.with_decode(decode),
        lambda: once.loader(2, decode=decode),
        lambda: ll.mix([once, once]).loader(2, decode=decode),
    ):
        with pytest.raises(ValueError, match="`image`, which is decoded already"):
            again()
