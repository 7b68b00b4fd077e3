"""Fair timing: turns, pauses, long enough batches; on a fake clock."""

import fcntl
import gc
import os
from contextlib import contextmanager

import pytest
from welnorm import bench
from welnorm.bench import counters, timing


class FakeTime:
    """A clock that only moves when something sleeps or works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class FakeContender:
    def __init__(self, clock, seconds, log=None, name=""):
        self.clock, self.seconds, self.log, self.name = clock, seconds, log, name
        self.entered = 0

    def call(self):
        assert self.entered == 1, "called outside its context"
        self.clock.advance(self.seconds)
        if self.log is not None:
            self.log.append(self.name)

    @contextmanager
    def context(self):
        self.entered += 1
        yield
        self.entered -= 1


@pytest.mark.parametrize("seconds", [1e-7, 3e-5, 1e-3, 0.5])
def test_batches_last_as_long_as_asked_and_not_much_longer(seconds):
    clock = FakeTime()
    calls = timing.calls_per_batch(lambda: clock.advance(seconds), 2e-3, clock)
    assert calls == 1 or 2e-3 <= calls * seconds <= 4e-3


def test_batches_of_a_call_too_short_to_see():
    readings = iter([0.0, 0.0] * 3 + [0.0, 1.0] * 3)
    assert timing.calls_per_batch(lambda: None, 1e-3, lambda: next(readings)) == 10


def test_contenders_take_turns_with_a_pause_before_each():
    clock, log = FakeTime(), []
    made = {name: FakeContender(clock, 2.0, log, name) for name in "AB"}

    def sleep(seconds):
        log.append(seconds)
        clock.advance(seconds)

    plan = timing.Plan(budget=0.0, min_rounds=2, max_rounds=5, batch=1.0, warm_up=1.0, pause=0.25)
    timings = timing.measure(made, plan, clock=clock, sleep=sleep)
    measured = log[log.index(0.25) :]
    assert measured == [0.25, "A", "A", 0.25, "B", "B"] * 2  # each warms up before it is timed
    assert timings["A"] == timing.Timing((2.0, 2.0), 1)


def test_a_disturbed_count_of_calls_grows_with_the_first_clean_round():
    clock = FakeTime()
    disturbed = FakeContender(clock, 1.0)
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        disturbed.seconds = 0.125

    plan = timing.Plan(budget=0.0, min_rounds=2, max_rounds=2, batch=1.0, warm_up=1.0, pause=0.25)
    timings = timing.measure({"A": disturbed}, plan, clock=clock, sleep=sleep)
    assert timings["A"] == timing.Timing((0.125, 0.125), 8)


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1), (0.02, 1), (0.005, 3), (0.0001, 10)])
def test_warm_up_repeats_fast_calls_only(seconds, calls):
    clock, log = FakeTime(), []
    contender = FakeContender(clock, seconds, log)
    with contender.context():
        timing.warm_up(contender.call, 0.00095, clock)
    assert len(log) == calls


def test_rounds_stop_when_the_budget_is_spent():
    clock = FakeTime()
    plan = timing.Plan(budget=10.0, min_rounds=1, max_rounds=100, batch=0.5, warm_up=0.5, pause=0.0)
    timings = timing.measure({"A": FakeContender(clock, 1.0)}, plan, clock=clock, sleep=clock.advance)
    assert len(timings["A"].seconds) == 5
    plan = timing.Plan(budget=10.0, min_rounds=1, max_rounds=3, batch=0.5, warm_up=0.5, pause=0.0)
    timings = timing.measure({"A": FakeContender(clock, 1.0)}, plan, clock=clock, sleep=clock.advance)
    assert len(timings["A"].seconds) == 3


def test_garbage_collection_is_left_as_it_was():
    def fail():
        states.append(gc.isenabled())
        if len(states) > 20:
            raise RuntimeError

    states = []
    failing = bench.Contender("A", fail)
    with pytest.raises(RuntimeError):
        timing.measure({"A": failing}, timing.Plan(batch=0.0, warm_up=0.0, pause=0.0))
    assert gc.isenabled()
    assert not states[-1]


def test_best_and_median():
    one = timing.Timing((3.0, 1.0, 2.0, 10.0), 1)
    assert (one.best, one.median) == (1.0, 2.5)


# Counters


class FakeCounters:
    """Stands in for the system: `missing` counters cannot be opened; a call counts what it likes."""

    def __init__(self, monkeypatch, missing=()):
        self.values, self.closed, self.missing = {}, [], missing
        monkeypatch.setattr(counters, "_open", self.open)
        monkeypatch.setattr(fcntl, "ioctl", lambda file, request, zero: None)
        monkeypatch.setattr(os, "read", lambda file, size: self.values[file].to_bytes(size, "little"))
        monkeypatch.setattr(os, "close", self.closed.append)

    def open(self, kind, number):
        file = 1000 + number
        self.values[file] = 0
        return None if number in self.missing else file


def test_counts_are_of_the_call(monkeypatch):
    fake = FakeCounters(monkeypatch)
    counted = counters.count(lambda: fake.values.update({1001: 700, 1000: 400}))
    assert counted == {"instructions": 700, "cycles": 400}
    assert sorted(fake.closed) == [1000, 1001]


def test_no_count_where_one_is_missing(monkeypatch):
    fake = FakeCounters(monkeypatch, missing=(0,))
    assert counters.count(lambda: 1 / 0) is None
    assert fake.closed == [1001]


def test_counters_of_this_machine_count_or_say_nothing():
    counted = counters.count(lambda: sum(range(1000)))
    assert counted is None or 0 < counted["cycles"] < 10**9
