"""Fair timing: contenders take turns in one process, so that a drifting machine treats all of them alike.

Between two contenders there is a pause of some milliseconds: the idle threads of one OpenMP runtime spin for
a while after a parallel region and would spoil the figures of whoever comes next.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Clock = Callable[[], float]
Sleep = Callable[[float], object]


class Callee(Protocol):
    """What can be timed: a call, and the settings it needs around it."""

    @property
    def call(self) -> Callable[[], object]:
        """The call without arguments that is timed."""

    @property
    def context(self) -> Callable[[], AbstractContextManager[object]]:
        """The settings entered once around each batch, outside the time."""


@dataclass(frozen=True)
class Plan:
    """How long and how often to measure; times in seconds.

    Rounds go on until `budget` is spent, but at least `min_rounds` and at most `max_rounds`.
    """

    budget: float = 3.0
    min_rounds: int = 3
    max_rounds: int = 40
    batch: float = 2e-3
    warm_up: float = 1e-3
    pause: float = 4e-3


_WARM_UP_CALLS = 3
_SLOW = 0.02

STANDARD = Plan()
QUICK = Plan(budget=0.7, max_rounds=12)


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one value for each round, and how many calls such a value averages."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def best(self) -> float:
        """The fastest round."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)


def time_calls(call: Callable[[], object], calls: int, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that `calls` calls took together."""
    start = clock()
    for _ in repeat(None, calls):
        call()
    return clock() - start


def calls_per_batch(call: Callable[[], object], seconds: float, clock: Clock = time.perf_counter) -> int:
    """Find how many calls last at least `seconds`, judged by the best of three."""
    calls = 1
    while (taken := min(time_calls(call, calls, clock) for _ in range(3))) < seconds:
        # Aim a little too high, but never trust one short reading for more than a factor of ten.
        wanted = 10.0 if taken <= 0 else 1.1 * seconds / taken
        calls = max(calls + 1, int(calls * min(wanted, 10.0)))
    return calls


def _calls_lasting(seconds: float, seconds_of_one: float) -> int:
    return math.ceil(seconds / seconds_of_one) if seconds_of_one > 0 else 1


def warm_up(call: Callable[[], object], seconds: float, clock: Clock = time.perf_counter) -> None:
    """Call until `seconds` have passed, a slow call once and others three times at least.

    Caches are full then, and threads awake: on a busy machine the first call may have to wait.
    """
    start = clock()
    calls = 0
    while calls == 0 or clock() - start < (seconds if calls >= _WARM_UP_CALLS else _SLOW):
        call()
        calls += 1


def measure(
    contenders: Mapping[str, Callee],
    plan: Plan = STANDARD,
    *,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> dict[str, Timing]:
    """Time all contenders in turn (A B C A B C ...).

    Parameters
    ----------
    contenders : mapping of name to contender
        What to time, in this order.
    plan : Plan
        How long and how often.
    clock, sleep : callables, optional
        Stand-ins for `time.perf_counter` and `time.sleep`.

    Returns
    -------
    dict of name to Timing
        Each with the same number of rounds.
    """
    calls: dict[str, int] = {}
    for name, contender in contenders.items():
        with contender.context():
            warm_up(contender.call, plan.warm_up, clock)
            calls[name] = calls_per_batch(contender.call, plan.batch, clock)

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    start = clock()
    rounds = 0
    with _no_garbage_collection():
        while rounds < plan.max_rounds and (rounds < plan.min_rounds or clock() - start < plan.budget):
            for name, contender in contenders.items():
                sleep(plan.pause)
                with contender.context():
                    warm_up(contender.call, plan.warm_up, clock)
                    seconds[name].append(time_calls(contender.call, calls[name], clock) / calls[name])
                # Who was disturbed when its calls were counted gets more as soon as that shows.
                calls[name] = max(calls[name], _calls_lasting(plan.batch, min(seconds[name])))
            rounds += 1
    return {name: Timing(tuple(values), calls[name]) for name, values in seconds.items()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
