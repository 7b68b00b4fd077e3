"""Is welnorm as fast as it promises? Prints each figure next to its target; see README.md.

Usage: python bench/targets.py [--repeats N] [--threads N] [--strict]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass

import welnorm as wn
from welnorm import bench
from welnorm.bench.report import format_ratio, format_time


@dataclass(frozen=True)
class Ratio:
    """`ours` is at least `at_least` times as fast as `rival`."""

    case: str
    ours: str
    rival: str
    at_least: float

    def __str__(self) -> str:
        return f"{self.ours} vs {self.rival}"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours, self.rival)

    @property
    def target(self) -> str:
        return f">= {format_ratio(self.at_least)}"

    def figure(self, result: bench.Result) -> float | None:
        return result.ratio(self.rival, self.ours)

    def show(self, figure: float) -> str:
        return format_ratio(figure)

    def is_met(self, figure: float) -> bool:
        return figure >= self.at_least


@dataclass(frozen=True)
class Time:
    """One call of `ours` takes at most `at_most` seconds."""

    case: str
    ours: str
    at_most: float

    def __str__(self) -> str:
        return f"{self.ours}, one call"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours,)

    @property
    def target(self) -> str:
        return f"<= {format_time(self.at_most)}"

    def figure(self, result: bench.Result) -> float | None:
        timing = result.timing(self.ours)
        return timing.best if timing else None

    def show(self, figure: float) -> str:
        return format_time(figure)

    def is_met(self, figure: float) -> bool:
        return figure <= self.at_most


#: Like with like: torch and `welnorm` make a new output, the Numba kernel and `welnorm-out` are given one.
TARGETS: tuple[Ratio | Time, ...] = (
    Time("layer_norm/float32/rows/1x768", "welnorm", 1e-6),
    Time("layer_norm/float32/rows/1x768", "welnorm-out", 1e-6),
    Ratio("layer_norm/float32/rows/512x768", "welnorm", "torch", 1.5),
    Ratio("layer_norm/float32/rows/512x768", "welnorm-out", "numba", 1.2),
    Ratio("layer_norm/float32/rows/4096x768", "welnorm", "torch", 1.5),
    Ratio("layer_norm/float32/rows/4096x768", "welnorm-out", "numba", 1.2),
    Ratio("batch_norm_training/float32/nchw/32x64x56x56", "welnorm", "torch", 3.0),
)

PLAN = bench.Plan(budget=1.5, min_rounds=10)


def main() -> int:
    """Measure, print, and say whether all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs, of which the median counts (default: 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender (default: 2)")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    arguments = parser.parse_args()
    with wn.num_threads(arguments.threads):
        threads = wn.get_num_threads()

    machine = bench.machine_info(threads)
    figures: dict[Ratio | Time, list[float]] = defaultdict(list)
    reasons: dict[Ratio | Time, str] = {}
    for repeat in range(arguments.repeats):
        for case in dict.fromkeys(target.case for target in TARGETS):
            print(f"run {repeat + 1} of {arguments.repeats}: {case}", file=sys.stderr)
            wanted = [target for target in TARGETS if target.case == case]
            names = dict.fromkeys(name for target in wanted for name in target.names)
            result = bench.run_case(bench.Case.parse(case), PLAN, threads=threads, names=names)
            for target in wanted:
                figure = target.figure(result)
                if figure is None:
                    reasons[target] = "; ".join(f"{e.name}: {e.reason}" for e in result.entries if e.reason)
                else:
                    figures[target].append(figure)

    print(f"{'case':<45} {'what':<22} {'figure':>8}  {'target':<10} {'met':<4} range")
    all_met = True
    for target in TARGETS:
        row = f"{target.case:<45} {target!s:<22}"
        if not figures[target]:
            print(f"{row} {'-':>8}  {target.target:<10} {'-':<4} {reasons[target]}")
            all_met = False
            continue
        figure = statistics.median(figures[target])
        met = target.is_met(figure)
        all_met &= met
        spread = f"{target.show(min(figures[target]))} to {target.show(max(figures[target]))}"
        print(f"{row} {target.show(figure):>8}  {target.target:<10} {'yes' if met else 'NO':<4} {spread}")
    print(f"\nmedian of {arguments.repeats} runs, contenders taken in turn, {threads} threads")
    for key, value in machine.items():
        print(f"{key:<10}{value}")
    return 1 if arguments.strict and not all_met else 0


if __name__ == "__main__":
    sys.exit(main())
