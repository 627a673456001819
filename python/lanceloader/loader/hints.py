"""Arguments of other loaders that ``loader()`` does not have, and what to pass instead."""

from __future__ import annotations

__all__ = ["INSTEAD_OF"]

WORKERS = (
    "a loader reads in threads and needs no worker processes; for a transform that holds the GIL, "
    "pass in_process=False, or use lanceloader.torch.DataLoader(perm, num_workers=n)"
)
BATCH_SIZE = "pass `batch_size`"
SEED = "pass `seed`, a whole number, with shuffle=True"

INSTEAD_OF = {
    # torch's DataLoader
    "dataset": "the rows are those of the permutation: leave it out",
    "num_workers": f"{WORKERS}; `threads` and `transform_threads` set the numbers of threads",
    "persistent_workers": WORKERS,
    "worker_init_fn": WORKERS,
    "multiprocessing_context": WORKERS,
    "prefetch_factor": "a loader reads ahead by itself: pass `memory_limit` to bound what it holds",
    "collate_fn": "pass `collate`, a function of a whole batch in its format, or `transform`, which "
    "runs in threads; the dict formats need neither",
    "generator": SEED,
    "timeout": "pass `transform_timeout`, the seconds for the transform of a batch",
    "pin_memory_device": "pass `device`, to which batches are copied one batch ahead",
    "in_order": "batches are always in order: leave it out",
    # Other names of arguments that exist
    "bs": BATCH_SIZE,
    "batch": BATCH_SIZE,
    "batchsize": BATCH_SIZE,
    "rng": SEED,
    "random_state": SEED,
    "shuffle_seed": SEED,
    "shuffle_buffer_size": "a shuffle is exact and needs no buffer: pass shuffle=True",
    "num_epochs": "pass `epochs`",
    "n_epochs": "pass `epochs`",
    "epoch": "call set_epoch(n) of the loader, or pass `epochs`, their number",
    "num_threads": "pass `threads`, or `transform_threads`",
    "num_replicas": "pass `world_size`",
    "local_rank": "pass `rank`, the rank among all processes",
    "transforms": "pass `transform`",
    "map_fn": "pass `transform`",
    "columns": "call perm.select_columns(columns) before loader()",
    "filter": "call perm.filter(predicate) before loader()",
    "output_format": "pass `format`",
    "padding": "pass `pad`",
    "max_tokens": "pass `batch_tokens`",
    "drop_remainder": "pass `drop_last`",
    "bar": "pass `progress`",
}
"""Arguments of other loaders, and what to do instead."""
