"""Our own loader, with its strategies and formats, and what is beside it without torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from harness.tables import BenchTable

from peers import OURS
from peers.permutation import opened

Batches = Iterator[Any]


def loader(
    table: BenchTable, seed: int, *, format: str, read: str | None = None,  # noqa: A002
    shuffle: bool = True, by_path: bool = False, **options: Any,
) -> Any:  # fmt: skip
    return (at_path(table) if by_path else opened(table, OURS)).loader(
        table.batch_size,
        drop_last=True,
        shuffle=shuffle,
        seed=seed if shuffle else None,
        format=format,
        read=read,
        **options,
    )


def at_path(table: BenchTable) -> Any:
    """Open a table without lancedb."""
    import lanceloader as ll

    perm = ll.open(table.path)
    return perm.select_columns(table.names) if table.columns else perm


def batches(
    table: BenchTable,
    seed: int,
    *,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> Batches:
    """Epoch after epoch, or from a state on."""
    found = loader(table, seed, **options)
    first = 0
    if state is not None:
        found.load_state_dict(state)
        yield from found
        first = state["epoch"] + 1
    for epoch in itertools.count(first):
        yield from found.set_epoch(epoch)


def state(table: BenchTable, seed: int, *, step: int, **options: Any) -> dict[str, Any]:
    """Return the state at a step."""
    epoch, start = divmod(step, table.num_batches)
    found = loader(table, seed, **options)
    found.set_epoch(epoch)
    found.skip_batches(start)
    return found.state_dict()


def iterate(
    table: BenchTable, seed: int, *, format: str, shuffle: bool = True  # noqa: A002
) -> Batches:  # fmt: skip
    perm = opened(table, OURS).with_format(format)
    for epoch in itertools.count():
        rows = perm.shuffle(seed=seed, epoch=epoch) if shuffle else perm
        yield from rows.iter(table.batch_size, skip_last_batch=True)


def fill_rows(table: BenchTable) -> None:
    """Read one epoch, so that what is kept between epochs is there."""
    for _ in loader(table, 0, format="arrow"):
        pass


def fill_resident(table: BenchTable) -> None:
    """Read one epoch into packed rows, whatever would be chosen."""
    for _ in loader(table, 0, format="arrow", read="resident"):
        pass


def strategy_of(table: BenchTable) -> str:
    """Return how a shuffled epoch is read, as `explain()` says it."""
    lines = opened(table, OURS).shuffle(seed=0).explain().splitlines()
    (line,) = (line for line in lines if line.startswith("read "))
    return line.split()[1].rstrip(",")


def take(table: BenchTable, seed: int) -> Batches:
    """Rows at random, by position, from the table's files."""
    from peers.pylance import positions

    perm = at_path(table).with_read("direct").with_format("arrow")
    return map(perm.take_offsets, positions(table, seed))


def packed(
    table: BenchTable, seed: int, *, length: int, eos_id: int, pad_id: int,
    batch_size: int, strategy: str,
) -> Iterator[Iterator[tuple[int, int]]]:  # fmt: skip
    """Blocks and tokens of the batches of packed documents, in epochs."""
    blocks = at_path(table).pack(
        length, column="tokens", eos_id=eos_id, pad_id=pad_id, strategy=strategy
    )
    found = blocks.loader(
        batch_size, shuffle=True, seed=seed, epochs=None, format="torch_dict"
    )
    yield ((len(one["num_tokens"]), int(one["num_tokens"].sum())) for one in found)
