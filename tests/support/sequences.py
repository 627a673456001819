"""Documents for tests of sequences, and slow obvious ways to pack and to bucket them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

PAD, EOS = -1, -9

TYPES = {
    "int8": pa.list_(pa.int8()),
    "uint16": pa.large_list(pa.uint16()),
    "int32": pa.list_(pa.int32()),
    "uint32": pa.large_list(pa.uint32()),
    "int64": pa.list_(pa.int64()),
    "uint64": pa.list_(pa.uint64()),
}


def documents(
    num_rows: int,
    *,
    longest: int = 30,
    kind: pa.DataType = TYPES["int32"],
    seed: int = 0,
) -> pa.Table:
    """Ids, tokens below 100, and how many there are; some documents are empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, num_rows)
    tokens = [rng.integers(0, 100, length).tolist() for length in lengths]
    return pa.table(
        {
            "id": np.arange(num_rows),
            "tokens": pa.array(tokens, kind),
            "n": lengths.astype(np.int32),
        }
    )


def written(folder: Path, num_rows: int = 300) -> str:
    """Write a table of documents in three files, some rows deleted."""
    data = documents(num_rows)
    path = folder / "t.lance"
    dataset = lance.write_dataset(data, path, max_rows_per_file=num_rows * 2 // 5)
    dataset.delete("id % 11 = 4")
    return str(path)


def pieces_of(document: list[int], length: int) -> list[list[int]]:
    return [document[at : at + length] for at in range(0, len(document), length)]


def concatenated(docs: list[list[int]], length: int) -> list[list[list[int]]]:
    """Blocks as lists of pieces: end to end."""
    blocks: list[list[list[int]]] = []
    room = 0
    for document in docs:
        rest = document
        while rest:
            if room == 0:
                blocks.append([])
                room = length
            blocks[-1].append(rest[:room])
            rest, room = rest[room:], room - min(room, len(rest))
    return blocks


def fitted(docs: list[list[int]], length: int, *, best: bool) -> list[list[list[int]]]:
    """Blocks of one window as lists of pieces: each piece whole."""
    parts = [
        (row, at, piece)
        for row, document in enumerate(docs)
        for at, piece in enumerate(pieces_of(document, length))
    ]
    if best:
        parts.sort(key=lambda part: -len(part[2]))
    blocks: list[list[tuple[int, int, list[int]]]] = []
    for part in parts:
        rooms = [length - sum(len(other[2]) for other in block) for block in blocks]
        fits = [at for at, room in enumerate(rooms) if room >= len(part[2])]
        if not fits:
            blocks.append([part])
        else:
            blocks[
                min(fits, key=lambda at: (rooms[at], at)) if best else fits[0]
            ].append(part)
    blocks.sort(key=lambda block: block[0][:2])
    return [[piece for _, _, piece in sorted(block)] for block in blocks]


def packed(
    docs: list[list[int]],
    length: int,
    *,
    strategy: str = "concat",
    window: int = 16_384,
    eos: bool = False,
) -> list[list[list[int]]]:
    """Blocks of documents in the order given, as lists of pieces."""
    ended = [[*document, EOS] if eos else document for document in docs]
    if strategy == "concat":
        return concatenated(ended, length)
    return [
        block
        for at in range(0, len(docs), window)
        for block in fitted(
            ended[at : at + window], length, best=strategy == "best_fit"
        )
    ]


def row_of(pieces: list[list[int]], length: int) -> dict[str, object]:
    """What a loader gives for a block, as Python objects."""
    padding = length - sum(map(len, pieces))
    segments = [*map(len, pieces), *([padding] if padding else [])]
    numbers = [*range(len(pieces)), *([-1] if padding else [])]
    return {
        "input_ids": [token for piece in pieces for token in piece] + [PAD] * padding,
        "doc_ids": [
            number
            for number, size in zip(numbers, segments, strict=True)
            for _ in range(size)
        ],
        "position_ids": [at for size in segments for at in range(size)],
        "cu_seqlens": [sum(segments[:at]) for at in range(len(segments) + 1)],
        "num_tokens": length - padding,
    }


def bucketed(
    lengths: list[int], tokens: int, *, window: int, padded: bool, most_rows: int | None
) -> list[list[int]]:
    """Batches of positions under a token budget."""
    out = []
    for start in range(0, len(lengths), window):
        places = range(start, min(start + window, len(lengths)))
        batches: list[list[int]] = []
        for place in sorted(places, key=lambda at: (lengths[at], at)):
            batch = [*batches[-1], place] if batches else [place]
            sizes = [lengths[at] for at in batch]
            size = max(sizes) * len(sizes) if padded else sum(sizes)
            if batches and size <= tokens and len(batch) <= (most_rows or len(batch)):
                batches[-1] = batch
            else:
                batches.append([place])
        out += sorted(batches, key=lambda batch: batch[0])
    return out


def docs_of(perm: Any) -> list[list[int]]:
    """The documents of a permutation, in its order."""
    return perm.to_arrow()["tokens"].to_pylist()


def rows_of(loader: Any) -> list[list[dict[str, object]]]:
    """All rows of a loader of Arrow batches, batch by batch."""
    return [batch.to_pylist() for batch in loader]


def flat(batches: list[list[Any]]) -> list[Any]:
    return [row for batch in batches for row in batch]


def wanted(
    docs: list[list[int]], length: int, **options: Any
) -> list[dict[str, object]]:
    """All blocks as Python objects, in the order given."""
    return [row_of(pieces, length) for pieces in packed(docs, length, **options)]
