"""Ctrl-C during the first calls of a process, while libraries are imported and files opened."""

from __future__ import annotations

import random

import pytest
from programs import PRELUDE, run

# What a program calls first, by what it needs imported before.
CALLS = {
    "sample": "perm.sample(100, seed=1, weights='id', replacement=True)",
    "balance": "perm.sample(100, seed=1, balance_by='label', replacement=True)",
    "hash_by": "perm.split([0.5, 0.5], seed=1, hash_by='id')",
    "stratify_by": "perm.split([0.5, 0.5], seed=1, stratify_by='label')",
    "group_by": "perm.split([0.5, 0.5], seed=1, group_by='label')",
    "strata": "perm.strata('label')",
    "mask": "perm.filter(perm.to_arrow()['id'].is_valid())",
    "builder": "ll.permutation_builder(path).split_random(ratios=[0.5], seed=1).execute()",
    "builder_hash": "ll.permutation_builder(path).split_hash(['id'], [1, 1]).execute()",
    "builder_shuffle": "ll.permutation_builder(path).shuffle(seed=1).execute()",
    "filter": "(big or perm).filter(slow)",
    "filter_arrow": "ll.open((big or perm).to_arrow()).filter(slow)",
    "streaming": "streaming.StreamingDataset(path, num_splits=2)",
    "streaming_rows": "sum(1 for _ in streaming.StreamingDataset(path, num_splits=2))",
    "batches": "list(perm.loader(100, shuffle=True, seed=1, format='numpy_dict'))",
}

FIRST = (
    PRELUDE
    + """
perm, big, slow = ll.open(path), None, "id > 3"
if "streaming" in sys.argv[2]:
    from lanceloader import streaming
# A KeyboardInterrupt that leaves `eval` itself ends the process when it exits.
call = eval("lambda: " + sys.argv[2])
"""
)

IMPORTS = (
    FIRST
    + """
import traceback

# They import pandas for themselves, where an interrupt is not lost.
THEIRS = "/lancedb/", "/lance/"


class Watch:
    def find_spec(self, name, *rest):
        if name == "pandas":
            files = [frame.filename for frame in traceback.extract_stack()]
            if not any(part in file for file in files for part in THEIRS):
                found.append(call)


found = []
sys.meta_path.insert(0, Watch())
for call in sys.argv[2:]:
    eval(call)
    loaded = "pandas" in sys.modules
done(found=found, loaded=loaded)
"""
)

INTERRUPTED = (
    FIRST
    + """
if len(sys.argv) > 4:
    # CPython and they may lose one that arrives while they are imported.
    import lance, lancedb

    ids = np.arange(1_000_000)
    rows = pa.table({"id": ids, "text": pa.array(ids).cast(pa.string())})
    big = ll.open(lance.write_dataset(rows, folder + "/big.lance", mode="overwrite").uri)
    slow = "regexp_like(text, '(1|2|3)+.*(4|5)+.*6') or text like '%1%2%3%4'"


def interrupt():
    time.sleep(float(sys.argv[3]))
    os.kill(os.getpid(), signal.SIGINT)


try:
    threading.Thread(target=interrupt, daemon=True).start()
    call()
    # If it was quicker.
    time.sleep(20)
except KeyboardInterrupt:
    done(raised="KeyboardInterrupt")
except BaseException as error:
    done(raised=repr(error))
else:
    done(raised="nothing")
"""
)

ALONE = ["sample", "balance", "hash_by", "stratify_by", "group_by", "strata", "mask"]
WITH_LANCEDB = [name for name in CALLS if name.startswith("builder")]


def test_no_call_of_ours_imports_pandas(folder):
    """pyarrow imports it for most conversions, and loses an interrupt that arrives meanwhile."""
    calls = [CALLS[name] for name in (*ALONE, "batches")]
    assert run(IMPORTS, folder, *calls) == {"found": [], "loaded": False}


@pytest.mark.parametrize("name", [*WITH_LANCEDB, "filter", "filter_arrow"])
def test_pandas_is_imported_by_the_library_that_wants_it(folder, name):
    assert run(IMPORTS, folder, CALLS[name])["found"] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_is_an_interrupt(folder, name):
    delays = random.Random(name)
    imported = [] if name in (*ALONE, "batches") else ["lancedb"]
    for _ in range(4):
        delay = f"{delays.uniform(0, 0.5):.3f}"
        raised = run(INTERRUPTED, folder, CALLS[name], delay, *imported)["raised"]
        assert raised == "KeyboardInterrupt", f"after {delay} s"
