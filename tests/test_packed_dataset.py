"""Packed documents as a data set of blocks, compared with what ``loader`` reads, and their labels."""

from __future__ import annotations

import pickle

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import sequences
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.errors import ColumnNotFoundError
from lanceloader.units import picked
from sequences import EOS, PAD, TYPES
from torch.utils.data import DataLoader, RandomSampler
from transformers.loss.loss_utils import ForCausalLMLoss

STRATEGIES = ["concat", "first_fit", "best_fit"]
COLUMNS = ["input_ids", "doc_ids", "position_ids", "cu_seqlens", "num_tokens"]


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    uri = sequences.written(tmp_path_factory.mktemp("documents"))
    return ll.open(uri).shuffle(seed=5)


def loaded(packed):
    """All blocks, as the loader reads them."""
    loader = packed.loader(7, format="python", world_size=1, rank=0)
    return [block for batch in loader for block in batch]


@st.composite
def packings(draw):
    return {
        "length": draw(st.integers(1, 40)),
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "eos_id": draw(st.sampled_from([None, EOS])),
        "pad_id": PAD,
        "long": draw(st.sampled_from(["split", "truncate", "drop"])),
        "window": draw(st.sampled_from([1, 5, 16_384])),
        "labels": draw(st.sampled_from([None, "shifted", "unshifted"])),
    }


@given(options=packings(), data=st.data())
def test_blocks_by_position_are_those_of_the_loader(perm, options, data):
    packed = perm.pack(**options)
    blocks = loaded(packed)
    number = len(blocks)
    assert len(packed) == packed.num_blocks() == number
    assert list(packed) == blocks
    if not number:
        return
    places = data.draw(st.lists(st.integers(-number, number - 1), max_size=12))
    assert packed[places] == [blocks[place] for place in places]
    assert packed[np.array(places, np.int64)] == packed[places]
    assert packed.__getitems__(places) == packed[places]
    place = data.draw(st.integers(-number, number - 1))
    assert packed[place] == blocks[place]
    assert packed[np.int64(place)] == blocks[place]
    bounds = st.none() | st.integers(-number - 2, number + 2)
    step = data.draw(st.sampled_from([None, 1, 2, -1, -3]))
    cut = slice(data.draw(bounds), data.draw(bounds), step)
    assert packed[cut] == blocks[cut]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_every_type_of_token(kind, where, tmp_path):
    data = sequences.documents(60, kind=TYPES[kind])
    perm = ll.open(data)
    if where == "disk":
        perm = ll.open(lance.write_dataset(data, tmp_path / "t.lance"))
    packed = perm.pack(16, pad_id=PAD, strategy="best_fit")
    assert packed[::-1] == loaded(packed)[::-1]


def test_documents_of_one_length(tmp_path):
    tokens = pa.array(np.arange(60).reshape(20, 3).tolist(), pa.list_(pa.int16(), 3))
    perm = ll.open(pa.table({"tokens": tokens})).shuffle(seed=1)
    packed = perm.pack(7, pad_id=PAD)
    assert packed[[5, 0, 2]] == [loaded(packed)[at] for at in (5, 0, 2)]


def test_pieces_are_kept_within_limits(perm, monkeypatch):
    monkeypatch.setattr(picked, "CHUNK", 10)
    monkeypatch.setattr(picked, "MOST_PIECES", 50)
    packed = perm.pack(24, strategy="first_fit", pad_id=PAD)
    blocks = loaded(packed)
    places = np.random.default_rng(0).integers(0, len(blocks), 200)
    for place in places:
        assert packed[int(place)] == blocks[place]
        cache = packed.units()._picked[1]
        kept = [len(pieces.positions) for pieces in cache._chunks.values()]
        assert len(kept) == 1 or sum(kept) <= 50
    assert list(packed[places.tolist()]) == [blocks[place] for place in places]


@pytest.mark.parametrize("tokens", [[[1, 2], None], [[1, None], [3]], [[1], [2**63]]])
def test_what_is_wrong_with_tokens_is_said_by_the_core(tokens):
    kind = pa.list_(pa.uint64()) if tokens[-1] == [2**63] else pa.list_(pa.int64())
    packed = ll.open(pa.table({"tokens": pa.array(tokens, kind)})).pack(4)
    with pytest.raises(ValueError, match=r"row [01]"):
        packed[0]


