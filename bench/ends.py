"""What it costs that rows end within a cache line: every norm beside itself on rows that do not.

Usage: python bench/ends.py [OP ...] [--threads N]

Time per element of rows (positions of an image, channels of channels last) whose ends share a line with the
next row, over that of about as many elements in rows of about the same length that are whole lines; within
the cache and past it. More than 1.5 times is a cliff.
"""

from __future__ import annotations

import argparse
import math

import welnorm as wn
from welnorm import bench

WIDTHS = (50, 100, 196, 250, 500, 1001)
LINE = 64  # bytes
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


def whole_lines(width: int, dtype: str) -> int:
    """The width next to this one that is whole lines."""
    per_line = LINE * 8 // int(dtype.lstrip("bfloat"))
    return max(1, round(width / per_line)) * per_line


def ratio(op: str, dtype: str, layout: str, width: int, elements: int, threads: int) -> float:
    """Time per element, over that of rows that are whole lines."""
    pair = (width, whole_lines(width, dtype))
    contenders, sizes = {}, {}
    for of_row in pair:
        case = make_case(op, dtype, layout, of_row, elements)
        (made,) = bench.prepare(case, threads, ["welnorm-out"])
        if isinstance(made, bench.Missing):
            raise SystemExit(f"{op} {dtype}: {made.reason}")
        contenders[str(of_row)], sizes[str(of_row)] = made, math.prod(case.shape)
    timings = bench.measure(contenders, PLAN)
    own, other = (timings[str(of_row)].best / sizes[str(of_row)] for of_row in pair)
    return own / other


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(LAYOUTS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    arguments = parser.parse_args()
    ops = arguments.ops or list(LAYOUTS)
    if unknown := set(ops) - set(LAYOUTS):
        parser.error(f"no such op: {', '.join(sorted(unknown))}")
    ratios = []
    print(f"{'':44}" + "".join(f"{width:>10} " for width in WIDTHS))
    with wn.num_threads(arguments.threads):
        for op in ops:
            for layout in LAYOUTS[op]:
                for dtype in DTYPES:
                    for where, elements in (("within", WITHIN), ("past", PAST)):
                        name = f"{op} {layout} {dtype}, {where}"
                        print(f"{name:44}", end="", flush=True)
                        for width in WIDTHS:
                            got = ratio(op, dtype, layout, width, elements, arguments.threads)
                            ratios.append(got)
                            print(f"{got:9.2f}x" + ("!" if got > CLIFF else " "), end="", flush=True)
                        print()
    usual = sum(0.9 <= got <= 1.3 for got in ratios) / len(ratios)
    print(f"\nat worst {max(ratios):.2f} times (a cliff, '!': {CLIFF}); {usual:.0%} are 0.9 to 1.3")
    for key, value in bench.machine_info(arguments.threads).items():
        print(f"{key:<10}{value}")


if __name__ == "__main__":
    main()
