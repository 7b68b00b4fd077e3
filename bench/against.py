"""This build of welnorm against another one, in turn in one process: what a change is worth.

``pip install --no-deps --target DIR .`` in a checkout of the other revision first; then
``python bench/against.py DIR CASE ...``, with cases as reports name them: op/dtype/layout/shape.
"""

import argparse
import importlib
import statistics
import sys
from contextlib import ExitStack
from types import ModuleType


def load(folder: str | None) -> ModuleType:
    """Import welnorm.bench anew, from the folder or from where Python finds it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "welnorm"]:
        del sys.modules[name]
    sys.path[:0] = [folder] if folder else []
    try:
        return importlib.import_module("welnorm.bench")
    finally:
        del sys.path[: 1 if folder else 0]


def main() -> None:
    """Print, for every case, how many times as fast as the other build this one is, in each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", help="folder of the other build")
    parser.add_argument("cases", nargs="+", metavar="CASE", help="layer_norm/float32/rows/512x768, ...")
    parser.add_argument("--threads", type=int, default=2, help="threads of both (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="runs (default: 5)")
    arguments = parser.parse_args()
    other, this = load(arguments.other), load(None)
    limits = ExitStack()
    for bench in (other, this):
        limits.enter_context(bench.same_threads(arguments.threads, ()))
    print(f"{'case':<50} {'other':>9} {'this':>9}  times as fast, run by run")
    for case in arguments.cases:
        runs = []
        for _ in range(arguments.repeats):
            arrays = this.make_arrays(this.Case.parse(case))  # of both: where they lie counts
            ready = {}
            for name, bench in (("other", other), ("this", this)):
                parsed = bench.Case.parse(case)
                (made,) = bench.make_contenders(parsed, arrays, arguments.threads, ["welnorm-out"])
                if isinstance(made, bench.Missing):
                    parser.error(f"{case}: {made.reason}")
                ready[name] = made
            runs.append(this.measure(ready, this.Plan(budget=1.0)))
        best = {name: statistics.median(run[name].best for run in runs) * 1e6 for name in ("other", "this")}
        ratios = " ".join(f"{run['other'].best / run['this'].best:.2f}" for run in runs)
        print(f"{case:<50} {best['other']:>6.1f} us {best['this']:>6.1f} us  {ratios}")


if __name__ == "__main__":
    main()
