"""``welnorm bench``: how fast welnorm is here, next to its rivals and to the limit of the hardware.

Imported only by the command line and by the benchmark suites, never by ``import welnorm``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

import welnorm as wn

from .cases import OPS, SUITES, Arrays, Case, make_arrays
from .contenders import IMPLEMENTATIONS, OURS, RIVALS, Contender, Missing, make_contenders, same_threads
from .limits import LIMITS, LIMITS_OF_TWO_SWEEPS, make_limits, native_copy
from .machine import machine_info, rival_versions
from .reference import WrongResultError
from .report import format_report
from .results import Entry, Report, Result, to_json
from .timing import QUICK, STANDARD, Plan, Timing, measure

__all__ = [
    "IMPLEMENTATIONS",
    "LIMITS",
    "LIMITS_OF_TWO_SWEEPS",
    "OPS",
    "OURS",
    "QUICK",
    "RIVALS",
    "STANDARD",
    "SUITES",
    "Arrays",
    "Case",
    "Contender",
    "Entry",
    "Missing",
    "Plan",
    "Report",
    "Result",
    "Timing",
    "WrongResultError",
    "format_report",
    "machine_info",
    "make_arrays",
    "make_contenders",
    "make_limits",
    "measure",
    "native_copy",
    "prepare",
    "rival_versions",
    "run",
    "run_case",
    "same_threads",
    "to_json",
]


def prepare(case: Case, threads: int, names: Iterable[str]) -> list[Contender | Missing]:
    """Make what `names` asks for: `IMPLEMENTATIONS` (checked against float64) and limits."""
    names = tuple(names)
    try:
        arrays = make_arrays(case)
    except ModuleNotFoundError as missing:  # bfloat16 without ml_dtypes
        return [Missing(name, f"{missing.name} is not installed") for name in names]
    limits = {*LIMITS, *LIMITS_OF_TWO_SWEEPS}
    made = make_contenders(case, arrays, threads, (name for name in names if name not in limits))
    copies = make_limits(arrays.to_copy(case), threads, native_copy(), case.statistic_share(threads))
    return made + [copy for copy in copies if copy.name in names]


def run_case(
    case: Case, plan: Plan = STANDARD, *, threads: int, names: Iterable[str] = IMPLEMENTATIONS
) -> Result:
    """Measure one case, and always its limits; see `run`."""
    names = (*names, *LIMITS)
    with same_threads(threads, names):
        prepared = prepare(case, threads, names)
        timings = measure({one.name: one for one in prepared if isinstance(one, Contender)}, plan)
    return Result(
        case,
        tuple(
            Entry(one.name, reason=one.reason)
            if isinstance(one, Missing)
            else Entry(one.name, timings[one.name], one.error, note=one.note)
            for one in prepared
        ),
    )


def run(
    cases: Iterable[Case] = SUITES["standard"],
    plan: Plan = STANDARD,
    *,
    threads: int | None = None,
    names: Iterable[str] = IMPLEMENTATIONS,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Measure cases one after the other.

    Parameters
    ----------
    cases : iterable of Case
        What to measure.
    plan : Plan
        How long.
    threads : int, optional
        Threads for every contender; welnorm's setting if not given, and never more than welnorm can use.
    names : iterable of str
        Which implementations.
    progress : callable
        Gets a line of text before each case.

    Returns
    -------
    Report
    """
    cases = tuple(cases)
    names = tuple(names)
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    wanted = threads if threads is not None else wn.get_num_threads()
    with wn.num_threads(wanted):
        threads = wn.get_num_threads()
    machine = machine_info(threads)
    if threads < wanted:
        machine["threads"] += f"; welnorm cannot use {wanted} here"
    results = []
    for number, case in enumerate(cases, 1):
        progress(f"[{number}/{len(cases)}] {case}")
        results.append(run_case(case, plan, threads=threads, names=names))
    return Report(machine, tuple(results), time.perf_counter() - clock, started)
