"""One thread against two by size: where the serial cut-off of src/threads.c should lie.

    python bench/cutoff.py

prints the time of a layer norm of 768-wide float32 rows on one thread and on all, in turn, best of many.
Below the cut-off both are the same code, and the ratio is noise.
"""

from __future__ import annotations

import time

import numpy as np
import welnorm as wn

ROUNDS, CALLS = 30, 50


def best_us(x: np.ndarray, out: np.ndarray) -> float:
    """Time of one call in us: the mean of a few calls in a row."""
    start = time.perf_counter()
    for _ in range(CALLS):
        wn.layer_norm(x, out=out)
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    print(f"{'rows':>6}{'KiB':>8}{'1 thread':>12}{'all':>12}{'speed-up':>10}")
    for rows in (16, 32, 64, 85, 96, 128, 192, 256, 512, 1024, 4096):
        x = np.random.default_rng(rows).standard_normal((rows, 768), dtype=np.float32)
        out = np.empty_like(x)
        alone, together = [], []
        for _ in range(ROUNDS):
            with wn.num_threads(1):
                alone.append(best_us(x, out))
            together.append(best_us(x, out))
        one, many = min(alone), min(together)
        print(f"{rows:6}{2 * x.nbytes / 1024:8.0f}{one:9.1f} us{many:9.1f} us{one / many:9.2f}x")


if __name__ == "__main__":
    main()
