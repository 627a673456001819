"""Labels of packed blocks for causal language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.numbers import array_of, numpy_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from lanceloader._typing import Labels

__all__ = ["IGNORED", "labels_of"]

IGNORED = -100
"""The label of a token that the loss ignores, as in torch and transformers."""


def labels_of(batch: pa.RecordBatch, labels: Labels) -> pa.Array:
    """Return the labels of a batch of blocks; see ``Permutation.pack``."""
    import numpy as np
    import pyarrow as pa

    tokens, documents = matrix_of(batch, "input_ids"), matrix_of(batch, "doc_ids")
    # A token is predicted from the one before it, if that is of the same document.
    follows = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    out = np.full(tokens.shape, IGNORED, np.int64)
    target = out[:, :-1] if labels == "shifted" else out[:, 1:]
    np.copyto(target, tokens[:, 1:], where=follows)
    return pa.FixedSizeListArray.from_arrays(array_of(out.ravel()), out.shape[1])


def matrix_of(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, Any]:
    """Return a column of blocks as an array of shape (blocks, length)."""
    column = batch.column(name)
    return numpy_of(column.flatten()).reshape(len(column), column.type.list_size)
