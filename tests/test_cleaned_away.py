"""A table version that is cleaned up while workers start raises in the trainer."""

from __future__ import annotations

import json

import pytest
from programs import CONTEXTS, LOADER, run

pytestmark = pytest.mark.slow

# What serves the table, and how it is iterated over.
WAYS = {
    "permutation": "loader_of(perm, 1, context, batch_size=16)",
    "filtered": "loader_of(perm.filter('id > 3').shuffle(seed=1), 1, context, batch_size=16)",
    "factory": """loader_of(
        perm.with_connection_factory(functools.partial(importable.open_in, folder + "/db")),
        1, context, batch_size=16,
    )""",
    "stateful": """lanceloader.torch.DataLoader(
        perm.loader(16, shuffle=True, seed=1, read="direct"), num_workers=1,
        multiprocessing_context=context, timeout=100,
    )""",
    "mixture": """lanceloader.torch.DataLoader(
        ll.mix({"a": perm, "b": perm}).loader(16, shuffle=True, seed=1, read="direct"),
        num_workers=1, multiprocessing_context=context, timeout=100,
    )""",
    "helper": "perm.loader(16, shuffle=True, seed=1, read='direct', in_process=False)",
    "table": "loader_of(pickle.loads(pickle.dumps(table)), 1, context, batch_size=16)",
    "streaming": "loader_of(streaming.StreamingDataset(table), 1, context, batch_size=16)",
    "streaming_path": """loader_of(
        streaming.StreamingDataset(table.uri), 1, context, batch_size=16
    )""",
    "streaming_loader": """streaming.StreamingDataLoader(
        streaming.StreamingDataset(table), batch_size=16, num_workers=1,
        multiprocessing_context=context, timeout=100,
    )""",
}

PROGRAM = """
import datetime as dt, functools, shutil
import lancedb, lanceloader.torch
lanceloader.torch.install()
from lanceloader import streaming
from lanceloader.errors import TableChangedError

warnings.simplefilter("ignore")
context, how, ways = sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
deleted = (FileNotFoundError, TableChangedError, ValueError)
wanted = TableChangedError if how == "cleaned" else deleted
told = {}
for name, way in ways.items():
    database = lancedb.connect(folder + "/db")
    table = database.create_table(name, pa.table({"id": range(100)}))
    perm = ll.open(table)
    loader = eval(way)
    if how == "cleaned":
        table.update(values={"id": 0})
        table.optimize(cleanup_older_than=dt.timedelta(0), delete_unverified=True)
    else:
        shutil.rmtree(table.uri)
    try:
        told[name] = sum(1 for _ in loader)
    except wanted:
        told[name] = True
    except BaseException as error:
        told[name] = repr(error)
done(**told)
"""


def told(folder, context, how, *names):
    ways = {name: WAYS[name] for name in names}
    return run(LOADER + PROGRAM, folder, context, how, json.dumps(ways))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("number", [0, 3, 6])
def test_a_version_cleaned_away_before_workers_open_it(folder, context, number):
    names = list(WAYS)[number : number + 3] if number < 6 else list(WAYS)[6:]
    assert told(folder, context, "cleaned", *names) == dict.fromkeys(names, True)


def test_a_table_deleted_before_workers_open_it(folder):
    names = ["permutation", "factory", "stateful", "streaming"]
    assert told(folder, "spawn", "deleted", *names) == dict.fromkeys(names, True)
