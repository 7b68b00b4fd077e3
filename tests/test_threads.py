"""Threads: limits, sharing, forks, how work is shared out, and what happens when none can be had."""

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
from cases import BATCH, BATCH_BLOCKED, ENGINES, name_of
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


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.startswith("c-")], indirect=True)
@pytest.mark.parametrize(
    ("norm", "shape"), [(BATCH, (4, 3, 500_000)), (BATCH_BLOCKED, (4, 4, 22_500, 16))], ids=name_of
)
def test_statistics_of_some_channels_while_others_are_applied(norm, shape, engine):
    """As it goes beyond the cache of a common machine: each channel comes out as it does alone."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) + 3
    alone = [norm(x[:, c : c + 1]) for c in range(shape[1])]
    for count in (1, 2, 3):
        with wn.num_threads(count):
            for y in (norm(x), norm(own := x.copy(), out=own)):
                for c, of_channel in enumerate(alone):
                    np.testing.assert_array_equal(y[:, c : c + 1], of_channel)


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


def mixed_calls():
    """Calls of every kind on shared inputs, by name; each gives the bytes of all it computed."""
    x = LARGE[:64, :1500].copy()
    wide, images = x.astype(np.float64), LARGE[:32].reshape(8, 4, 32, 128)
    weight, bias = x[0], x[1]
    mean, var = wide.mean(0), wide.var(0)

    def train():
        running = np.zeros(4, np.float32), np.ones(4, np.float32)
        return [wn.batch_norm(images, *running, training=True), *running]

    return {
        "rows": lambda: [wn.layer_norm(x)],
        "float64": lambda: [wn.layer_norm(wide)],
        "parameters": lambda: [wn.layer_norm(x, weight, bias)],
        "columns": lambda: [wn.layer_norm(x, axis=0)],
        "strides": lambda: [wn.layer_norm(LARGE[:128:2, ::3])],
        "train": train,
        "channels last": lambda: [wn.batch_norm(images, training=True, axis=-1)],
        "inference": lambda: [wn.batch_norm(x, mean, var, weight, bias)],
        "moments": lambda: [wn.moments(images, (0, 2, 3)).to_array(), *wn.mean_var(x, 0)],
    }


def test_mixed_calls_on_shared_inputs():
    """16 threads, each with its own order, backends and limits: the fast lane opens and closes meanwhile."""
    calls = mixed_calls()

    def run(job):
        backend, name, limit = job
        with wn.backend(backend), wn.num_threads(limit):
            arrays = calls[name]()
        return b"".join(array.tobytes() for array in arrays)

    jobs = [(backend, name, 1) for backend in wn.available_backends() for name in calls]
    expected = dict(zip(jobs, map(run, jobs), strict=True))

    def work(seed):
        order = np.random.default_rng(seed).permutation(len(jobs))
        return all(run((*jobs[i][:2], 1 + (seed + i) % 3)) == expected[jobs[i]] for i in order)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [True] * 16


FORKS_AMID_CALLS = """
import os, signal, sys, threading, numpy as np, welnorm as wn
wn.set_backend(sys.argv[1])
x = np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)
calls = [lambda: wn.layer_norm(x), lambda: wn.batch_norm(x, training=True), lambda: wn.moments(x).to_array()]
expected = [call().tobytes() for call in calls]
stop = threading.Event()

def busy():
    while not stop.is_set():
        for call in calls:
            call()

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if [call().tobytes() for call in calls] == expected else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("name", wn.available_backends())
def test_forks_while_threads_are_inside_calls(name):
    """From the first call of the other threads on. In a process of its own, where nothing has run before."""
    command = [sys.executable, "-c", FORKS_AMID_CALLS, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0"] * 20, done.stderr
    assert done.returncode == 0


MEMORY_SWEEP = """
import collections, resource, sys, threading, numpy as np, welnorm as wn
wn.set_backend(sys.argv[1])
x = np.random.default_rng(0).standard_normal((1024, 512), dtype=np.float32)
calls = [
    lambda: wn.layer_norm(x),
    lambda: wn.layer_norm(x, dtype=np.float64),
    lambda: wn.layer_norm(x.T, axis=0),
    lambda: wn.batch_norm(x, training=True),
    lambda: wn.batch_norm(x.reshape(32, 16, 1024), training=True),
    lambda: wn.moments(x, 0).to_array(),
]
with wn.num_threads(1):
    expected = [call().tobytes() for call in calls]
tally = collections.Counter()

def run(start, end):
    start.wait()
    for call, right in zip(calls, expected):
        try:
            tally["right" if call().tobytes() == right else "wrong"] += 1
        except MemoryError:
            tally["MemoryError"] += 1
    end.set()

before = resource.getrlimit(resource.RLIMIT_AS)
for spare in range(0, 24 << 20, 300_000):
    start, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=run, args=(start, end))  # a new thread, which has no team yet
    thread.start()
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, before[1]))
    start.set()
    end.wait()
    resource.setrlimit(resource.RLIMIT_AS, before)
    thread.join()
print(tally["right"] + tally["MemoryError"], tally["right"] > 0, tally["wrong"])
"""


@pytest.mark.parametrize("name", ["c", "reference"])
def test_memory_sweep(name):
    """Every call under each of 84 limits: right bits or MemoryError."""
    command = [sys.executable, "-c", MEMORY_SWEEP, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(84 * 6), "True", "0"], done.stderr
