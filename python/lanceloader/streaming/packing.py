"""Packing: documents of tokens, joined and cut into blocks of one length.

Tokens stay in numpy arrays from the batch to the block. Only states hold lists, as LanceDB's.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lanceloader import streaming
from lanceloader.numbers import numpy_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array: TypeAlias = np.ndarray[Any, Any]


class Run(NamedTuple):
    """Documents one after another, each with its EOS."""

    start: int
    """Position of the first in its split; the others follow."""
    tokens: Array
    ends: Array
    """Where each ends, in tokens."""


class Documents:
    """The lists of tokens of a batch, as one run."""

    def __init__(self, eos_id: int) -> None:
        """End each document with ``eos_id``."""
        self.eos_id = eos_id

    def make(self, batch: pa.RecordBatch) -> Run:
        """Join the documents of a batch.

        Raises:
            ValueError: If one is null, or a token is null or beyond 64 bits with sign.
        """
        column = batch.column(0)
        values = column.flatten()
        if column.null_count or values.null_count:
            raise ValueError(
                "pack_sequences does not support null token lists or values"
            )
        lengths = numpy_of(pc.list_value_length(column))
        return self._joined(int64(values), lengths.astype(np.int64))

    def place(self, start: int, num_rows: int, made: Run) -> list[Run]:
        """Say where the run starts."""
        del num_rows
        return [made._replace(start=start)]

    def stand_in(self, row: Sequence[int]) -> Run:
        """Make a run of one list of tokens."""
        tokens = int64(pa.array(row, pa.int64()))
        return self._joined(tokens, np.array([len(tokens)]))

    def queue(self) -> Runs:
        """Make the queue of what is ready."""
        return Runs()

    def _joined(self, values: Array, lengths: Array) -> Run:
        ends = np.cumsum(lengths + 1)
        tokens = np.empty(len(values) + len(lengths), np.int64)
        is_token = np.ones(len(tokens), bool)
        is_token[ends - 1] = False
        tokens[is_token] = values
        tokens[ends - 1] = self.eos_id
        return Run(0, tokens, ends)


class Runs:
    """The documents that are ready: a queue of runs, as long as it has documents."""

    def __init__(self) -> None:
        """Begin empty."""
        self._runs: deque[Run] = deque()
        self._num_documents = 0

    def __len__(self) -> int:
        return self._num_documents

    def extend(self, runs: list[Run]) -> None:
        """Add runs."""
        self._runs.extend(runs)
        self._num_documents += sum(len(run.ends) for run in runs)

    def take(self, num_tokens: int) -> Run:
        """Take documents of the first run: as many as reach this many tokens, or all."""
        run = self._runs.popleft()
        count = int(np.searchsorted(run.ends, num_tokens)) + 1
        if count < len(run.ends):
            end = run.ends[count - 1]
            rest = Run(run.start + count, run.tokens[end:], run.ends[count:] - end)
            self._runs.appendleft(rest)
            run = Run(run.start, run.tokens[:end], run.ends[:count])
        self._num_documents -= len(run.ends)
        return run


class Buffer(NamedTuple):
    """Tokens of a split that are in no block yet. Immutable, so a state may keep it."""

    parts: tuple[Array, ...] = ()
    starts: tuple[Array, ...] = ()
    """Where documents start, in tokens."""
    num_tokens: int = 0

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Buffer:
        """Make one of the lists, or arrays, of a state."""
        tokens = np.asarray(state["tokens"], np.int64)
        starts = np.asarray(state["starts"], np.int64)
        return cls((tokens,), (starts,), len(tokens))

    def state(self) -> dict[str, Array]:
        """Give it as arrays; see ``lists``."""
        return {"tokens": joined(self.parts), "starts": joined(self.starts)}

    def plus(self, run: Run) -> Buffer:
        """Add documents."""
        starts = np.concatenate(([0], run.ends[:-1])) + self.num_tokens
        return Buffer(
            (*self.parts, run.tokens),
            (*self.starts, starts),
            self.num_tokens + len(run.tokens),
        )

    def cut(self, length: int, pad_id: int) -> tuple[dict[str, torch.Tensor], Buffer]:
        """Cut a block off, padding it if there are too few tokens."""
        tokens, starts = joined(self.parts), joined(self.starts)
        ids = np.full(length, pad_id, np.int64)
        ids[: len(tokens)] = tokens[:length]
        doc_ids = np.zeros(length, np.int64)
        # Documents that start at 0, or began in the block before, are number 0.
        doc_ids[starts[(starts > 0) & (starts < length)]] = 1
        np.cumsum(doc_ids, out=doc_ids)
        block = {
            "input_ids": torch.from_numpy(ids),
            "doc_ids": torch.from_numpy(doc_ids),
        }
        later = starts[starts >= length] - length
        rest = tokens[length:]
        return block, Buffer((rest,), (later,), len(rest))


def joined(parts: Sequence[Array]) -> Array:
    """Give arrays as one, without a copy if it is one."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def lists(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Give the arrays, or lists, of a buffer's state as lists of their own."""
    return {name: np.asarray(state[name]).tolist() for name in ("tokens", "starts")}


def int64(values: pa.Array) -> Array:
    """Give tokens as 64-bit numbers.

    Raises:
        ValueError: If one does not fit.
    """
    try:
        tokens: Array = numpy_of(values.cast(pa.int64()))
    except pa.ArrowInvalid:
        highest = pc.max(values).as_py()
        message = (
            f"token {highest} of type {values.type}: wanted tokens of 64 bits with sign, at "
            f"most {2**63 - 1}"
        )
        raise ValueError(message) from None
    return tokens


def estimated_blocks(
    table: Any,
    perm_table: Any,
    *,
    column: str,
    length: int,
    num_splits: int,
    seed: int,
    batch_size: int,
) -> int:
    """Estimate how many blocks an epoch fills, from a sample of its documents.

    Args:
        table: The table with the data.
        perm_table: The splits of the epoch.
        column: The column of tokens.
        length: Tokens of a block.
        num_splits: The number of splits; the result is a multiple of it.
        seed: Chooses the sample: about one document of a hundred of each split.
        batch_size: Documents read at once.

    Raises:
        ValueError: If a split is empty, or a document of the sample null.
    """
    streaming.warnings.warn(
        "blocks_per_epoch='auto' uses an approximate token-count sample; pass an explicit "
        "value for exact epoch sizing",
        # Who made the dataset, or began the epoch.
        stacklevel=5,
    )
    most = max(1, 100_000 // num_splits)
    rng = streaming.random.Random(seed)
    num_rows = num_sampled = num_tokens = 0
    for split in range(num_splits):
        perm: Any = streaming.Permutation.from_tables(table, perm_table, split=split)
        perm = perm.select_columns([column])
        perm = perm.with_transform(streaming.Transforms.arrow2arrow)
        rows = perm.num_rows
        if rows == 0:
            raise ValueError("blocks_per_epoch='auto' cannot estimate an empty dataset")
        sample = sorted(rng.sample(range(rows), min(rows, (rows + 99) // 100, most)))
        size = max(1, batch_size)
        for start in range(0, len(sample), size):
            documents = perm.__getitems__(sample[start : start + size]).column(0)
            lengths = pc.list_value_length(documents)
            if lengths.null_count:
                raise ValueError("pack_sequences does not support null token lists")
            num_tokens += pc.sum(lengths).as_py()
        num_rows += rows
        num_sampled += len(sample)
    # Each document ends with one token more.
    num_blocks = (num_tokens + num_sampled) * num_rows // num_sampled // length
    return max(num_splits, num_blocks - num_blocks % num_splits)
