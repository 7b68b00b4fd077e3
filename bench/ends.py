"""What it costs that rows end within a cache line: every norm beside itself on rows that do not.

Usage: python bench/ends.py [OP ...] [--threads N] [--strict]

Time per element of rows (positions of an image, channels of channels last) whose ends share a line with the
next row, over that of about as many elements in rows that are whole lines; within the cache and past it. More
than 1.5 times is a cliff. (Short rows of 50 take four vectors of 16 elements, where 48 take three.)
"""

from __future__ import annotations

import argparse
import math
import sys

import welnorm as wn
from welnorm import bench

PAIRS = ((50, 48), (100, 96), (196, 192), (250, 256), (500, 512), (1000, 1024))
WITHIN, PAST = 500_000, 12_000_000  # elements
CHANNELS, SAMPLES = 64, 8
CLIFF = 1.5
PLAN = bench.Plan(budget=0.15, min_rounds=5)
LAYOUTS = {
    "layer_norm": ("rows",),
    "rms_norm": ("rows",),
    "add_layer_norm": ("rows",),
    "add_rms_norm": ("rows",),
    "batch_norm_training": ("nchw", "nhwc"),
    "batch_norm_inference": ("nchw", "nhwc"),
    "instance_norm": ("nchw", "nhwc"),
    "group_norm": ("nchw",),
}
DTYPES = ("float32", "float16", "bfloat16", "float64")


def make_case(op: str, dtype: str, layout: str, width: int, elements: int) -> bench.Case:
    """Rows, images or pixels of `width` elements."""
    if layout == "rows":
        shape: tuple[int, ...] = (elements // width, width)
    elif layout == "nchw":
        shape = (elements // (CHANNELS * width), CHANNELS, 1, width)
    else:
        shape = (SAMPLES, 1, elements // (SAMPLES * width), width)
    return bench.Case(op, dtype, layout, shape)


def ratio(op: str, dtype: str, layout: str, pair: tuple[int, int], elements: int, threads: int) -> float:
    """Time per element of the first width, over that of the second."""
    contenders, sizes = {}, {}
    for width in pair:
        case = make_case(op, dtype, layout, width, elements)
        (made,) = bench.prepare(case, threads, ["welnorm-out"])
        if isinstance(made, bench.Missing):
            raise SystemExit(f"{op} {dtype}: {made.reason}")
        contenders[str(width)], sizes[str(width)] = made, math.prod(case.shape)
    timings = bench.measure(contenders, PLAN)
    own, other = (timings[str(width)].best / sizes[str(width)] for width in pair)
    return own / other


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(LAYOUTS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if there is a cliff")
    arguments = parser.parse_args()
    ops = arguments.ops or list(LAYOUTS)
    if unknown := set(ops) - set(LAYOUTS):
        parser.error(f"no such op: {', '.join(sorted(unknown))}")
    worst = 0.0
    print(f"{'':44}" + "".join(f"{a}/{b}".rjust(11) for a, b in PAIRS))
    with wn.num_threads(arguments.threads):
        for op in ops:
            for layout in LAYOUTS[op]:
                for dtype in DTYPES:
                    for where, elements in (("within", WITHIN), ("past", PAST)):
                        name = f"{op} {layout} {dtype}, {where}"
                        print(f"{name:44}", end="", flush=True)
                        for pair in PAIRS:
                            got = ratio(op, dtype, layout, pair, elements, arguments.threads)
                            worst = max(worst, got)
                            print(f"{got:9.2f}x" + ("!" if got > CLIFF else " "), end="", flush=True)
                        print()
    print(f"\nat worst {worst:.2f} times (a cliff, '!': {CLIFF})")
    for key, value in bench.machine_info(arguments.threads).items():
        print(f"{key:<10}{value}")
    return 1 if arguments.strict and worst > CLIFF else 0


if __name__ == "__main__":
    sys.exit(main())
