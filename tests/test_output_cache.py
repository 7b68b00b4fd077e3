"""Memory that results leave to the next ones: it is used again, bounded, given back, and never shared."""

import gc
import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
import welnorm as wn

X = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)  # 4 MiB


@pytest.fixture(autouse=True)
def empty_cache():
    gc.collect()
    wn.clear_output_cache()
    yield
    wn.clear_output_cache()


def address(array):
    return array.ctypes.data


def test_memory_is_used_again():
    y = wn.layer_norm(X)
    first, expected = address(y), y.copy()
    del y
    again = wn.layer_norm(X)
    assert address(again) == first
    assert address(again) % 64 == 0
    np.testing.assert_array_equal(again, expected)


def test_memory_in_use_is_not():
    results = [wn.layer_norm(X) for _ in range(20)]
    assert len({address(y) for y in results}) == 20
    view = results[3][5:7, ::2]
    kept = view.copy()
    del results
    for value in range(20):
        wn.layer_norm(X + np.float32(value))
    np.testing.assert_array_equal(view, kept)


def test_other_sizes_find_their_own():
    y = wn.layer_norm(X)
    first = address(y)
    del y
    smaller = wn.layer_norm(X[:1000])
    assert address(smaller) == first  # a little smaller will do,
    del smaller
    assert address(wn.layer_norm(X[:800])) != first  # much smaller would waste the rest


def test_small_results_are_left_to_malloc():
    y = wn.layer_norm(X[:100])
    del y
    assert wn.clear_output_cache() == 0


def test_it_is_given_back():
    results = [wn.layer_norm(X) for _ in range(8)]
    del results
    assert wn.clear_output_cache() == 8 * X.nbytes
    assert wn.clear_output_cache() == 0


def test_resized_results_keep_their_data():
    y = wn.layer_norm(X)
    expected = y[:100].copy()
    y.resize((100, 1024), refcheck=False)
    np.testing.assert_array_equal(y, expected)
    y.resize((2048, 1024), refcheck=False)
    np.testing.assert_array_equal(y[:100], expected)
    assert not y[100:].any()


def test_threads_never_share_a_result():
    wrong = []

    def work(value):
        x = np.full((512, 1024), value, np.float32)
        bias = np.full(1024, value, np.float32)
        for _ in range(200):
            if not np.all(wn.layer_norm(x, None, bias) == value):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_goes_on():
    y = wn.layer_norm(X)
    expected = y.copy()
    del y
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(wn.layer_norm(X), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(wn.layer_norm(X), expected)


SCRIPT = """
import numpy as np, welnorm as wn
x = np.ones((1024, 1024), np.float32)
kept = [wn.layer_norm(x) for _ in range(5)]
del kept
print(wn.clear_output_cache() >> 20)
"""


@pytest.mark.parametrize(
    ("setting", "held"), [("0", 0), ("9", 8), ("100", 20), ("nonsense", 20), ("-1", 20), (None, 20)]
)
def test_the_bound(setting, held):
    environment = {key: value for key, value in os.environ.items() if key != "WELNORM_OUTPUT_CACHE_MB"}
    if setting is not None:
        environment["WELNORM_OUTPUT_CACHE_MB"] = setting
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True)
    assert int(run.stdout) == held


def test_results_that_follow_each_other_cost_no_page_faults():
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            wn.layer_norm(large)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    large = np.zeros((4096, 4096), np.float32)
    faults()
    assert faults() < 100  # 10 new arrays are 160,000 pages of 4 KiB, or 320 of 2 MiB


def test_show_config_tells():
    assert "MiB" in wn.show_config(mode="dicts")["memory"]["output cache"]
