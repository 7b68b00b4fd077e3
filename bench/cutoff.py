"""Where the thresholds by size should lie.

    python bench/cutoff.py

prints the time of a layer norm of 768-wide float32 rows on one thread and on all, in turn, best of many.
Below the cut-off of src/threads.c both are the same code, and the ratio is noise. Then that of copies by
ordinary and by non-temporal stores, alone and with NumPy reading the result: src/welnorm.c sends results
past the cache where that is faster even so. What the cache holds until then is a processor's, or less if
others have their share of it (src/cache.c).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import welnorm as wn
from welnorm._c import copy

ROUNDS, CALLS = 30, 50


def best_us(call: Callable[[], object], calls: int = CALLS) -> float:
    """Time of one call in us: the mean of a few calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def threads() -> None:
    print(f"{'rows':>6}{'KiB':>8}{'1 thread':>12}{'all':>12}{'speed-up':>10}")
    for rows in (16, 32, 64, 85, 96, 128, 192, 256, 512, 1024, 4096):
        x = np.random.default_rng(rows).standard_normal((rows, 768), dtype=np.float32)
        out = np.empty_like(x)
        norm = partial(wn.layer_norm, x, out=out)
        alone, together = [], []
        for _ in range(ROUNDS):
            with wn.num_threads(1):
                alone.append(best_us(norm))
            together.append(best_us(norm))
        one, many = min(alone), min(together)
        print(f"{rows:6}{2 * x.nbytes / 1024:8.0f}{one:9.1f} us{many:9.1f} us{one / many:9.2f}x")


def copy_and_read(out: np.ndarray, x: np.ndarray, nontemporal: bool, is_read: bool) -> None:
    copy(out, x, nontemporal)
    if is_read:
        out.max()


def stores() -> None:
    print(f"{'MB, both':>10}{'ordinary':>14}{'non-temporal':>14}{'gain':>8}{'with a reader':>15}")
    for mb in (4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256):
        x = np.ones(mb * 500_000 // 4, np.float32)
        out = wn.aligned_empty(x.shape, x.dtype)
        times: dict[tuple[bool, bool], list[float]] = {}
        for _ in range(ROUNDS // 3):
            for kind in ((False, False), (True, False), (False, True), (True, True)):
                call = partial(copy_and_read, out, x, *kind)
                best_us(call, 3)  # what is in the cache now is as it will be
                times.setdefault(kind, []).append(best_us(call, 3))
        ordinary, past, ordinary_read, past_read = (min(of_kind) for of_kind in times.values())
        gains = f"{ordinary / past:7.2f}x{ordinary_read / past_read:14.2f}x"
        print(f"{mb:10}{ordinary:11.0f} us{past:11.0f} us{gains}")


if __name__ == "__main__":
    threads()
    stores()
