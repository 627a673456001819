"""A small network on images that lie in a table as PNG files, decoded in worker processes.

Real data: 5,000 handwritten digits. The workers get a description of the table, not a handle,
and open it themselves.
"""

from __future__ import annotations

import io
import tempfile

import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import tables
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

EPOCHS = 2


def decode(batch: pa.RecordBatch) -> dict[str, Tensor]:
    """Turn files into pixels of shape (rows, 1, 28, 28). Runs where the batch is read."""
    files = batch["image"].to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    return {
        "image": torch.from_numpy(pixels).unsqueeze(1).float() / 255,
        "label": torch.tensor(batch["label"].to_numpy()),
    }


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate nothing: ``decode`` made the batch."""
    return batch


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as folder:
        table = tables.digit_images(lancedb.connect(folder))
        perm = ll.Permutation.identity(table)
        print(perm)
        train, test = perm.with_transform(decode).split([0.9, 0.1], seed=3)

        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 6 * 6, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        loss_of = nn.CrossEntropyLoss()

        def accuracy() -> float:
            batch = test[:]
            with torch.no_grad():
                right = model(batch["image"]).argmax(1) == batch["label"]
            return right.float().mean().item()

        print(f"accuracy before training {accuracy():.1%}")
        loader = DataLoader(
            train,
            batch_size=64,
            shuffle=True,
            collate_fn=as_it_is,
            num_workers=2,
            multiprocessing_context="spawn",
            persistent_workers=True,
        )
        for epoch in range(EPOCHS):
            with tqdm(loader, desc=f"epoch {epoch + 1}", unit=" batches") as bar:
                for batch in bar:
                    optimizer.zero_grad()
                    loss = loss_of(model(batch["image"]), batch["label"])
                    loss.backward()
                    optimizer.step()
                    bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            print(f"accuracy after epoch {epoch + 1} {accuracy():.1%}")


if __name__ == "__main__":
    main()
