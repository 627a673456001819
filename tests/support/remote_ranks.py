"""Ranks of one node that read ``t.lance`` of a bucket through one cache folder, a process for each."""

from __future__ import annotations

import json

import programs

PROGRAM = (
    programs.PRELUDE
    + """
options, rank, world_size = map(json.loads, sys.argv[2:])
perm = ll.open("s3://bucket/t.lance", storage_options=options)
perm = perm.with_read(cache_dir=folder).with_format("arrow").shuffle(seed=3)
loader = perm.loader(1024, rank=rank, world_size=world_size)
done(ids=[id for batch in loader for id in batch["id"].to_pylist()])
"""
)


def ids_of(server, cache_dir, world_size):
    """Return the ids that all ranks were served, which run at the same time."""
    ranks = [
        programs.start(
            PROGRAM, cache_dir, *map(json.dumps, (server.options, rank, world_size))
        )
        for rank in range(world_size)
    ]
    return [id for rank in ranks for id in programs.finish(rank)["ids"]]
