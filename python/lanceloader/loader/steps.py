"""How an epoch is cut into steps, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, SupportsIndex

from lanceloader._typing import Tail
from lanceloader.choices import check_choice
from lanceloader.numbers import count

if TYPE_CHECKING:
    from lanceloader.world import World

__all__ = ["StepOptions"]


@dataclass(frozen=True)
class StepOptions:
    """How an epoch is cut into steps, and for whom.

    Attributes:
        batch_size: Units of a batch of one rank, or ``None``.
        global_batch_size: Units of a batch of all ranks, or ``None``: one of the two is given.
        drop_last: Whether a short last batch is left out.
        tail: What becomes of the units of a short last batch that do not divide.
        epochs: How many epochs an iteration gives; ``None`` never ends.
        world: The rank, or ``None`` to ask ``torch.distributed``.
    """

    batch_size: int | None = None
    global_batch_size: int | None = None
    drop_last: bool = False
    tail: Tail = "pad"
    epochs: int | None = 1
    world: World | None = None

    @classmethod
    def of(
        cls,
        batch_size: SupportsIndex | None,
        global_batch_size: SupportsIndex | None,
        drop_last: bool,  # noqa: FBT001
        tail: Tail,
        epochs: SupportsIndex | None,
        world: World | None,
    ) -> Self:
        """Check what a user gave; see ``Permutation.loader``.

        Raises:
            ValueError: If it cannot be.
        """
        if batch_size is not None and global_batch_size is not None:
            raise ValueError("batch_size and global_batch_size: wanted one of them")
        check_choice("tail", tail, Tail)
        sizes = {
            "batch_size": batch_size,
            "global_batch_size": global_batch_size,
            "epochs": epochs,
        }
        counts = {
            name: None if size is None else count(size, name, least=1)
            for name, size in sizes.items()
        }
        return cls(
            counts["batch_size"],
            counts["global_batch_size"],
            drop_last,
            tail,
            counts["epochs"],
            world,
        )

    def together(self, world: World) -> int:
        """Give the units of a batch of all ranks.

        Raises:
            ValueError: If there is not one for each rank.
        """
        if self.batch_size is not None:
            return self.batch_size * world.world_size
        size = self.global_batch_size or 0
        if size < world.world_size:
            message = (
                f"global_batch_size {size} for {world.world_size} ranks: wanted at least one "
                "row for each"
            )
            raise ValueError(message)
        return size
