"""A process that drives Ray: what runs in it leaves no threads in the process of the tests.

``driver`` is a fixture: ``driver(function, *arguments)`` calls a function of a test there, and
returns what it returns. Ray starts once for modules that follow each other, and nothing of it is
left behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cloudpickle
import pytest

SECONDS = 500
"""How long a call may take, on a machine that is busy."""

SETTINGS = {
    # A busy machine has little memory left, which is not the fault of a worker.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_ENABLE_V2": "1",
    # How often the controller of a training looks at reports, in place of every two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that was killed is found dead after three seconds, in place of fifteen.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # A disk that is nearly full is not the fault of a test, which spills little.
    "RAY_local_fs_capacity_threshold": "1.0",
    "RAY_prestart_worker_first_driver": "0",
    "OMP_NUM_THREADS": "1",
    # No credentials of the machine that the tests run on.
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
MEMORY = 100 << 20

CLUSTER = None
"""What starts and ends the nodes of this process, if there is more than one."""


def importable():
    """The folders from which workers import lanceloader and the modules of the tests."""
    import lanceloader

    package = str(Path(lanceloader.__file__).parents[1])
    return os.pathsep.join([package, str(Path(__file__).parent)])


def start(nodes, folder):
    """Start Ray in this process, on a number of nodes."""
    # Addresses of sockets have at most 107 bytes, so the folder has a short name.
    os.environ["RAY_TMPDIR"] = folder
    Path(folder, "ray").mkdir()
    import ray

    if nodes == 1:
        options = {"object_store_memory": MEMORY, "include_dashboard": False}
        ray.init(num_cpus=2, log_to_driver=False, **options)
        return
    from ray.cluster_utils import Cluster

    globals()["CLUSTER"] = Cluster()
    for number in range(nodes):
        add_node(number, folder)
    ray.init(CLUSTER.address, log_to_driver=False)


NODES = {}
"""The nodes of the cluster of this process, by their numbers."""


def add_node(number, folder):
    """Start a node of one CPU, which is also the resource ``node`` and its number."""
    NODES[number] = CLUSTER.add_node(
        num_cpus=1,
        resources={f"node{number}": 1},
        object_store_memory=MEMORY,
        include_dashboard=False,
        # As on machines of their own.
        env_vars={"LANCELOADER_CACHE_DIR": f"{folder}/cache{number}"},
    )


def replace_dead_nodes():
    """Start nodes anew that a test has killed."""
    for number, node in [*NODES.items()]:
        if node.dead_processes():
            CLUSTER.remove_node(node)
            add_node(number, os.environ["RAY_TMPDIR"])


def call(pickled):
    function, arguments = cloudpickle.loads(pickled)
    return cloudpickle.dumps(function(*arguments))


def stop():
    import ray

    ray.shutdown()
    if CLUSTER is not None:
        CLUSTER.shutdown()


@contextlib.contextmanager
def settings():
    """Set Ray's variables, and yield a folder for its files that has a short name."""
    with folder_of_ray() as folder, variables():
        yield folder


@contextlib.contextmanager
def folder_of_ray():
    folder = tempfile.mkdtemp(prefix="ll-ray-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def variables(**more):
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(SETTINGS | more, PYTHONPATH=importable())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def driving(nodes=1, **more):
    """Yield a function that calls others in a process with Ray, which has more variables."""
    with folder_of_ray() as folder:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, context, start, (nodes, folder))
        with variables(**more):
            # The process starts now, with these variables.
            pool.submit(int)
        yield from calls(pool)


def calls(pool):
    try:

        def driver(function, *arguments):
            module = sys.modules[function.__module__]
            cloudpickle.register_pickle_by_value(module)
            try:
                pickled = cloudpickle.dumps((function, arguments))
            finally:
                cloudpickle.unregister_pickle_by_value(module)
            return cloudpickle.loads(pool.submit(call, pickled).result(SECONDS))

        yield driver
        with contextlib.suppress(BrokenProcessPool):
            pool.submit(stop).result(SECONDS)
    finally:
        processes = [*(pool._processes or {}).values()]
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(30)
            process.kill()


def need_ray():
    """Skip a test without Ray, which is not imported here."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")


KEPT = []
"""The process of a module, if the next one will use it, too."""


@pytest.fixture(scope="module")
def driver(request):
    need_ray()
    if not KEPT:
        stack = contextlib.ExitStack()
        request.config.add_cleanup(stack.close)
        KEPT.append((stack, stack.enter_context(driving())))
    stack, call_there = KEPT.pop()
    yield call_there
    if is_next_with("driver", request) and not request.session.testsfailed:
        KEPT.append((stack, call_there))
    else:
        stack.close()


def is_next_with(fixture, request):
    """Whether the module of tests after this one uses a fixture."""
    items = request.session.items
    after = [at for at, item in enumerate(items) if item.path == request.path][-1] + 1
    return any(
        fixture in item.fixturenames
        for item in items[after:]
        if item.path == items[after].path
    )


@pytest.fixture(scope="module")
def cluster():
    """The same, on three nodes of one CPU each, some of which are killed."""
    need_ray()
    with driving(3) as call_there:
        yield call_there
