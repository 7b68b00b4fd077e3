"""Is welnorm as fast as it promises? Prints each figure next to its target; see README.md.

Usage: python bench/targets.py [--repeats N] [--threads N] [--only TEXT] [--rivals] [--alone DIR] [--strict]

The column `limit` is the figure of a copy, into a warm array, that reads as we do in our place: the faster
one of `P.copy` and `P.copy_nt` or, where statistics are of more than L2 keeps, of `P.read_copy` and
`P.read_copy_nt`; for a single row a copy of as many bytes as it, its parameters and the result are.
With --alone it is that of what takes longest: that copy, the arithmetic by itself, or the loads and stores of
a norm by themselves, as programs in DIR, a build folder of CMake, time them (`alone.py`).
With --rivals every rival that is installed takes part in every case, and a second table shows how many times
as long each takes, with geometric means.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import welnorm as wn
from alone import Alone
from welnorm import bench
from welnorm.bench import counters
from welnorm.bench.report import format_ratio, format_time

Pair = tuple[str, str]  # the names of a case and of a contender


#: Bytes that L2 keeps until they are read again: half of the 1 MiB that are usual.
NEAR = 1 << 19


def limits_of(case: str) -> tuple[Pair, ...]:
    """Name the copies that read as we do: twice, where statistics are of more than L2 keeps.

    But not those of a single row, which would read its parameters twice, too.
    """
    parsed = bench.Case.parse(case)
    is_read_again = parsed.has_statistics and parsed.statistic_span * parsed.itemsize > NEAR
    is_read_again &= not parsed.has_long_parameters
    return tuple((case, name) for name in (bench.LIMITS_OF_TWO_SWEEPS if is_read_again else bench.LIMITS))


def least_time(case: str, times: Mapping[str, float], alone: Alone | None, at: str = "") -> float | None:
    """Return the seconds of the copy in the place of `case`, of those whose names end in `at`.

    Or of what takes longer `alone`; None if no copy was measured.
    """
    copies = {name: times[name + at] for _, name in limits_of(case) if name + at in times}
    if not copies:
        return None
    if alone is None:
        return min(copies.values())
    own = replace(alone, threads=int(at[1:])) if at else alone
    return own.least(bench.Case.parse(case), copies)


@dataclass(frozen=True)
class Ratio:
    """`ours` is at least `at_least` times as fast as `rival`, of the same case unless `rival_case` is given.

    `minimum` is the least that will do, where the target is beyond it.
    """

    case: str
    ours: str
    rival: str
    at_least: float
    rival_case: str = ""
    minimum: float | None = None

    def __str__(self) -> str:
        return f"{self.ours} vs {self.rival}" + (f" of {self._other}" if self.rival_case else "")

    @property
    def _other(self) -> str:
        """What the other case differs in: its op, or its layout."""
        ours, other = bench.Case.parse(self.case), bench.Case.parse(self.rival_case)
        return other.op if other.op != ours.op else other.layout

    @property
    def group(self) -> tuple[str, ...]:
        """The cases that are measured together."""
        return (self.case, self.rival_case) if self.rival_case else (self.case,)

    @property
    def contenders(self) -> tuple[Pair, ...]:
        return ((self.case, self.ours), (self.rival_case or self.case, self.rival))

    @property
    def limits(self) -> tuple[Pair, ...]:
        return limits_of(self.case) + self._rival_limits

    @property
    def _rival_limits(self) -> tuple[Pair, ...]:
        """The same on as many threads as the rival, if that is ours on others."""
        _, at, threads = self.rival.partition("@")
        return tuple((case, f"{name}@{threads}") for case, name in limits_of(self.case) if at)

    @property
    def target(self) -> str:
        return f">= {format_ratio(self.at_least)}" + (
            f" ({format_ratio(self.minimum)})" if self.minimum else ""
        )

    def figure(self, best: Mapping[Pair, float]) -> float:
        ours, rival = (best[pair] for pair in self.contenders)
        return rival / ours

    def figure_at_limit(self, best: Mapping[Pair, float], alone: Alone | None = None) -> float | None:
        """Return what the figure were if ours took the least time that it can; None if none is known."""
        times = {name: time for (case, name), time in best.items() if case == self.case}
        ours, rival = least_time(self.case, times, alone), best.get(self.contenders[1])
        _, at, threads = self.rival.partition("@")
        if at:  # ours on other threads
            rival = least_time(self.case, times, alone, at + threads)
        return rival / ours if ours and rival else None

    def show(self, figure: float) -> str:
        return format_ratio(figure)

    def is_met(self, figure: float) -> bool:
        return figure >= self.at_least

    def is_enough(self, figure: float) -> bool:
        return figure >= (self.minimum or self.at_least)


@dataclass(frozen=True)
class Time:
    """One call of `ours` takes at most `at_most` seconds."""

    case: str
    ours: str
    at_most: float

    def __str__(self) -> str:
        return f"{self.ours}, one call"

    @property
    def group(self) -> tuple[str, ...]:
        return (self.case,)

    @property
    def contenders(self) -> tuple[Pair, ...]:
        return ((self.case, self.ours),)

    limits: ClassVar[tuple[Pair, ...]] = ()

    @property
    def target(self) -> str:
        return f"<= {format_time(self.at_most)}"

    def figure(self, best: Mapping[Pair, float]) -> float:
        return best[self.case, self.ours]

    def show(self, figure: float) -> str:
        return format_time(figure)

    def is_met(self, figure: float) -> bool:
        return figure <= self.at_most

    is_enough = is_met


@dataclass(frozen=True)
class Startup:
    """Seconds that `code` prints in a new process, the best of five."""

    what: str
    code: str
    at_most: float
    case: str = "startup"
    group: tuple[str, ...] = ()
    contenders: tuple[Pair, ...] = ()
    limits: tuple[Pair, ...] = ()

    def __str__(self) -> str:
        return self.what

    @property
    def target(self) -> str:
        return f"<= {format_time(self.at_most)}"

    def figure(self, best: Mapping[Pair, float]) -> float:
        runs = (subprocess.run([sys.executable, "-c", self.code], capture_output=True) for _ in range(5))
        return min(float(run.stdout) for run in runs)

    def show(self, figure: float) -> str:
        return format_time(figure)

    def is_met(self, figure: float) -> bool:
        return figure <= self.at_most

    is_enough = is_met


Target = Ratio | Time | Startup

CLOCK = "import time, numpy as np\nclock = time.perf_counter\n"
IMPORT = CLOCK + "start = clock()\nimport welnorm\nprint(clock() - start)"
FIRST = CLOCK + (
    "import welnorm as wn\nx, w = np.ones((64, 768), np.float32), np.ones(768, np.float32)\n"
    "start = clock()\nwn.layer_norm(x, w, w)\nprint(clock() - start)"
)

LAYER, RMS = "layer_norm/float32/rows/", "rms_norm/float32/rows/"
TRAINING, INFERENCE = "batch_norm_training/float32/", "batch_norm_inference/float32/"
TO, FROM = "to_blocked/float32/nchw/", "from_blocked/float32/nchw16c/"

#: Like with like: torch and `welnorm` make a new output; the Numba kernel, the two steps, the copies and
#: `welnorm-out` are given one. `@1` is on one thread.
TARGETS: tuple[Target, ...] = (
    Startup("import, on top of NumPy", IMPORT, 20e-3),
    Startup("first call", FIRST, 1e-3),
    Time(LAYER + "1x768", "welnorm", 0.6e-6),
    Time(LAYER + "1x768", "welnorm-out", 0.6e-6),
    Ratio(LAYER + "1x768", "welnorm", "torch", 4.0),
    Ratio(LAYER + "1x768", "welnorm", "onnxruntime", 8.0),
    Ratio(LAYER + "1x4000000", "welnorm-out", "welnorm-out@1", 1.6),
    Ratio(LAYER + "512x768", "welnorm", "torch", 2.2, minimum=1.5),
    Ratio(LAYER + "512x768", "welnorm-out", "numba", 1.6, minimum=1.2),
    Ratio(LAYER + "512x768", "welnorm-out", "P.copy", 0.8),
    Ratio(LAYER + "512x768", "welnorm-out", "welnorm-out@1", 1.8),
    Ratio(LAYER + "4096x768", "welnorm", "torch", 2.2, minimum=1.5),
    Ratio(LAYER + "4096x768", "welnorm-out", "numba", 1.6, minimum=1.2),
    Ratio(LAYER + "4096x768", "welnorm-out", "P.copy", 0.8),
    Ratio(LAYER + "4096x768", "welnorm-out", "welnorm-out@1", 1.8),
    Ratio(LAYER + "4096x4096", "welnorm-out", "P.copy_nt", 0.9),
    Ratio(LAYER + "4096x4096", "welnorm-out", "numba", 1.4),
    Ratio(LAYER + "4096x4096", "welnorm", "P.copy_nt", 0.7),
    Ratio(LAYER + "4096x4096", "welnorm-out", "welnorm-out@1", 1.5),
    Ratio(LAYER + "32768x4096", "welnorm-out", "P.copy_nt", 0.9),
    Ratio(LAYER + "32768x4096", "welnorm-out", "numba", 1.4),
    Ratio(LAYER + "32768x4096", "welnorm", "P.copy_nt", 0.7),
    Ratio("layer_norm/float16/rows/512x4096", "welnorm", "torch", 3.0, minimum=2.0),
    Ratio("layer_norm/bfloat16/rows/512x4096", "welnorm", "torch", 3.0, minimum=2.0),
    Ratio(RMS + "512x4096", "welnorm", "torch", 10.0, minimum=8.0),
    Ratio(RMS + "512x4096", "welnorm-out", "P.copy", 0.8),
    Ratio(RMS + "512x4096", "welnorm", "welnorm", 0.95, rival_case=LAYER + "512x4096"),
    Ratio("add_layer_norm/float32/rows/512x768", "welnorm-out", "welnorm-two-steps", 1.7),
    Ratio("add_layer_norm/float32/rows/4096x4096", "welnorm-out", "welnorm-two-steps", 1.7),
    Ratio("add_rms_norm/float32/rows/512x768", "welnorm-out", "welnorm-two-steps", 1.7),
    Ratio("add_rms_norm/float32/rows/4096x4096", "welnorm-out", "welnorm-two-steps", 1.7),
    Ratio(TRAINING + "nchw/32x64x56x56", "welnorm", "torch", 6.0, minimum=3.0),
    Ratio(TRAINING + "nchw/32x256x14x14", "welnorm", "torch", 6.0),
    Ratio(TRAINING + "nhwc/32x56x56x64", "welnorm", "torch", 1.5),
    Ratio(TRAINING + "nc/4096x512", "welnorm", "torch", 1.5),
    Ratio(
        TRAINING + "nchw16c/32x4x56x56x16",
        "welnorm",
        "welnorm",
        0.9,
        rival_case=TRAINING + "nchw/32x64x56x56",
    ),
    Ratio(INFERENCE + "nchw/8x256x14x14", "welnorm", "torch", 1.25),
    Ratio(INFERENCE + "nhwc/8x14x14x256", "welnorm", "torch", 1.25),
    Ratio(INFERENCE + "nc/1024x512", "welnorm", "torch", 1.25),
    Ratio(INFERENCE + "nchw/32x64x112x112", "welnorm-out", "P.copy_nt", 0.9),
    Ratio(INFERENCE + "nhwc/32x112x112x64", "welnorm-out", "P.copy_nt", 0.9),
    Ratio(INFERENCE + "nchw16c/32x4x112x112x16", "welnorm-out", "P.copy_nt", 0.9),
    Ratio(INFERENCE + "nc/32768x1024", "welnorm-out", "P.copy_nt", 0.9),
    Ratio("instance_norm/float32/nchw/8x256x32x32", "welnorm", "torch", 6.0, minimum=5.0),
    Ratio("group_norm/float32/nchw/8x256x32x32", "welnorm", "torch", 1.8),
    Ratio("group_norm/float32/nhwc/8x32x32x256", "welnorm", "torch", 1.8),
    Ratio(TO + "8x256x32x32", "welnorm", "P.copy", 0.5),
    Ratio(TO + "32x64x56x56", "welnorm", "P.copy", 0.5),
    Ratio(FROM + "8x16x32x32x16", "welnorm", "P.copy", 0.5),
    Ratio(FROM + "32x4x56x56x16", "welnorm", "P.copy", 0.5),
)

PLAN = bench.Plan(budget=1.5, min_rounds=8)


def prepare(case: str, names: Iterable[str], threads: int) -> dict[Pair, bench.Contender | bench.Missing]:
    """Make contenders; those with @n in their names are on n threads, the others share their arrays."""
    by_threads: dict[str, list[str]] = defaultdict(list)
    for name in names:
        base, _, own_threads = name.partition("@")
        by_threads[own_threads].append(base)
    ready: dict[Pair, bench.Contender | bench.Missing] = {}
    for own_threads, bases in by_threads.items():
        made = bench.prepare(bench.Case.parse(case), int(own_threads or threads), bases)
        for one in made:
            if not own_threads:
                ready[case, one.name] = one
                continue
            if isinstance(one, bench.Contender):
                one = replace(one, context=partial(wn.num_threads, int(own_threads)))
            ready[case, f"{one.name}@{own_threads}"] = one
    return ready


def measure(
    targets: Sequence[Target], threads: int, rivals: Sequence[str]
) -> tuple[dict[Pair, float], dict[Pair, str]]:
    """Time what the targets of a group of cases need, and rivals in its first case, all in turn.

    Returns the best time of every contender, or why there is none.
    """
    wanted = dict.fromkeys(pair for target in targets for pair in (*target.contenders, *target.limits))
    if targets[0].group:
        wanted |= dict.fromkeys((targets[0].group[0], name) for name in rivals)
    reasons: dict[Pair, str] = {}
    ready: dict[str, bench.Contender] = {}
    with bench.same_threads(threads, {name for _, name in wanted}):
        for case in dict.fromkeys(case for case, _ in wanted):
            made = prepare(case, (name for of, name in wanted if of == case), threads)
            for pair, one in made.items():
                if isinstance(one, bench.Missing):
                    reasons[pair] = f"{one.name}: {one.reason}"
                else:
                    ready["/".join(pair)] = one
        timings = bench.measure(ready, PLAN) if ready else {}
    return {pair: timings["/".join(pair)].best for pair in wanted if pair not in reasons}, reasons


#: Rivals that are given an output are compared with `welnorm-out`, the others with `welnorm`.
GIVEN_AN_OUTPUT = ("numba", "openvino")
RIVALS = ("torch", "onnxruntime", "openvino", "jax", "numba", "numpy")


Times = Mapping[str, float]  # of contenders, by name


def of_ours(run: Times, rival: str) -> float | None:
    return run.get("welnorm-out" if rival in GIVEN_AN_OUTPUT else "welnorm")


def rival_ratios(
    times: Sequence[Times], ours: Callable[[Times, str], float | None] = of_ours
) -> dict[str, float]:
    """Return how many times as long as `ours` of a run every rival took, the median of the runs of a case."""
    ratios = {}
    for name in RIVALS:
        both = [run[name] / own for run in times if name in run and (own := ours(run, name))]
        if both:
            ratios[name] = statistics.median(both)
    return ratios


def geometric_mean(values: Sequence[float]) -> str:
    return format_ratio(math.exp(statistics.fmean(map(math.log, values))))


def show_rivals(runs: dict[str, list[dict[str, float]]], alone: Alone | None) -> None:
    """Print how many times as long as welnorm every rival took in each case, the median of all runs."""
    wide = max(map(len, runs))
    print(
        f"\n{'case':<{wide}}{'welnorm':>9}{'out=':>9}" + "".join(f"{name:>12}" for name in RIVALS) + "   best"
    )
    of_best: list[tuple[float, float]] = []
    of_torch: list[tuple[float, float]] = []
    for case, times in runs.items():
        ratios = rival_ratios(times)
        at_limit = rival_ratios(times, lambda run, _, case=case: least_time(case, run, alone))
        if not ratios or not at_limit:  # a copy was not measured
            continue
        best = min(ratios, key=ratios.__getitem__)
        of_best.append((ratios[best], at_limit[best]))
        of_torch += [(ratios["torch"], at_limit["torch"])] if "torch" in ratios else []
        ours = (
            format_time(statistics.median(run[name] for run in times)) if name in times[0] else "-"
            for name in ("welnorm", "welnorm-out")
        )
        row = "".join(f"{text:>9}" for text in ours)
        row += "".join(f"{format_ratio(ratios[name]) if name in ratios else '-':>12}" for name in RIVALS)
        print(f"{case:<{wide}}{row}   {best}")
    for what, values, least in (("PyTorch", of_torch, 3.5), ("the best rival of each case", of_best, 1.8)):
        if values:
            mean, limit = (geometric_mean(column) for column in zip(*values, strict=True))
            print(f"geometric mean against {what}, {len(values)} cases: {mean} (>= {least}x), limit {limit}")


def show_counts(cases: Sequence[str]) -> None:
    """Print instructions and cycles an element on one thread, where the machine counts them."""
    print()
    for case in cases:
        (made,) = bench.prepare(bench.Case.parse(case), 1, ["welnorm-out"])
        if isinstance(made, bench.Missing):
            continue
        with wn.num_threads(1):
            made.call()
            counted = counters.count(made.call)
        if counted is None:
            print("instructions and cycles: this machine counts none")
            return
        elements = math.prod(bench.Case.parse(case).shape)
        figures = ", ".join(f"{number / elements:.2f} {name}" for name, number in counted.items())
        print(f"{case}: {figures} an element")


def main() -> int:
    """Measure, print, and say whether all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs, of which the median counts (default: 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender (default: 2)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only rows that contain TEXT")
    parser.add_argument(
        "--rivals", action="store_true", help="every rival in every case, and geometric means"
    )
    parser.add_argument(
        "--alone", metavar="DIR", type=Path, help="count what programs in this build folder time as limits"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    arguments = parser.parse_args()
    targets = [target for target in TARGETS if arguments.only in f"{target.case} {target}"]
    if not targets:
        parser.error(f"no row contains {arguments.only!r}")
    with wn.num_threads(arguments.threads):
        threads = wn.get_num_threads()
    machine = bench.machine_info(threads)
    alone = None
    if arguments.alone:
        alone = Alone(arguments.alone, str(wn.show_config(mode="dicts")["isa"]["name"]), threads)
        if alone.missing:
            parser.error(f"--alone: there is no {alone.missing[0]}")
    figures: dict[object, list[float]] = defaultdict(list)
    at_limit: dict[object, list[float]] = defaultdict(list)
    reasons: dict[Pair, str] = {}
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    rivals = ("welnorm", "welnorm-out", *RIVALS) if arguments.rivals else ()
    for repeat in range(arguments.repeats):
        Alone.measure_again()
        for group in dict.fromkeys(target.group for target in targets):
            print(f"run {repeat + 1} of {arguments.repeats}: {' and '.join(group)}", file=sys.stderr)
            of_group = [target for target in targets if target.group == group]
            best, missing = measure(of_group, threads, rivals)
            reasons |= missing
            for target in of_group:
                if missing.keys().isdisjoint(target.contenders):
                    figures[target].append(target.figure(best))
                    if isinstance(target, Ratio) and (limit := target.figure_at_limit(best, alone)):
                        at_limit[target].append(limit)
            if rivals and group and not group[0].startswith(("to_", "from_")):
                runs[group[0]].append({name: time for (case, name), time in best.items() if case == group[0]})

    wide_case = max(len(target.case) for target in targets)
    wide_what = max(len(str(target)) for target in targets)
    head = f"{'case':<{wide_case}} {'what':<{wide_what}} {'figure':>8} {'limit':>8}"
    print(f"{head}  {'target':<17} {'met':<7} range")
    all_met = True
    for target in targets:
        row = f"{target.case:<{wide_case}} {target!s:<{wide_what}}"
        if not figures[target]:
            why = "; ".join(reasons[pair] for pair in target.contenders if pair in reasons)
            print(f"{row} {'-':>8} {'-':>8}  {target.target:<17} {'-':<7} {why}")
            all_met = False
            continue
        figure = statistics.median(figures[target])
        met = target.is_met(figure)
        all_met &= met
        word = "yes" if met else "minimum" if target.is_enough(figure) else "NO"
        spread = f"{target.show(min(figures[target]))} to {target.show(max(figures[target]))}"
        limit = target.show(statistics.median(at_limit[target])) if at_limit[target] else "-"
        print(f"{row} {target.show(figure):>8} {limit:>8}  {target.target:<17} {word:<7} {spread}")
    if runs:
        show_rivals(runs, alone)
        show_counts(list(runs))
    print("\nin brackets: the least that will do; met says minimum where only that is reached")
    print(f"median of {arguments.repeats} runs, contenders taken in turn, {threads} threads")
    for key, value in machine.items():
        print(f"{key:<10}{value}")
    return 1 if arguments.strict and not all_met else 0


if __name__ == "__main__":
    sys.exit(main())
