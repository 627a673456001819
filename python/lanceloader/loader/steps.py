"""``StepOptions``: how an epoch is divided into steps."""

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
    """How an epoch is divided into steps; exactly one of the two batch sizes is not ``None``.

    Attributes:
        batch_size: The number of units in a batch of one rank.
        global_batch_size: The number of units in a batch of all ranks together.
        drop_last: Whether a shorter last batch is dropped.
        tail: How a shorter last batch is divided if its units do not divide evenly.
        epochs: The number of epochs of one iteration; ``None`` never ends.
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
        """Return checked options; see ``Permutation.loader``.

        Raises:
            ValueError: If a number is 0, both batch sizes are passed, or ``tail`` is unknown.
            TypeError: If a number is not an integer.
        """
        if batch_size is not None and global_batch_size is not None:
            raise ValueError(
                "`batch_size` and `global_batch_size` are mutually exclusive: pass one of them"
            )
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

    def global_size(self, world: World) -> int:
        """Return the number of units in a batch of all ranks together.

        Raises:
            ValueError: If it is less than the number of ranks.
        """
        if self.batch_size is not None:
            return self.batch_size * world.world_size
        size = self.global_batch_size or 0
        if size < world.world_size:
            message = (
                f"`global_batch_size`={size} is too small for {world.world_size} ranks: pass at "
                "least one row per rank"
            )
            raise ValueError(message)
        return size
