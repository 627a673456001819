"""What a process does from outside: its files, its memory, what it packed; and programs to look at."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path

from loads import soon


def is_cold(stats):
    return stats.blocks_filled > 0 and stats.blocks_mapped == 0


def is_warm(stats):
    return stats.blocks_filled == 0 and stats.blocks_mapped > 0


def filled(loader):
    """Wait until all rows are packed."""
    if not soon(lambda: loader.stats().fill_seconds > 0):
        raise AssertionError(loader.stats())


@contextlib.contextmanager
def names_seen(folder):
    """The names that a folder has at any time meanwhile."""
    seen, is_over = set(), threading.Event()

    def watch():
        while not is_over.is_set():
            seen.update(path.name for path in folder.glob("*"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def open_in(folder):
    """Files in a folder that this process holds open, without a name."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except OSError:
            continue
    return [
        name
        for name in targets
        if name.startswith(f"{folder}/") and name.endswith("(deleted)")
    ]


def anonymous(pid):
    """Bytes of memory that are a process's own, and not those of a file."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


# Programs, which begin with ``programs.PRELUDE``.

FORKING = """
perm = ll.open(sys.argv[2])
read = dict(read="external", memory_limit="2MiB", format="arrow")
loader = perm.loader(500, shuffle=True, seed=1, **read)
other = perm.loader(500, shuffle=True, seed=2, **read)


def wanted(seed, epoch):
    ids = perm.select_columns(["id"]).with_read("direct")
    return ids.shuffle(seed, epoch=epoch).to_arrow()["id"].to_pylist()


def rows(batches):
    found = []
    for batch in batches:
        assert (batch["square"].to_numpy() == batch["id"].to_numpy() ** 2).all()
        found += batch["id"].to_pylist()
    return found


def child(epoch):
    signal.alarm(90)
    try:
        for seed, each in ((1, loader), (2, other)):
            for k in (epoch, epoch + 1, epoch + 2):
                assert rows(each.set_epoch(k)) == wanted(seed, k), (seed, k)
        gc.collect()
    except BaseException as error:
        print("in the child:", type(error), error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


for epoch in range(3):
    halves = [iter(each.set_epoch(epoch)) for each in (loader, other)]
    # Also before a batch is there, in the middle of the first pass.
    begun = [rows([next(half) for _ in range(epoch * 3)]) for half in halves]
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            child(epoch)
        pids.append(pid)
    for seed, first, half in zip((1, 2), begun, halves):
        assert first + rows(half) == wanted(seed, epoch), (seed, epoch)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert rows(loader.set_epoch(epoch + 1)) == wanted(1, epoch + 1)
done(ok=True)
"""


MEMORY = """
perm = ll.open(sys.argv[2])
loader = perm.loader(256, shuffle=True, seed=1, format="numpy_dict", read="external",
                     memory_limit=int(sys.argv[3]))
sum(len(b["id"]) for b in ll.open(sys.argv[2]).with_take(600).loader(64, format="numpy_dict"))
print("ready", flush=True)
soon(lambda: os.path.exists(folder + "/go"))
rows = 0
for epoch in range(2):
    for batch in loader.set_epoch(epoch):
        rows += len(batch["id"])
done(rows=rows)
"""
