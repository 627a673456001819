"""Programs that read, pack and write; they begin with ``programs.PRELUDE``."""

from __future__ import annotations

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


FILLER = """
loader = ll.open(sys.argv[2]).loader(
    500, shuffle=True, seed=1, format="numpy_dict", read="resident", cache_dir=sys.argv[3]
)
print("begun", flush=True)
rows = []
for batch in loader:
    assert (batch["square"] == batch["id"] ** 2).all()
    rows += batch["id"].tolist()
assert sorted(rows) == list(range(len(loader.permutation)))
assert soon(lambda: loader.stats().fill_seconds > 0), loader.stats()
stats = loader.stats()
done(is_shared=stats.is_shared, blocks=stats.blocks_filled + stats.blocks_mapped)
"""


CUT = """
import warnings
warnings.simplefilter("ignore", ll.errors.DegradedWarning)
read = sys.argv[3]
loader = ll.open(sys.argv[2]).loader(
    500, shuffle=True, seed=1, format="numpy_dict", read=read, memory_limit="4MiB"
    if read == "external" else None, cache_dir=sys.argv[4],
)
for file in sorted(os.scandir(sys.argv[2] + "/data"), key=lambda file: file.name):
    os.truncate(file.path, file.stat().st_size // 3)
rows, error = 0, None
try:
    for batch in loader:
        assert (batch["square"] == batch["id"] ** 2).all()
        rows += len(batch["id"])
except ll.errors.CorruptFileError as raised:
    error = str(raised)
done(rows=rows, error=error)
"""


INTERRUPTED = """
perm = ll.open(path).shuffle(1).with_repeat(100_000)


def written():
    files = (os.path.join(at, name) for at, _, names in os.walk(folder + "/new") for name in names)
    return sum(os.path.getsize(file) for file in files)


def interrupt():
    try:
        soon(lambda: written() >= int(sys.argv[2]))
    finally:
        os.kill(os.getpid(), signal.SIGINT)


try:
    threading.Thread(target=interrupt, daemon=True).start()
    perm.materialize(folder + "/new/copy.lance")
except KeyboardInterrupt:
    done(left=os.listdir(folder + "/new") if os.path.exists(folder + "/new") else [])
else:
    done(left="it went through")
"""


WRITING = """
perm = ll.open(path).shuffle(1).with_repeat(int(sys.argv[2]))
print("begun", flush=True)
try:
    perm.materialize(folder + "/new/copy.lance")
except FileExistsError as error:
    done(error=str(error))
else:
    done(error=None)
"""
