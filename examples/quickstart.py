"""Train from a LanceDB table, shuffled, by `loader()`; then race lancedb's own loader.

Real data: the 336,776 flights that left New York in 2013. The model guesses how late a flight
arrives from what is known when it leaves.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import lancedb
import lancedb.permutation
import lanceloader as ll
import pyarrow as pa
import pyarrow.compute as pc
import tables
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

NUMBERS = ["dep_delay", "hour", "month", "distance"]
WORDS = ["carrier", "origin", "dest"]
TARGET = "arr_delay"
COLUMNS = [*NUMBERS, *WORDS, TARGET]
KNOWN = "arr_delay IS NOT NULL AND dep_delay IS NOT NULL"


class Model(nn.Module):
    """An embedding for each word, and two layers over words and numbers."""

    def __init__(self, num_words: list[int], width: int = 64) -> None:
        super().__init__()
        self.words = nn.ModuleList(nn.Embedding(num, 8) for num in num_words)
        self.layers = nn.Sequential(
            nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.last = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        parts = [embed(words[:, i]) for i, embed in enumerate(self.words)]
        return self.last(self.layers(torch.cat([numbers, *parts], 1))).squeeze(1)


def encode(vocabulary: dict[str, pa.Array], batch: pa.RecordBatch) -> dict[str, Tensor]:
    """Turn an Arrow batch into what the model takes: whole columns at a time."""
    numbers = [pc.cast(batch[name], pa.float32()) for name in [*NUMBERS, TARGET]]
    scale = torch.tensor([60.0, 12.0, 6.0, 1000.0])
    words = [pc.index_in(batch[name], vocabulary[name]) for name in WORDS]
    *inputs, target = (torch.tensor(column.to_numpy()) for column in numbers)
    return {
        "numbers": torch.stack(inputs, 1) / scale,
        "words": torch.stack([torch.tensor(column.to_numpy()) for column in words], 1),
        "target": target / 60,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--batch-size", type=int, default=1024)
    arguments.add_argument("--race-batches", type=int, default=40)
    options = arguments.parse_args()
    torch.manual_seed(0)
    # The model is small: on a busy machine its threads would mostly wait for each other.
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory(prefix="lanceloader-") as folder:
        table = tables.flights(lancedb.connect(folder))

        flights = ll.Permutation.identity(table).filter(KNOWN).select_columns(COLUMNS)
        vocabulary = {name: pa.array(sorted(flights.unique(name))) for name in WORDS}
        flights = flights.with_transform(partial(encode, vocabulary))
        train, test = flights.split({"train": 0.9, "test": 0.1}, seed=7)
        print(train, test, sep="\n")

        model = Model([len(words) for words in vocabulary.values()])
        loss_of = nn.HuberLoss()

        def loss(batch: dict[str, Tensor]) -> Tensor:
            return loss_of(model(batch["numbers"], batch["words"]), batch["target"])

        loss(train[:8])  # gives the lazy layer its width
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

        def step(batch: dict[str, Tensor]) -> float:
            optimizer.zero_grad()
            value = loss(batch)
            value.backward()
            optimizer.step()
            return value.item()

        def test_loss() -> float:
            batches = DataLoader(test, options.batch_size, collate_fn=as_it_is)
            with torch.no_grad():
                return statistics.mean(loss(batch).item() for batch in batches)

        print(f"test loss before training: {test_loss():.4f}")
        loader = train.loader(options.batch_size, shuffle=True, seed=7)
        for epoch in range(options.epochs):
            batches = loader.set_epoch(epoch)
            with tqdm(batches, desc=f"epoch {epoch + 1}", unit=" batches") as bar:
                for batch in bar:
                    bar.set_postfix(loss=f"{step(batch):.4f}", refresh=False)
            print(f"test loss after epoch {epoch + 1}: {test_loss():.4f}")
        print(loader.stats())

        builder = lancedb.permutation.permutation_builder(table).filter(KNOWN)
        theirs = lancedb.permutation.Permutation.from_tables(
            table, builder.shuffle(seed=7).execute()
        )
        theirs = theirs.select_columns(COLUMNS).with_transform(
            partial(encode, vocabulary)
        )
        contenders: dict[str, Iterable[Any]] = {
            "loader()": loader,
            "DataLoader": data_loader(train, options),
            "lancedb": data_loader(theirs, options),
        }
        race(contenders, step, options)


def data_loader(dataset: Any, options: argparse.Namespace) -> Iterable[Any]:
    """Read a permutation through torch."""
    return DataLoader(dataset, options.batch_size, shuffle=True, collate_fn=as_it_is)


def race(
    contenders: dict[str, Iterable[Any]],
    step: Callable[[Any], float],
    options: argparse.Namespace,
) -> None:
    """Run the same loop over each, by turns, and print the median rates.

    The last one is what the others are compared with.
    """
    jobs: dict[str, Callable[[Any], object]] = {
        "reading": lambda batch: batch,
        "training": step,
    }
    rates: dict[tuple[str, str], list[float]] = {}
    for job, work in jobs.items():
        for _ in tqdm(range(5), desc=f"racing lancedb, {job}"):
            for name, loader in contenders.items():
                rate = rows_per_second(loader, work, options)
                rates.setdefault((job, name), []).append(rate)
    *ours, base = contenders
    print("\n" + " " * 12 + "".join(f"{name:>14}" for name in contenders))
    for job in jobs:
        medians = {name: statistics.median(rates[job, name]) for name in contenders}
        print(f"{job:<12}" + "".join(f"{rate:>14,.0f}" for rate in medians.values()))
        for name in ours:
            pairs = zip(rates[job, name], rates[job, base], strict=True)
            ratios = [mine / other for mine, other in pairs]
            spread = f"{min(ratios):,.1f} to {max(ratios):,.1f}"
            ratio = medians[name] / medians[base]
            print(f"  {name} is {ratio:,.1f} times as fast as {base} ({spread})")
    print(
        "Shuffled rows per second: medians of five rounds by turns, with the spread of their "
        "ratios;\n8 columns, encoded. The first of two is lanceloader without torch's loader."
    )


def rows_per_second(
    loader: Iterable[Any], work: Callable[[Any], object], options: argparse.Namespace
) -> float:
    """Time some batches after the first, which opens files."""
    batches = iter(loader)
    work(next(batches))
    start = time.perf_counter()
    for _ in range(options.race_batches):
        work(next(batches))
    seconds = time.perf_counter() - start
    return options.race_batches * options.batch_size / seconds


def as_it_is(batch: Any) -> Any:
    """Collate nothing: the transform made the batch."""
    return batch


if __name__ == "__main__":
    main()
