"""A linear probe on a table of embeddings, by cross-validation.

Real data: 5,000 handwritten digits as vectors of 64 float32. The columns go straight into
tensors of shape (rows, 64) and (rows,); nothing is done per row.
"""

from __future__ import annotations

import tempfile

import lancedb
import lanceloader as ll
import tables
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

FOLDS = 4
EPOCHS = 3


def as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate nothing: a batch is a dict of tensors already."""
    return batch


def accuracy_of(probe: nn.Linear, perm: ll.Permutation) -> float:
    batch = perm[:]
    return (probe(batch["vector"]).argmax(1) == batch["label"]).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as folder:
        table = tables.digit_vectors(lancedb.connect(folder))
        perm = ll.open(table, columns=["vector", "label"], format="torch_dict")
        print(perm)

        for number, fold in enumerate(perm.kfold(FOLDS, seed=1, stratify_by="label")):
            probe = nn.Linear(64, 10)
            optimizer = torch.optim.Adam(probe.parameters(), lr=0.02)
            loss_of = nn.CrossEntropyLoss()
            loader = DataLoader(fold.train, 128, shuffle=True, collate_fn=as_it_is)
            losses = []
            for epoch in range(EPOCHS):
                with tqdm(loader, desc=f"fold {number} epoch {epoch}") as bar:
                    for batch in bar:
                        optimizer.zero_grad()
                        loss = loss_of(probe(batch["vector"]), batch["label"])
                        loss.backward()
                        optimizer.step()
                        losses.append(loss.item())
                        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            print(
                f"fold {number}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, "
                f"accuracy on rows not trained on {accuracy_of(probe, fold.val):.1%}"
            )


if __name__ == "__main__":
    main()
