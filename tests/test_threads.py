"""Threads: limits, sharing, forks, and what happens when none can be had."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import welnorm as wn
from threadpoolctl import threadpool_limits

LARGE = np.random.default_rng(0).standard_normal((512, 4096), dtype=np.float32)  # 8 MiB: threads pay
FORKS = 100


def python(code, *, wrapper=(), **environment):
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "WELNORM_NUM_THREADS")
    }
    command = [*wrapper, sys.executable, "-c", code]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


def digest(x=LARGE):
    """Bytes that depend on every element of a layer norm and a batch norm."""
    return wn.layer_norm(x).tobytes() + wn.batch_norm(x, training=True).tobytes()


def test_limits_nest_and_are_restored():
    before = wn.get_num_threads()
    with wn.num_threads(1):
        assert wn.get_num_threads() == 1
        with wn.num_threads(before):
            assert wn.get_num_threads() == before
        assert wn.get_num_threads() == 1
    with pytest.raises(KeyError), wn.num_threads(1):
        raise KeyError
    assert wn.get_num_threads() == before


def test_a_block_is_for_this_thread():
    seen = []
    before = wn.get_num_threads()
    with wn.num_threads(1):
        thread = threading.Thread(target=lambda: seen.append(wn.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [before]


def test_process_limit():
    done = python("import welnorm as wn; wn.set_num_threads(1); print(wn.get_num_threads())")
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    "environment", [{"WELNORM_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}, {"OMP_THREAD_LIMIT": "1"}]
)
def test_environment(environment):
    assert python("import welnorm as wn; print(wn.get_num_threads())", **environment).stdout.split() == ["1"]


def test_affinity():
    cpu = min(os.sched_getaffinity(0))
    done = python("import welnorm as wn; print(wn.get_num_threads())", wrapper=("taskset", "-c", str(cpu)))
    assert done.stdout.split() == ["1"]


def test_threadpoolctl():
    before = wn.get_num_threads()
    with threadpool_limits(1):
        assert wn.get_num_threads() == 1
    assert wn.get_num_threads() == before


def test_openmp_garbage_is_survived():
    for value in ("abc", "-3", "0", "", "1.5", "99999999999999999999", "2,x"):
        done = python("import welnorm as wn; print(wn.layer_norm([1.0, 2.0]).shape)", OMP_NUM_THREADS=value)
        assert (done.returncode, done.stdout.strip()) == (0, "(2,)"), value


@pytest.mark.parametrize("n", [0, -1, 2**31])
def test_bad_limits(n):
    for setter in (wn.set_num_threads, lambda n: wn.num_threads(n).__enter__()):
        with pytest.raises(ValueError, match="n must be at least 1"):
            setter(n)


@pytest.mark.parametrize("n", [1.5, "2", None])
def test_limits_of_wrong_type(n):
    with pytest.raises(TypeError, match="n must be an integer"):
        wn.set_num_threads(n)


def test_many_python_threads(backend):
    """16 threads, mixed calls on shared inputs, some of them inside num_threads blocks."""
    x = LARGE[:64]
    with wn.backend(backend):
        expected = digest(x)

    def work(i):
        with wn.backend(backend), wn.num_threads(1 + i % 3):
            return [digest(x) == expected for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        assert all(all(same) for same in pool.map(work, range(48)))


def test_the_gil_is_released():
    """A Python thread goes on while a kernel runs."""
    x = np.broadcast_to(LARGE, (64, *LARGE.shape)).reshape(-1, 4096)
    out = np.empty_like(x)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    with wn.num_threads(1):
        wn.layer_norm(x, out=out)
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert sum(start < t < end for t in ticks) >= 2


def in_child(expected):
    """Fork; the child must give the expected bytes within 2 s of its own time. Returns its exit status."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        start = time.process_time()
        same = digest(LARGE[:48]) == expected
        os._exit(0 if same and time.process_time() - start < 2 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_after_parallel_work(backend):
    with wn.backend(backend):
        digest()
        expected = digest(LARGE[:48])
        statuses = []
        for _ in range(FORKS):
            statuses.append(in_child(expected))
        assert statuses == [0] * FORKS
        assert digest(LARGE[:48]) == expected


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_a_kernel_runs():
    expected = digest(LARGE[:48])
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            wn.layer_norm(LARGE)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert [in_child(expected) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    expected = digest(LARGE[:48])
    with get_context(method).Pool(2) as pool:
        assert pool.map(digest, [LARGE[:48]] * 3) == [expected] * 3


MEMORY = """
import numpy as np, resource, sys, welnorm as wn
x = np.ones((1024, 4096), np.float32); x[:, ::2] = 3
out = np.empty_like(x)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    for y in (wn.layer_norm(x, out=out), wn.batch_norm(x.T, training=True, axis=-1, out=out.T).T):
        assert y[0, :2].tolist() == [0.9999949932098389, -0.9999949932098389], y[0, :2]
except MemoryError:
    print("MemoryError")
else:
    print("right")
"""


@pytest.mark.parametrize("spare_mb", [0, 0.1, 0.3, 1, 3, 8, 9, 20, 100])
def test_little_memory(spare_mb):
    """No room for thread stacks or scratch: right results or MemoryError, never an exit."""
    command = [sys.executable, "-c", MEMORY, str(int(spare_mb * 2**20))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) in ((0, "right"), (0, "MemoryError")), done.stderr


def test_limits_are_not_raised_by_welnorm():
    soft = resource.getrlimit(resource.RLIMIT_STACK)
    wn.layer_norm(LARGE)
    assert resource.getrlimit(resource.RLIMIT_STACK) == soft
