"""Every benchmark is one string: ``<op>/<dtype>/<layout>/<shape>/<implementation>``.

A module lists its `CASES`; each is crossed with the two limits and all implementations, and the fixture
`measured` measures what one string names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import welnorm as wn
from welnorm import bench
from welnorm.bench.timing import STANDARD, time_calls, warm_up

#: Seconds of warming up: long enough for the idle threads of the contender before to stop spinning.
WARM_UP = 0.02

#: Seconds one benchmark takes, about.
DURATION = 0.5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = (*bench.LIMITS, *bench.IMPLEMENTATIONS)
    metafunc.parametrize("name", [f"{case}/{name}" for case in metafunc.module.CASES for name in names])


@pytest.fixture
def measured(benchmark) -> Iterator[Callable[[str], None]]:
    """A function that benchmarks what a string names, or skips it with the reason."""
    threads = wn.get_num_threads()
    with bench.same_threads(threads):
        yield lambda name: _measure(benchmark, name, threads)


def _measure(benchmark, name: str, threads: int) -> None:
    case_name, _, implementation = name.rpartition("/")
    case = bench.Case.parse(case_name)
    benchmark.group = case_name
    (contender,) = bench.prepare(case, threads, [implementation])
    if isinstance(contender, bench.Missing):
        pytest.skip(f"{implementation}: {contender.reason}")
    with contender.context():
        warm_up(contender.call, WARM_UP)
        taken = min(time_calls(contender.call, 1) for _ in range(5))
        iterations = max(1, round(STANDARD.batch / taken))
        rounds = max(5, round(DURATION / (taken * iterations)))
        benchmark.pedantic(contender.call, iterations=iterations, rounds=rounds, warmup_rounds=1)
    if benchmark.enabled:
        benchmark.extra_info.update(_extra_info(case, contender, benchmark.stats.stats.min, threads))


def _extra_info(case: bench.Case, contender: bench.Contender, best: float, threads: int) -> dict[str, object]:
    limit, seconds = _limit(case, threads)
    return {
        "threads": threads,
        "bytes": case.bytes_moved,
        "gigabytes_per_second": case.bytes_moved / best / 1e9,
        "limit": limit,
        "part_of_limit": seconds / best,
        "largest_absolute_error": contender.error,
        "note": contender.note,
    }


@cache
def _limit(case: bench.Case, threads: int) -> tuple[str, float]:
    """The faster of the two copies, timed in turn in this process, and its seconds."""
    copies = bench.run_case(case, bench.QUICK, threads=threads, names=())
    assert copies.limit is not None
    return copies.limit, copies.timing(copies.limit).best


def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    machine_info["welnorm"] = bench.machine_info(wn.get_num_threads())
