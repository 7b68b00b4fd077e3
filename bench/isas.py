"""How much slower other instruction sets are than the best one here, and how much faster than NumPy.

Usage: python bench/isas.py [--threads N]

All take turns in one process, on the same arrays, with warm outputs; figures are ratios of the best rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import welnorm as wn
from welnorm import _c as extension
from welnorm import bench

CASES = (
    "layer_norm/float32/rows/512x768",
    "layer_norm/float32/rows/4096x4096",
    "layer_norm/float16/rows/512x4096",
    "rms_norm/float32/rows/512x4096",
    "batch_norm_training/float32/nchw/32x64x56x56",
    "batch_norm_training/float32/nc/4096x512",
    "batch_norm_inference/float32/nhwc/32x112x112x64",
    "group_norm/float32/nchw/8x256x32x32",
)


@contextmanager
def isa(name: str) -> Iterator[None]:
    before = extension.selected_isa()
    extension.select_isa(name)
    try:
        yield
    finally:
        extension.select_isa(before)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    threads = parser.parse_args().threads
    isas = [name for name in ("avx512", "avx2", "neon", "portable") if name in wn.available_isas()]
    best, others = isas[0], isas[1:]
    wide = max(map(len, CASES)) + 2
    header = "".join(f"{f'{name} / {best}':>20}" for name in others) + f"{'portable / numpy':>20}"
    print(f"{'speed':<{wide}}{header}")
    for text in CASES:
        case = bench.Case.parse(text)
        with bench.same_threads(threads, ("welnorm-out",)):
            ours, numpy = bench.prepare(case, threads, ("welnorm-out", "numpy"))
            contenders = {name: replace(ours, context=partial(isa, name)) for name in isas}
            timings = bench.measure(contenders | {"numpy": numpy}, bench.Plan(budget=1.5, min_rounds=8))
        seconds = {name: timing.best for name, timing in timings.items()}
        row = "".join(f"{seconds[best] / seconds[name]:>19.2f}x" for name in others)
        print(f"{text:<{wide}}{row}{seconds['numpy'] / seconds['portable']:>19.1f}x", flush=True)
    for key, value in bench.machine_info(threads).items():
        print(f"{key:<10}{value}")


if __name__ == "__main__":
    main()
