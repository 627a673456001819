"""A small network on images that lie in a table as PNG files, decoded by threads of the core.

Real data: 5,000 handwritten digits, which are shifted at random while training: the same in every run.
"""

from __future__ import annotations

import tempfile

import lancedb
import lanceloader as ll
import tables
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

EPOCHS = 2
TRAIN = ll.image(28, crop="random", scale=(0.7, 1.0), dtype="float32")
TEST = ll.image(28, dtype="float32")


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as folder:
        table = tables.digit_images(lancedb.connect(folder))
        perm = ll.Permutation.identity(table)
        print(perm)
        train, test = perm.with_format("torch_dict").split([0.9, 0.1], seed=3)

        model = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 6 * 6, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        loss_of = nn.CrossEntropyLoss()

        def accuracy() -> float:
            def is_right(batch: dict[str, Tensor]) -> Tensor:
                return model(batch["image"]).argmax(1) == batch["label"]

            with torch.no_grad():
                right = [*map(is_right, test.loader(256, decode={"image": TEST}))]
            return torch.cat(right).float().mean().item()

        print(f"accuracy before training {accuracy():.1%}")
        loader = train.loader(64, shuffle=True, seed=3, decode={"image": TRAIN})
        for epoch in range(EPOCHS):
            with tqdm(
                loader.set_epoch(epoch), desc=f"epoch {epoch + 1}", unit=" batches"
            ) as bar:
                for batch in bar:
                    optimizer.zero_grad()
                    loss = loss_of(model(batch["image"]), batch["label"])
                    loss.backward()
                    optimizer.step()
                    bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            print(f"accuracy after epoch {epoch + 1} {accuracy():.1%}")


if __name__ == "__main__":
    main()
