"""Callbacks for the ``Trainer`` of Hugging Face transformers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

__all__ = ["SetEpoch"]


class SetEpoch(TrainerCallback):
    """Sets the epoch of a loader that ``get_train_dataloader`` returns, for ``Trainer(callbacks=)``.

    ``Trainer`` sets the epoch of a ``lanceloader.torch.DataLoader`` itself, except when it resumes:
    it then reads the batches that it skips in the order of epoch 0. With this callback, they have
    the order of the epoch that is resumed, and so has the rest of the epoch.

    Example:
        >>> import transformers
        >>> from lanceloader.torch import DataLoader
        >>> from lanceloader.transformers import SetEpoch
        >>> class Trainer(transformers.Trainer):
        ...     def get_train_dataloader(self):
        ...         return DataLoader(self.train_dataset, 4, shuffle=True, seed=7)
        >>> trainer = Trainer(model, callbacks=[SetEpoch()])  # doctest: +SKIP
        >>> trainer.train(resume_from_checkpoint=True)  # doctest: +SKIP
    """

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Set the epoch of the loader for training.

        Args:
            args: Unused.
            state: The state of the trainer, which holds the epoch.
            control: Unused.
            **kwargs: What else the trainer passes, of which ``train_dataloader`` is used.

        Raises:
            TypeError: If the loader has no ``set_epoch``.
        """
        del args, control
        loader = kwargs.get("train_dataloader")
        set_epoch = getattr(loader, "set_epoch", None)
        if set_epoch is None:
            message = (
                f"SetEpoch needs a loader with `set_epoch`, not {type(loader).__name__}: return a "
                "lanceloader.torch.DataLoader from get_train_dataloader(), or leave the callback out"
            )
            raise TypeError(message)
        set_epoch(int(state.epoch))
