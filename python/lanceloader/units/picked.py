"""Blocks at any positions, for datasets: the documents of their pieces are taken and put together.

Loaders read blocks in order, for which the core fits the documents of a window once. Here, the pieces of
blocks are kept, as blocks of the same window are requested at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.numbers import array_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Packing

    Numbers = np.ndarray[Any, Any]

__all__ = ["PieceCache", "blocks_of"]

CHUNK = 4096
"""The number of neighbouring blocks whose pieces are found together."""

MOST_PIECES = 4 << 20
"""The most pieces to keep, of 24 bytes each."""


class Pieces(NamedTuple):
    """The pieces of blocks, one block after the other."""

    ends: Numbers
    """The end of the pieces of each block."""

    positions: Numbers
    """The position of the document of each piece in the order."""

    starts: Numbers
    """The first token of each piece in its document."""

    lengths: Numbers
    """The number of tokens of each piece."""

    @classmethod
    def of(cls, packing: Packing, start: int, stop: int) -> Pieces:
        """Return the pieces of neighbouring blocks."""
        import numpy as np

        blocks = packing.blocks(start, stop)
        ends = np.cumsum([len(block) for block in blocks], dtype=np.int64)
        flat = [piece for block in blocks for piece in block]
        table = np.array(flat, np.int64).reshape(-1, 3)
        return cls(ends, *np.ascontiguousarray(table.T))

    def block(self, number: int) -> slice:
        """Return where the pieces of a block are."""
        return slice(
            int(self.ends[number - 1]) if number else 0, int(self.ends[number])
        )


class PieceCache:
    """The pieces of the blocks of a plan that were requested last."""

    def __init__(self, packing: Packing, *, is_direct: bool) -> None:
        """Keep pieces of a plan.

        Args:
            packing: The plan.
            is_direct: Whether the plan finds any block in constant time, so that none is kept.
        """
        self._packing = packing
        self._is_direct = is_direct
        self._chunks: dict[int, Pieces] = {}

    def pieces(self, blocks: Sequence[int]) -> Pieces:
        """Return the pieces of blocks at any positions, in this order."""
        import numpy as np

        parts: list[tuple[Pieces, slice]] = []
        for block in blocks:
            if self._is_direct:
                found = Pieces.of(self._packing, block, block + 1)
                parts.append((found, found.block(0)))
            else:
                found = self._chunk(block // CHUNK)
                parts.append((found, found.block(block % CHUNK)))
        columns = [
            np.concatenate([found[column][place] for found, place in parts])
            for column in (1, 2, 3)
        ]
        ends = np.cumsum(
            [place.stop - place.start for _, place in parts], dtype=np.int64
        )
        return Pieces(ends, *columns)

    def _chunk(self, number: int) -> Pieces:
        chunks = self._chunks
        found = chunks.get(number)
        if found is None:
            stop = min((number + 1) * CHUNK, self._packing.num_blocks)
            found = Pieces.of(self._packing, number * CHUNK, stop)
            # Replaced and never changed, as other threads read it meanwhile.
            kept, room = {number: found}, MOST_PIECES - len(found.positions)
            for other, pieces in reversed(chunks.items()):
                room -= len(pieces.positions)
                if room < 0:
                    break
                kept[other] = pieces
            self._chunks = dict(reversed(kept.items()))
        return found


def blocks_of(
    pieces: Pieces,
    documents: Numbers,
    tokens: pa.Array,
    *,
    length: int,
    pad_id: int,
    eos_id: int | None,
) -> pa.RecordBatch | None:
    """Return blocks with the columns that the core makes of them.

    Args:
        pieces: The pieces of the blocks.
        documents: The positions of the documents, in ascending order.
        tokens: Their tokens: a list for each.
        length: The number of tokens in a block.
        pad_id: The token that fills the rest of a block.
        eos_id: The token after each document, or ``None``.

    Returns:
        A row for each block; or ``None`` if tokens are null, do not fit into int64, or are of another
        number than planned, for which the core has messages.
    """
    import numpy as np
    import pyarrow as pa

    if pa.types.is_fixed_size_list(tokens.type):
        tokens = tokens.cast(pa.list_(tokens.type.value_type))
    values = tokens.flatten()
    if tokens.null_count or values.null_count or values.type == pa.uint64():
        return None
    own = numpy_of(tokens.offsets).astype(np.int64)
    rows = np.searchsorted(documents, pieces.positions)
    row_starts, row_lengths = own[:-1][rows] - own[0], np.diff(own)[rows]
    has_end = eos_id is not None
    if np.any(pieces.starts + pieces.lengths > row_lengths + has_end):
        return None
    num_blocks = len(pieces.ends)
    firsts = np.concatenate([[0], pieces.ends[:-1]]).astype(np.int64)
    per_block = pieces.ends - firsts
    block_of_piece = np.repeat(np.arange(num_blocks), per_block)
    piece_ends = np.cumsum(pieces.lengths)
    total = int(piece_ends[-1]) if len(piece_ends) else 0
    before = np.concatenate([[0], piece_ends])[firsts]
    num_tokens = np.concatenate([[0], piece_ends])[pieces.ends] - before
    # Where each token is in its piece and in its block.
    piece = np.repeat(np.arange(len(pieces.lengths)), pieces.lengths)
    place = np.arange(total) - (piece_ends - pieces.lengths)[piece]
    slot = np.arange(total) - before[block_of_piece[piece]]
    slot += block_of_piece[piece] * length
    source = pieces.starts[piece] + place
    is_end = source >= row_lengths[piece]
    numbers = numpy_of(values).astype(np.int64)
    found = np.full(total, eos_id or 0, np.int64)
    found[~is_end] = numbers[(row_starts[piece] + source)[~is_end]]
    input_ids = np.full(num_blocks * length, pad_id, np.int64)
    input_ids[slot] = found
    doc_ids = np.full(num_blocks * length, -1, np.int64)
    doc_ids[slot] = (np.arange(len(pieces.lengths)) - firsts[block_of_piece])[piece]
    # Padding is counted as one more document.
    position_ids = np.tile(np.arange(length), num_blocks)
    position_ids -= np.repeat(num_tokens, length)
    position_ids[slot] = place
    return pa.record_batch(
        {
            "input_ids": fixed(input_ids, length),
            "doc_ids": fixed(doc_ids, length),
            "position_ids": fixed(position_ids, length),
            "cu_seqlens": segments(pieces, firsts, before, num_tokens, length),
            "num_tokens": array_of(num_tokens.astype(np.int64)),
        }
    )


def fixed(values: Numbers, length: int) -> pa.Array:
    """Return values as lists of one length."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(array_of(values), length)


def segments(
    pieces: Pieces, firsts: Numbers, before: Numbers, num_tokens: Numbers, length: int
) -> pa.Array:
    """Return where the documents of each block begin, and the end of the last one or of padding."""
    import numpy as np
    import pyarrow as pa

    num_blocks = len(firsts)
    per_block = pieces.ends - firsts
    is_padded = num_tokens < length
    sizes = 1 + per_block + is_padded
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    # Each list begins with 0 and ends at the length of the block.
    out = np.zeros(int(offsets[-1]), np.int32)
    block_of_piece = np.repeat(np.arange(num_blocks), per_block)
    number = np.arange(len(pieces.lengths)) - firsts[block_of_piece]
    ends = np.cumsum(pieces.lengths) - before[block_of_piece]
    out[offsets[block_of_piece] + 1 + number] = ends
    out[offsets[1:] - 1] = length
    return pa.ListArray.from_arrays(array_of(offsets), array_of(out))
