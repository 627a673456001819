"""Programs that exit with a partly read iterator do so quietly and at once."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest
from programs import LIMIT_S, PRELUDE, finish, start

LOADERS = {
    "rows": "perm.loader(4)",
    "rows in memory": "ll.open(perm.to_arrow()).loader(4)",
    "external": 'perm.shuffle(1).loader(4, read="external", cache_dir=folder)',
    "mixture": "ll.mix([perm, ll.open(perm.to_arrow())]).loader(4)",
    "mixture of one table": "ll.mix([perm, perm]).loader(4)",
    "packed": 'perm.pack(8, column="text").loader(4)',
    "budget": 'perm.loader(batch_tokens=40, length="text")',
    "transform": "perm.loader(4, transform=len, transform_threads=3)",
    "transform here": "perm.loader(4, transform=len, transform_threads=0)",
    "filled": 'perm.loader(4, transform=dict, on_error="skip")',
    "endless": "perm.shuffle(1).loader(4, epochs=None)",
    "helper": "perm.loader(4, in_process=False)",
    "headspace": "perm.loader(4).headspace(after=5)",
    "DataLoader": "DataLoader(perm, 4)",
    "DataLoader with workers": "DataLoader(perm, 4, num_workers=2)",
    "DataLoader with workers that stay": (
        "DataLoader(perm, 4, num_workers=2, persistent_workers=True)"
    ),
    "DataLoader of torch": "torch.utils.data.DataLoader(perm.loader(4), None)",
    "permutation": "perm.with_batch_size(4)",
}

TORCH = """
import warnings
import torch
from lanceloader.torch import DataLoader

# That there are more workers than cores.
warnings.filterwarnings("ignore", "This DataLoader will create")
"""


def program_of(name):
    """One that leaves an iterator behind, which goes when most modules are gone already."""
    loader = LOADERS[name]
    torch, format = "", "numpy_dict"
    if "DataLoader" in loader:
        torch, format = TORCH, "torch_dict"
    return f"""{PRELUDE}{torch}
import builtins

perm = ll.open(path).with_format("{format}")
it = builtins.it = iter({loader})
next(it)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 rows with a text of 3 tokens."""
    folder = tmp_path_factory.mktemp("exit")
    text = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(300)), 3)
    data = pa.table({"id": np.arange(100), "text": text.cast(pa.list_(pa.int64()))})
    lance.write_dataset(data, folder / "t.lance")
    return folder


def says(program, folder):
    """What a program writes where errors go."""
    process = start(program, folder)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return err


@pytest.mark.parametrize("name", LOADERS)
def test_an_iterator_that_is_alive_at_exit(folder, name):
    assert says(program_of(name), folder) == ""


def test_iterations_are_closed_by_an_exit_function(folder):
    """Later, the collector would end them when most modules are gone."""
    before = """
import atexit


def check():
    # Exit functions run in reverse order; ours are registered by the first iteration.
    seconds = loader.stats().seconds
    time.sleep(0.01)
    done(rest=list(it), runs=loader.stats().seconds != seconds)


atexit.register(check)
"""
    program = """
loader = ll.open(path).loader(4, format="numpy_dict")
it = iter(loader)
next(it)
"""
    found = finish(start(before + PRELUDE + program, folder))
    assert found == {"rest": [], "runs": False}


def test_a_thread_that_waits_at_exit_is_not_waited_for(folder):
    """It has the iteration, which can then not be ended by anybody else."""
    program = """
from lanceloader.stages import ordered_map as threads

threads.GRACE_S = 0.1
waits = threading.Event()


def hangs(batch):
    waits.set()
    time.sleep(1000)


it = iter(ll.open(path).loader(4, transform=hangs, transform_threads=1))
threading.Thread(target=next, args=(it, None), daemon=True).start()
waits.wait()
"""
    assert says(PRELUDE + program, folder) == ""
