"""Padding of ``Ragged``, alone and as an option of formats and loaders, against loops over lists."""

from __future__ import annotations

import pickle

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.formats import _columns

KINDS = [
    *(np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64),
    *(np.uint64, np.float32, np.float64, np.bool_),
]


def ragged_of(lists, kind, library):
    flat = np.array([value for each in lists for value in each], kind)
    offsets = np.cumsum([0, *map(len, lists)])
    if library == "torch":
        return ll.Ragged(torch.from_numpy(flat), torch.from_numpy(offsets))
    return ll.Ragged(flat, offsets)


def padded(lists, value, side, length, multiple_of):
    """The rows and the mask, list by list."""
    width = max(map(len, lists), default=0) if length is None else length
    while multiple_of and width % multiple_of:
        width += 1
    rows, mask = [], []
    for each in lists:
        rest = [value] * (width - len(each))
        valid = [True] * len(each)
        rows.append(each + rest if side == "right" else rest + each)
        no = [False] * len(rest)
        mask.append(valid + no if side == "right" else no + valid)
    return rows, mask, width


@given(
    lists=st.lists(st.lists(st.integers(0, 1), max_size=6), max_size=6),
    kind=st.sampled_from(KINDS),
    library=st.sampled_from(["numpy", "torch"]),
    value=st.integers(0, 1),
    side=st.sampled_from(["right", "left"]),
    length=st.none() | st.integers(0, 9),
    multiple_of=st.none() | st.integers(1, 8),
    before=st.booleans(),
)
def test_padding_is_that_of_lists(
    lists, kind, library, value, side, length, multiple_of, before
):
    ragged = ragged_of(lists, kind, library)
    if before and len(lists):
        # A part of longer values, as slices of the offsets give it.
        ragged = ll.Ragged(ragged.values, ragged.offsets[1:])
        lists = lists[1:]
    options = {"side": side, "length": length, "multiple_of": multiple_of}
    if length is not None and any(len(each) > length for each in lists):
        with pytest.raises(ValueError, match=f"`length`={length} is less than"):
            ragged.padded(value, **options)
        return
    found, mask = ragged.padded(value, **options, return_mask=True)
    assert ragged.lengths.tolist() == list(map(len, lists))
    rows, valid, width = padded(lists, value, side, length, multiple_of)
    assert tuple(found.shape) == tuple(mask.shape) == (len(lists), width)
    assert found.dtype == ragged.values.dtype
    assert found.tolist() == np.array(rows, kind).reshape(len(lists), width).tolist()
    assert mask.tolist() == valid
    assert isinstance(found, torch.Tensor) == (library == "torch")
    alone = ragged.padded(value, **options)
    assert alone.tolist() == found.tolist()


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (np.int64, 0.5),
        (np.uint32, -100),
        (np.int8, 200),
        (np.bool_, 2),
        (np.int32, "x"),
        (np.int32, None),
        (np.int16, float("nan")),
    ],
)
def test_values_that_do_not_fit_are_refused(library, kind, value):
    ragged = ragged_of([[1], [1, 0]], kind, library)
    with pytest.raises(ValueError, match="cannot be padded with"):
        ragged.padded(value)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_vectors_and_extremes(library):
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    offsets = np.array([0, 1, 3])
    if library == "torch":
        vectors, offsets = torch.from_numpy(vectors), torch.from_numpy(offsets)
    found = ll.Ragged(vectors, offsets).padded(-0.5, side="left")
    assert found.tolist() == [[[-0.5, -0.5], [0, 1]], [[2, 3], [4, 5]]]
    most = ragged_of([[1], []], np.uint64, library).padded(2**64 - 1)
    assert most.tolist() == [[1], [2**64 - 1]]
    nan = ragged_of([[1], []], np.float32, library).padded(float("nan"))
    assert np.isnan(nan[1, 0].item())


def test_bfloat16():
    values = torch.tensor([1.0, 2, 3]).to(torch.bfloat16)
    found = ll.Ragged(values, torch.tensor([0, 2, 3])).padded(-1)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[1, 2], [3, -1]]


def test_arguments_of_padding():
    ragged = ragged_of([[1]], np.int64, "numpy")
    with pytest.raises(ValueError, match='`side` must be one of "right", "left"'):
        ragged.padded(0, side="both")
    with pytest.raises(ValueError, match="multiple_of"):
        ragged.padded(0, multiple_of=0)
    with pytest.raises(TypeError, match="length"):
        ragged.padded(0, length=1.5)


def test_pickles_of_earlier_versions_find_the_class():
    assert _columns.Ragged is ll.Ragged
    ragged = ragged_of([[1], [2, 3]], np.int64, "numpy")
    again = pickle.loads(pickle.dumps(ragged))
    assert again.padded(0).tolist() == [[1, 0], [2, 3]]


