"""What was measured, as plain data: the table and the JSON file are both made from this."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .cases import Case
from .limits import LIMITS
from .timing import Timing


@dataclass(frozen=True)
class Entry:
    """One contender of one case: its timing, or the reason why there is none."""

    name: str
    timing: Timing | None = None
    error: float | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Result:
    """All contenders of one case, timed in turn."""

    case: Case
    entries: tuple[Entry, ...]

    def timing(self, name: str) -> Timing | None:
        """Return the timing of a contender, None if it is missing."""
        return next((entry.timing for entry in self.entries if entry.name == name), None)

    def gigabytes_per_second(self, name: str) -> float | None:
        """Return the rate of a contender, the data counted as read once and written once."""
        timing = self.timing(name)
        return self.case.bytes_moved / timing.best / 1e9 if timing else None

    def ratio(self, slower: str, faster: str) -> float | None:
        """Return how many times as long as `faster` the contender `slower` takes, each in its best round."""
        a, b = self.timing(slower), self.timing(faster)
        return a.best / b.best if a and b else None

    @property
    def limit(self) -> str | None:
        """The faster of the two copies: ordinary stores win in the cache, non-temporal ones beyond it."""
        present = {name: timing for name in LIMITS if (timing := self.timing(name))}
        return min(present, key=lambda name: present[name].best) if present else None

    def part_of_limit(self, name: str) -> float | None:
        """Return the speed of a contender as a part of the limit's."""
        limit = self.limit
        return self.ratio(limit, name) if limit else None


@dataclass(frozen=True)
class Report:
    """A whole run."""

    machine: Mapping[str, str]
    results: tuple[Result, ...]
    seconds: float = 0.0
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


def to_json(report: Report) -> dict[str, Any]:
    """Return a run in the format of pytest-benchmark, so that `pytest-benchmark compare` reads it.

    What that format has no place for is in `extra_info` of each benchmark and in `missing`.
    """
    return {
        "machine_info": dict(report.machine),
        "commit_info": {},
        "benchmarks": [
            _benchmark(result, entry, entry.timing)
            for result in report.results
            for entry in result.entries
            if entry.timing
        ],
        "missing": [
            {"fullname": f"{result.case}/{entry.name}", "reason": entry.reason}
            for result in report.results
            for entry in result.entries
            if not entry.timing
        ],
        "datetime": report.started.isoformat(),
        "version": "welnorm",
    }


def _benchmark(result: Result, entry: Entry, timing: Timing) -> dict[str, Any]:
    name = f"{result.case}/{entry.name}"
    return {
        "group": str(result.case),
        "name": name,
        "fullname": name,
        "params": {"name": name},
        "param": name,
        "extra_info": {
            "implementation": entry.name,
            "bytes": result.case.bytes_moved,
            "gigabytes_per_second": result.gigabytes_per_second(entry.name),
            "limit": result.limit,
            "part_of_limit": result.part_of_limit(entry.name),
            "largest_absolute_error": entry.error,
            "note": entry.note,
        },
        "options": {"timer": "perf_counter", "warmup": True},
        "stats": _statistics(timing),
    }


def _statistics(timing: Timing) -> dict[str, Any]:
    data = timing.seconds
    mean = statistics.fmean(data)
    q1, median, q3 = statistics.quantiles(data, n=4, method="inclusive") if len(data) > 1 else (data[0],) * 3
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    stddev = statistics.stdev(data) if len(data) > 1 else 0.0
    stddev_outliers = sum(abs(value - mean) > stddev for value in data)
    iqr_outliers = sum(not low <= value <= high for value in data)
    return {
        "min": min(data),
        "max": max(data),
        "mean": mean,
        "stddev": stddev,
        "rounds": len(data),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": iqr_outliers,
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{iqr_outliers}",
        "ld15iqr": min((value for value in data if value >= low), default=min(data)),
        "hd15iqr": max((value for value in data if value <= high), default=max(data)),
        "ops": 1 / mean,
        "total": sum(data) * timing.calls,
        "data": list(data),
        "iterations": timing.calls,
    }