def test_lengths_that_are_wrong_are_found(perm):
    data = pa.table({"tokens": [[1, 2], [3]], "n": [4, 1]})
    with pytest.raises(ValueError, match="2 tokens in row 0"):
        ll.open(data).pack(4, lengths="n")[0]


def test_positions_out_of_range(perm):
    packed = perm.pack(24)
    number = len(packed)
    for place in (number, -number - 1):
        with pytest.raises(IndexError, match=f"for {number} blocks"):
            packed[place]
        with pytest.raises(IndexError, match=f"for {number} blocks"):
            packed[[0, place]]
    for place, match in [("input_ids", r"packed\[0\]"), (True, "mask"), (0.5, "float")]:
        with pytest.raises(TypeError, match=match):
            packed[place]
    with pytest.raises(TypeError, match="mask"):
        packed[[True, False]]
    assert len(packed[3:3]) == len(packed[[]]) == 0


@pytest.mark.parametrize(
    "format", ["torch_dict", "numpy_dict", "torch", "arrow", "pandas"]
)
def test_formats(perm, format):
    packed = perm.pack(24, pad_id=PAD, labels="shifted")
    plain, view = packed[2:6], packed.with_format(format)
    batch = view[2:6]
    for name in ("input_ids", "labels", "num_tokens"):
        wanted = [block[name] for block in plain]
        if format == "torch":
            found = [block[name].tolist() for block in batch]
        elif format == "pandas":
            found = [
                value.tolist() if name != "num_tokens" else value
                for value in batch[name]
            ]
        else:
            found = batch[name].tolist()
        assert found == wanted
    if format in ("torch_dict", "numpy_dict", "torch"):
        one = view[3]
        assert one["input_ids"].tolist() == plain[1]["input_ids"]
        assert one["cu_seqlens"].tolist() == plain[1]["cu_seqlens"]
        assert [block["num_tokens"].item() for block in view] == [
            block["num_tokens"] for block in packed
        ]


def test_columns(perm):
    packed = perm.pack(24, pad_id=PAD)
    assert packed.column_names == COLUMNS
    with_labels = perm.pack(24, pad_id=PAD, labels="unshifted")
    assert with_labels.column_names == [*COLUMNS, "labels"]
    narrow = with_labels.select_columns(["labels", "input_ids"]).shuffle(seed=1)
    assert narrow.column_names == list(narrow[0]) == ["labels", "input_ids"]
    assert (
        list(next(iter(narrow.loader(2, format="torch_dict")))) == narrow.column_names
    )
    with pytest.raises(ColumnNotFoundError, match=r"`doc_id`.*`doc_ids`"):
        packed.select_columns(["doc_id"])
    with pytest.raises(ColumnNotFoundError, match='without `labels="shifted"`'):
        packed.select_columns(["labels"])
    with pytest.raises(TypeError, match="not a string"):
        packed.select_columns("labels")
    with pytest.raises(ValueError, match="at least one"):
        packed.select_columns([])
    with pytest.raises(ValueError, match="one value for all columns"):
        packed.with_format("torch_dict", pad={"cu_seqlens": 0})
    padded = packed.with_format("torch_dict", pad=-1)[:3]["cu_seqlens"]
    assert padded.shape[0] == 3


def labels_of(block, how):
    """Labels of one block, token by token."""
    tokens, documents = block["input_ids"], block["doc_ids"]
    out = []
    for at in range(len(tokens)):
        target, context = (at + 1, at) if how == "shifted" else (at, at - 1)
        is_same = (
            context >= 0
            and target < len(tokens)
            and documents[target] == documents[context] != -1
        )
        out.append(tokens[target] if is_same else -100)
    return out


