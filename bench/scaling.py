"""Cost as the work grows: layer norm by rows and by width, within and past the cache; are there cliffs?

Usage: python bench/scaling.py [--plot FILE] [--threads N] [--strict]

A cliff is a shape that takes more than 1.5 times as long per element as its smaller neighbour: shapes grow by
a square root of two. (That the smaller one takes longer per element, because of what each call and each row
cost, is no cliff.) Beside it the faster copy of the same arrays, which has the memory's own cliffs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import welnorm as wn
from welnorm import bench

WIDTH, ROWS = 768, 64
MOST_ROWS, MOST_WIDTH = 100_000, 1_000_000
PAST, MOST_WIDTH_PAST = 12_000_000, 8192  # elements, 96 MB with the result: more than the cache holds
STEP = 2**0.5
CLIFF = 1.5
PLAN = bench.Plan(budget=0.25, min_rounds=8)


def grow(first: int, last: int) -> list[int]:
    """From first to last, each about a square root of two times the one before."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(last, max(sizes[-1] + 1, round(sizes[-1] * STEP))))
    return sizes


def make_call(shape: tuple[int, int]) -> Callable[[], object]:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    weight, bias, out = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32), wn.aligned_empty(shape)
    return lambda: wn.layer_norm(x, weight, bias, out=out)


def cost_per_element(shape: tuple[int, int], neighbour: tuple[int, int] | None) -> tuple[float, float, float]:
    """Seconds of the shape, of the faster copy of its arrays, and how many times those of its neighbour."""
    calls = {"own": make_call(shape)} | ({"neighbour": make_call(neighbour)} if neighbour else {})
    contenders = {name: bench.Contender(name, call) for name, call in calls.items()}
    copies = bench.make_limits(np.ones(shape, np.float32), wn.get_num_threads(), bench.native_copy())
    timings = bench.measure(contenders | {copy.name: copy for copy in copies}, PLAN)
    best = {name: timing.best for name, timing in timings.items()}
    own, limit = (
        seconds / (shape[0] * shape[1]) for seconds in (best["own"], min(map(best.get, bench.LIMITS)))
    )
    ratio = own / (best["neighbour"] / (neighbour[0] * neighbour[1])) if neighbour else 1.0
    return own, limit, ratio


Costs = list[tuple[int, float, float, float]]


def measure(what: str, shapes: list[tuple[int, int]]) -> Costs:
    """Size, seconds per element, those of a copy, ratio to the neighbour before; printed as they come."""
    print(f"\n{what:>10}{'ns/element':>14}{'copy':>10}{'neighbour':>12}")
    rows, before = [], None
    for shape in shapes:
        cost, limit, ratio = cost_per_element(shape, before)
        size = shape[0] if what == "rows" else shape[1]
        cliff = "  cliff" if ratio > CLIFF else ""
        print(f"{size:>10}{cost * 1e9:>14.4f}{limit * 1e9:>10.4f}{ratio:>11.2f}x{cliff}", flush=True)
        rows.append((size, cost, limit, ratio))
        before = shape
    return rows


def plot(file: str, sweeps: dict[str, Costs]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(sweeps), figsize=(14, 4), sharey=True, layout="constrained")
    for axis, (text, rows) in zip(axes, sweeps.items(), strict=True):
        sizes = [size for size, *_ in rows]
        axis.loglog(sizes, [cost * 1e9 for _, cost, _, _ in rows], marker=".", label="layer_norm")
        axis.loglog(sizes, [limit * 1e9 for _, _, limit, _ in rows], color="gray", label="the faster copy")
        axis.set_xlabel(text)
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].set_ylabel("ns per element")
    axes[0].legend()
    figure.suptitle("layer_norm, float32, out=")
    figure.savefig(file)


def main() -> int:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="where to draw it (needs matplotlib): .svg, .png")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if there is a cliff")
    arguments = parser.parse_args()
    with wn.num_threads(arguments.threads):
        sweeps = {
            f"rows of {WIDTH} elements": measure("rows", [(rows, WIDTH) for rows in grow(1, MOST_ROWS)]),
            f"width of {ROWS} rows": measure("width", [(ROWS, width) for width in grow(8, MOST_WIDTH)]),
            f"width, {PAST // 10**6} million elements": measure(
                "width", [(PAST // width, width) for width in grow(8, MOST_WIDTH_PAST)]
            ),
        }
    if arguments.plot:
        plot(arguments.plot, sweeps)
    worst = max(ratio for costs in sweeps.values() for *_, ratio in costs)
    print(f"\nat worst {worst:.2f} times the cost per element of the neighbour before (a cliff: {CLIFF})")
    for key, value in bench.machine_info(arguments.threads).items():
        print(f"{key:<10}{value}")
    return 1 if arguments.strict and worst > CLIFF else 0


if __name__ == "__main__":
    sys.exit(main())
