"""What goes wrong in tests: damage to files of packed rows, and programs that are ended or disturbed."""

from __future__ import annotations

import importlib.util
import os

from loads import files


def cut(keep):
    return lambda file: os.truncate(
        file, keep if keep >= 0 else file.stat().st_size + keep
    )


def flip(place, bit=0):
    def change(file):
        content = bytearray(file.read_bytes())
        content[place] ^= 1 << bit
        file.write_bytes(content)

    return change


def swap(file):
    others = [each for each in files(file.parent) if each != file]
    spare = file.with_name("spare")
    file.rename(spare)
    others[0].rename(file)
    spare.rename(others[0])


def folder_instead(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "of length zero": cut(0),
    "a part of a header": cut(50),
    "only a header": cut(64),
    "cut by a byte": cut(-1),
    "cut by a half": lambda file: cut(file.stat().st_size // 2)(file),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 4096),
    "bytes of zero": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "magic": flip(0),
    "key": flip(9, 7),
    "number of rows": flip(16),
    "heads": flip(32, 3),
    "checksum": flip(50),
    "bits": flip(70),
    "a head": flip(5000, 5),
    "a tail": flip(-9, 1),
    "swapped": swap,
    "gone": lambda file: file.unlink(),
    "a description": lambda file: (file.parent / "entry.json").write_text("{"),
    "no description": lambda file: (file.parent / "entry.json").unlink(),
    "no lock": lambda file: (file.parent / "lock").unlink(),
}


def hide(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in names else find(name, *rest),
    )


# Programs, which begin with ``programs.PRELUDE``.

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
rows, read, taken = 0, sys.argv[3], int(sys.argv[4])
loader = ll.open(sys.argv[2]).loader(
    500, shuffle=True, seed=1, format="numpy_dict", read=read, memory_limit="4MiB"
    if read == "external" else None, cache_dir=sys.argv[5],
)
batches = iter(loader)
for _ in range(taken):
    rows += len(next(batches)["id"])
for file in sorted(os.scandir(sys.argv[2] + "/data"), key=lambda file: file.name):
    os.truncate(file.path, file.stat().st_size // 3)
try:
    for batch in batches:
        assert (batch["square"] == batch["id"] ** 2).all()
        rows += len(batch["id"])
except ll.errors.CorruptFileError as error:
    done(found=".lance is damaged" in str(error))
else:
    done(found=rows == len(loader.permutation))
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
