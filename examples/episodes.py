"""Imitation learning on episodes of images, states and actions, of a hand that reaches for a ball.

A policy sees two frames and two states and predicts the next eight actions of an expert. Windows are read by
the core, of frames as well, and no window reaches into another episode.
"""

from __future__ import annotations

import tempfile

import lancedb
import lanceloader as ll
import numpy as np
import tables
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

EPOCHS = 3
AHEAD = 8
STEPS = {"image": [-1, 0], "state": [-1, 0], "action": range(AHEAD)}
PIXELS = {"image": ll.image(tables.FRAME, dtype="float32")}


class Policy(nn.Module):
    """From two frames and two states to eight actions."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            *(nn.Conv2d(6, 16, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten()),
        )
        self.head = nn.Sequential(
            *(nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 2 * AHEAD)),
        )

    def forward(self, image: Tensor, state: Tensor) -> Tensor:
        seen = self.frames(image.flatten(1, 2))
        actions = self.head(torch.cat([seen, state.flatten(1)], 1))
        return actions.unflatten(1, (AHEAD, 2))


def error_of(policy: Policy, batch: dict[str, Tensor]) -> Tensor:
    """The squared error of the actions that the expert took: those beyond an episode do not count."""
    errors = (policy(batch["image"], batch["state"]) - batch["action"]).square().mean(2)
    return errors[~batch["action_is_pad"]].mean()


def success(policy: Policy, rollouts: int = 50) -> float:
    """How often the hand touches the ball, led by the first of the predicted actions."""
    touched = 0
    rng = np.random.default_rng(1)
    for _ in range(rollouts):
        hand, ball = rng.uniform(0.1, 0.9, (2, 2)).astype(np.float32)
        frames, states = [tables.picture(hand, ball)] * 2, [hand] * 2
        for _ in range(40):
            image = torch.from_numpy(np.stack(frames[-2:])).permute(0, 3, 1, 2) / 255
            state = torch.from_numpy(np.stack(states[-2:]))
            with torch.no_grad():
                action = policy(image[None], state[None])[0, 0].numpy()
            hand = hand + action
            if np.linalg.norm(hand - ball) < tables.TOUCH:
                touched += 1
                break
            frames.append(tables.picture(hand, ball))
            states.append(hand)
    return touched / rollouts


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as folder:
        table = tables.reaching(lancedb.connect(folder))
        perm = ll.Permutation.identity(table)
        windows = perm.windows(STEPS, by="episode", order="frame")
        windows = windows.with_format("torch_dict")
        print(windows)
        train, val = windows.split([0.9, 0.1], seed=3, group_by="episode")

        policy = Policy()

        def validation() -> float:
            with torch.no_grad():
                batches = val.loader(256, decode=PIXELS)
                errors = [error_of(policy, batch) for batch in batches]
            return torch.stack(errors).mean().item()

        print(
            f"before training: error {validation():.5f}, success {success(policy):.0%}"
        )
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
        loader = train.loader(64, shuffle=True, seed=3, decode=PIXELS)
        for epoch in range(EPOCHS):
            with tqdm(
                loader.set_epoch(epoch), desc=f"epoch {epoch + 1}", unit=" batches"
            ) as bar:
                for batch in bar:
                    optimizer.zero_grad()
                    loss = error_of(policy, batch)
                    loss.backward()
                    optimizer.step()
                    bar.set_postfix(loss=f"{loss.item():.5f}", refresh=False)
            print(
                f"after epoch {epoch + 1}: error {validation():.5f}, success {success(policy):.0%}"
            )


if __name__ == "__main__":
    main()