LISTS = [[3, 1, 2], [], [5], [6, 7]]
TABLE = pa.table(
    {
        "id": range(4),
        "tokens": pa.array(LISTS, pa.list_(pa.int32())),
        "weights": pa.array(
            [[0.5] * len(each) for each in LISTS], pa.large_list(pa.float32())
        ),
        "nested": pa.array([{"tags": each, "n": 1} for each in LISTS]),
    }
)


@pytest.fixture(params=["memory", "disk"])
def perm(request, tmp_path):
    if request.param == "memory":
        return ll.open(TABLE)
    import lance

    return ll.open(lance.write_dataset(TABLE, tmp_path / "t.lance"))


@pytest.mark.parametrize("format", ["numpy_dict", "torch_dict"])
def test_pad_of_a_format(perm, format):
    right, _, _ = padded(LISTS, 0, "right", None, None)
    left, left_mask, _ = padded(LISTS, -100, "left", None, 4)
    batch = perm.with_format(format, pad=0)[:]
    assert batch["tokens"].tolist() == right
    assert batch["nested"]["tags"].tolist() == right
    assert batch["id"].tolist() == [0, 1, 2, 3]
    assert tuple(batch["weights"].shape) == (4, 3)
    how = {"value": -100, "side": "left", "multiple_of": 4, "mask": "valid"}
    batch = perm.with_format(format, pad={"tokens": how, "nested.tags": 0})[:]
    assert batch["tokens"].tolist() == left
    assert batch["valid"].tolist() == left_mask
    assert batch["nested"]["tags"].tolist() == right
    assert isinstance(batch["weights"], ll.Ragged)
    again = pickle.loads(pickle.dumps(perm.with_format(format, pad={"tokens": 0})))
    assert again[:]["tokens"].tolist() == right


@pytest.mark.parametrize(
    "options", [{}, {"transform_threads": 1}, {"in_process": False}]
)
def test_pad_of_a_loader_under_a_token_budget(perm, options):
    loader = perm.loader(
        batch_tokens=4,
        length="tokens",
        format="torch_dict",
        pad={"tokens": {"value": 0, "mask": "attention_mask"}},
        **options,
    )
    seen = {}
    for batch in loader:
        tokens, mask = batch["tokens"], batch["attention_mask"]
        assert tokens.shape == mask.shape
        assert tokens.shape[1] == mask.sum(dim=1).max()
        assert tokens.numel() <= 4
        for row, number in enumerate(batch["id"].tolist()):
            seen[number] = tokens[row][mask[row]].tolist()
    assert [seen[number] for number in range(4)] == LISTS


def test_pad_of_mixtures_and_nulls():
    table = pa.table({"tokens": pa.array([[1, 2], None, [3]], pa.list_(pa.int64()))})
    perm = ll.open(table)
    filled = perm.with_format("numpy_dict", nulls="fill", fill_value=[], pad=9)[:]
    assert filled["tokens"].tolist() == [[1, 2], [9, 9], [3, 9]]
    masked = perm.with_format("numpy_dict", nulls="mask", pad=9)[:]
    assert masked["tokens"].tolist() == [[1, 2], [9, 9], [3, 9]]
    assert masked["tokens_mask"].tolist() == [True, False, True]
    some = perm.filter([True, False, True])
    mixture = ll.mix([some, some]).with_format("numpy_dict", pad=0)
    (batch,) = mixture.loader(8)
    assert batch["tokens"].shape == (4, 2)


@pytest.mark.parametrize(
    ("pad", "match"),
    [
        ({"tokns": 0}, "`pad` names the column 'tokns'.*`tokens`"),
        ({"id": 0}, "has no lists"),
        ({"tokens": {"side": "left"}}, '"value"'),
        ({"tokens": {"value": 0, "to": 4}}, '"multiple_of"'),
        ({"tokens": {"value": 0, "side": "top"}}, '"right" or "left"'),
        ({"tokens": {"value": 0, "mask": "id"}}, "name of a column"),
    ],
)
def test_pad_refuses(pad, match):
    with pytest.raises(ValueError, match=match):
        ll.open(TABLE).with_format("numpy_dict", pad=pad)


def test_where_pad_has_no_effect():
    perm = ll.open(TABLE)
    with pytest.raises(ValueError, match='format "arrow" takes no options, got pad'):
        perm.with_format("arrow", pad=0)
    with pytest.raises(ValueError, match="pass `format`, too"):
        perm.loader(2, pad=0)
    for pad in (0, {"tokens": 0}, {"tokens": {"value": 0, "multiple_of": 8}}):
        with pytest.raises(ValueError, match="rows, which `pad` would pad"):
            perm.loader(2, format="numpy_dict", pad=pad, transform=len, on_error="skip")
    fixed = {"tokens": {"value": 0, "length": 3}}
    options = {"format": "numpy_dict", "pad": fixed, "on_error": "skip"}
    narrow = perm.select_columns(["id", "tokens"])

    def fails(batch):
        if 2 in batch["id"]:
            raise ValueError("no")
        return batch

    (batch,) = narrow.loader(4, transform=fails, **options)
    assert batch["tokens"].tolist() == [[3, 1, 2], [0, 0, 0], [6, 7, 0]]