@pytest.mark.parametrize("how", ["shifted", "unshifted"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("eos_id", [None, EOS])
def test_labels_are_those_of_a_loop(perm, how, strategy, eos_id):
    packed = perm.pack(24, strategy=strategy, eos_id=eos_id, pad_id=PAD, labels=how)
    for blocks in (loaded(packed), packed[:]):
        assert [block["labels"] for block in blocks] == [
            labels_of(block, how) for block in blocks
        ]


def test_both_labels_are_the_same_loss(perm):
    """A model that shifts, as those of transformers, over unshifted labels; and one that does not."""
    options = {"strategy": "best_fit", "eos_id": 100, "pad_id": 0}
    shifted = perm.pack(24, labels="shifted", **options).with_format("torch_dict")[:]
    unshifted = perm.pack(24, labels="unshifted", **options).with_format("torch_dict")[
        :
    ]
    logits = torch.randn(*shifted["input_ids"].shape, 101)
    loss = torch.nn.functional.cross_entropy
    ours = loss(logits.flatten(0, 1), shifted["labels"].flatten())
    theirs = ForCausalLMLoss(logits, unshifted["labels"], vocab_size=101)
    torch.testing.assert_close(ours, theirs)


def test_labels_differ_from_those_of_the_collator_at_documents_only(perm):
    """``DataCollatorForLanguageModeling`` copies the tokens, and ignores padding."""
    packed = perm.pack(
        24, eos_id=100, pad_id=PAD, labels="unshifted", strategy="best_fit"
    )
    blocks = packed.with_format("torch_dict")[:]
    copied = blocks["input_ids"].clone()
    copied[copied == PAD] = -100
    differs = copied != blocks["labels"]
    is_first = (blocks["position_ids"] == 0) & (blocks["doc_ids"] >= 0)
    assert torch.equal(differs, is_first)


def test_labels_do_not_change_the_order(perm):
    plain, labelled = perm.pack(24), perm.pack(24, labels="shifted")
    state = plain.loader(3).skip_batches(2).state_dict()
    loader = labelled.loader(3, format="numpy_dict")
    loader.load_state_dict(state)
    wanted = [block["input_ids"] for block in loaded(plain)[6:9]]
    assert next(iter(loader))["input_ids"].tolist() == wanted
    for wrong in (True, "next", 1):
        with pytest.raises(ValueError, match='"shifted", "unshifted"'):
            perm.pack(24, labels=wrong)


@pytest.mark.parametrize(
    "options", [{}, {"in_process": False}, {"transform": dict, "transform_threads": 2}]
)
def test_labels_in_every_loader(perm, options):
    packed = perm.pack(24, labels="shifted", pad_id=PAD)
    wanted = [block["labels"] for block in packed]
    loader = packed.loader(5, format="torch_dict", **options)
    assert torch.cat([batch["labels"] for batch in loader]).tolist() == wanted


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_torch_s_loader_over_blocks(perm, num_workers):
    packed = perm.pack(24, labels="shifted", pad_id=PAD).with_format("torch_dict")
    narrow = packed.select_columns(["input_ids", "labels"])
    sampler = RandomSampler(narrow, generator=torch.Generator().manual_seed(1))
    order = list(RandomSampler(narrow, generator=torch.Generator().manual_seed(1)))
    loader = DataLoader(narrow, 8, sampler=sampler, num_workers=num_workers)
    found = torch.cat([batch["labels"] for batch in loader])
    assert found.tolist() == narrow[order]["labels"].tolist()


@pytest.mark.filterwarnings("default")
def test_trainer_over_blocks(perm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = transformers.GPT2Config(
        vocab_size=101, n_positions=24, n_embd=8, n_layer=1, n_head=1
    )
    packed = perm.pack(24, eos_id=100, labels="unshifted").with_format("torch_dict")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config), arguments, train_dataset=packed
    )
    assert 0 < trainer.train().training_loss < 10


def test_pickles(perm):
    packed = perm.pack(24, strategy="best_fit", labels="shifted")
    first = packed[0]
    again = pickle.loads(pickle.dumps(packed))
    assert again[0] == first
    state = {k: v for k, v in packed.__dict__.items() if k != "_kept"}
    earlier = object.__new__(type(packed))
    earlier.__setstate__(state)
    assert earlier[0] == first
