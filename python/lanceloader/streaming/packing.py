"""Packing: documents of tokens are concatenated and cut into blocks of equal length.

Tokens stay in NumPy arrays from the batch to the block. Only state dicts have lists, as in
LanceDB.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lanceloader.numbers import numpy_of
from lanceloader.streaming.replaceable import namespace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lanceloader.randomness import RowKeys

Array: TypeAlias = np.ndarray[Any, Any]


class DocumentRun(NamedTuple):
    """Consecutive documents, each with its EOS token."""

    start: int
    """The position of the first document in its split."""
    tokens: Array
    ends: Array
    """Where each document ends, in tokens."""


class DocumentMapper:
    """Turns the lists of tokens of a batch into one run.

    Args:
        eos_id: The token that ends each document.
    """

    def __init__(self, eos_id: int) -> None:
        self.eos_id = eos_id

    def map(self, batch: pa.RecordBatch, keys: RowKeys) -> DocumentRun:
        """Concatenate the documents of a batch; nothing is random.

        Raises:
            ValueError: If a document or token is null, or a token does not fit in a signed
                64-bit integer.
        """
        del keys
        column = batch.column(0)
        values = column.flatten()
        if column.null_count or values.null_count:
            raise ValueError(
                "pack_sequences does not support null token lists or values; leave such rows "
                "out with `filter`"
            )
        lengths = numpy_of(pc.list_value_length(column))
        return self._joined(int64(values), lengths.astype(np.int64))

    def items(
        self, start: int, num_rows: int, mapped: DocumentRun
    ) -> list[DocumentRun]:
        """Return the run with its position."""
        del num_rows
        return [mapped._replace(start=start)]

    def filled(self, row: Sequence[int]) -> DocumentRun:
        """Return a run of one list of tokens."""
        tokens = int64(pa.array(row, pa.int64()))
        return self._joined(tokens, np.array([len(tokens)]))

    def new_queue(self) -> DocumentQueue:
        """Return an empty queue for runs."""
        return DocumentQueue()

    def _joined(self, values: Array, lengths: Array) -> DocumentRun:
        ends = np.cumsum(lengths + 1)
        tokens = np.empty(len(values) + len(lengths), np.int64)
        is_token = np.ones(len(tokens), bool)
        is_token[ends - 1] = False
        tokens[is_token] = values
        tokens[ends - 1] = self.eos_id
        return DocumentRun(0, tokens, ends)


class DocumentQueue:
    """A queue of runs; its length is the number of documents."""

    def __init__(self) -> None:
        self._runs: deque[DocumentRun] = deque()
        self._num_documents = 0

    def __len__(self) -> int:
        return self._num_documents

    def extend(self, runs: list[DocumentRun]) -> None:
        """Append runs."""
        self._runs.extend(runs)
        self._num_documents += sum(len(run.ends) for run in runs)

    def take(self, num_tokens: int) -> DocumentRun:
        """Remove documents from the first run until they have ``num_tokens``, and return them.

        If the whole run has fewer tokens, all of it is returned.
        """
        run = self._runs.popleft()
        count = int(np.searchsorted(run.ends, num_tokens)) + 1
        if count < len(run.ends):
            end = run.ends[count - 1]
            rest = DocumentRun(
                run.start + count, run.tokens[end:], run.ends[count:] - end
            )
            self._runs.appendleft(rest)
            run = DocumentRun(run.start, run.tokens[:end], run.ends[:count])
        self._num_documents -= len(run.ends)
        return run


class Buffer(NamedTuple):
    """Tokens of a split that are not yet part of a block. Immutable, so a state may keep it."""

    parts: tuple[Array, ...] = ()
    starts: tuple[Array, ...] = ()
    """Where documents start, in tokens."""
    num_tokens: int = 0

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Buffer:
        """Return a buffer with the lists or arrays of a state."""
        tokens = np.asarray(state["tokens"], np.int64)
        starts = np.asarray(state["starts"], np.int64)
        return cls((tokens,), (starts,), len(tokens))

    def state(self) -> dict[str, Array]:
        """Return the arrays of a state; ``lists`` turns them into lists."""
        return {"tokens": joined(self.parts), "starts": joined(self.starts)}

    def plus(self, run: DocumentRun) -> Buffer:
        """Return a buffer with more documents."""
        starts = np.concatenate(([0], run.ends[:-1])) + self.num_tokens
        return Buffer(
            (*self.parts, run.tokens),
            (*self.starts, starts),
            self.num_tokens + len(run.tokens),
        )

    def cut(self, length: int, pad_id: int) -> tuple[dict[str, torch.Tensor], Buffer]:
        """Return a block, padded if there are too few tokens, and the rest of the buffer."""
        tokens, starts = joined(self.parts), joined(self.starts)
        ids = np.full(length, pad_id, np.int64)
        ids[: len(tokens)] = tokens[:length]
        doc_ids = np.zeros(length, np.int64)
        # A document that starts at 0, or continues from the last block, is number 0.
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
    """Return the concatenation of arrays; a single array is not copied."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def lists(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the arrays or lists of a buffer's state as new lists."""
    return {name: np.asarray(state[name]).tolist() for name in ("tokens", "starts")}


def int64(values: pa.Array) -> Array:
    """Return tokens as signed 64-bit integers.

    Raises:
        ValueError: If a token does not fit.
    """
    try:
        tokens: Array = numpy_of(values.cast(pa.int64()))
    except pa.ArrowInvalid:
        highest = pc.max(values).as_py()
        message = (
            f"token {highest} of type {values.type} does not fit in a signed 64-bit integer; "
            f"tokens may be at most {2**63 - 1}"
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
    """Estimate the number of blocks in an epoch from a sample of its documents.

    Args:
        table: The table with the data.
        perm_table: The permutation table of the epoch.
        column: The token column.
        length: Tokens of a block.
        num_splits: The number of splits; the result is a multiple of it.
        seed: The seed of the sample, which is about 1 % of the documents of each split.
        batch_size: Documents read at once.

    Raises:
        ValueError: If a split is empty, or a sampled document is null.
    """
    namespace.warnings.warn(
        "blocks_per_epoch='auto' uses an approximate token-count sample; pass an explicit "
        "value for exact epoch sizing",
        # The caller of `StreamingDataset()` or `set_epoch()`.
        stacklevel=5,
    )
    most = max(1, 100_000 // num_splits)
    rng = namespace.random.Random(seed)
    num_rows = num_sampled = num_tokens = 0
    for split in range(num_splits):
        perm: Any = namespace.Permutation.from_tables(table, perm_table, split=split)
        perm = perm.select_columns([column])
        perm = perm.with_transform(namespace.Transforms.arrow2arrow)
        rows = perm.num_rows
        if rows == 0:
            message = (
                f"blocks_per_epoch='auto' cannot estimate an empty dataset: split {split} has "
                "no rows. Pass a number of blocks"
            )
            raise ValueError(message)
        sample = sorted(rng.sample(range(rows), min(rows, (rows + 99) // 100, most)))
        size = max(1, batch_size)
        for start in range(0, len(sample), size):
            documents = perm.__getitems__(sample[start : start + size]).column(0)
            lengths = pc.list_value_length(documents)
            if lengths.null_count:
                raise ValueError(
                    "pack_sequences does not support null token lists; leave such rows out "
                    "with `filter`"
                )
            num_tokens += pc.sum(lengths).as_py()
        num_rows += rows
        num_sampled += len(sample)
    # Each document has one more token, its EOS.
    num_blocks = (num_tokens + num_sampled) * num_rows // num_sampled // length
    return max(num_splits, num_blocks - num_blocks % num_splits)
