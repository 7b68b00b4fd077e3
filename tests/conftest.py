"""Fixtures: every backend, every instruction set, every dtype; and the hypothesis profiles."""

import os

import numpy as np
import pytest
import welnorm as wn
from cases import DTYPES, ENGINES
from hypothesis import HealthCheck, settings

# The fixtures below pick what runs, they hold no state that one example could leave to the next.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_common)
settings.register_profile("dev", max_examples=60, **_common)
settings.register_profile("fuzz", max_examples=20_000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def _use(name):
    """Use a backend, or an instruction set of the backend c, for the rest of a fixture; yields its name."""
    backend, _, isa = name.partition("-")
    with wn.backend(backend):
        if not isa:
            yield name
            return
        from welnorm import _c

        before = _c.selected_isa()
        assert _c.select_isa(isa)
        yield isa
        _c.select_isa(before)


@pytest.fixture(params=wn.available_backends())
def backend(request):
    """Each backend, in use for the test; its name."""
    yield from _use(request.param)


@pytest.fixture(params=[name for name in ENGINES if name.startswith("c-")])
def isa(request):
    """Each instruction set that this CPU can run, in use for the test in the backend c; its name."""
    yield from _use(request.param)


@pytest.fixture(params=ENGINES)
def engine(request):
    """Everything that computes: each instruction set of the backend c, and each other backend."""
    yield from _use(request.param)


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request):
    """Each dtype of data."""
    return request.param


@pytest.fixture
def rng():
    """The same random numbers in every run."""
    return np.random.default_rng(20240607)
