"""Backends: which one is in use, and why.

A backend is a module with three functions over a `Problem` that is not empty and whose `out` is x itself or
shares no memory with any input:

``normalize(problem, want_state) -> State | None``
    Write ``problem.out`` with the statistics of ``problem.x``; return them if `want_state`.
``apply(problem, mean, var) -> None``
    Write ``problem.out`` with the given statistics, float64 arrays of ``problem.statistics_shape``. Such a
    problem is centred and has neither addends nor a scale.
``moments(x, reduced, mask) -> State``
    The statistics of x over the axes `reduced`, lengths not 0, of what `mask` (or None) selects: as pairs,
    precise enough that merging them in any grouping agrees to 2 ULP of float64.

Statistics of nothing (all of it masked) are 0, with count 0.

``c`` is the compiled one, ``numba`` its stand-in where there is no extension, ``reference`` the readable
specification in float64 NumPy.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from .. import _isa
from .._problem import Array, Problem, overlaps_inputs

NAMES = ("c", "numba", "reference")

_local = threading.local()
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # or a child could find it taken, by a thread it has not got
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_reason = ""
_current = ""


def _extension_error() -> str | None:
    """Why the compiled backend cannot be used, or None if it can."""
    return "the compiled extension is not installed" if _isa.extension is None else None


@functools.cache
def _numba_error() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'welnorm[numba]')"
    return None


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can be used here, fastest first.

    Returns
    -------
    tuple of str
        Some of ``"c"``, ``"numba"`` and ``"reference"``; the last is always there.

    Examples
    --------
    >>> import welnorm as wn
    >>> "reference" in wn.available_backends()
    True
    """
    errors = {"c": _extension_error(), "numba": _numba_error(), "reference": None}
    return tuple(name for name in NAMES if errors[name] is None)


def _check_name(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source} is {name!r}, but must be one of {', '.join(NAMES)}")
    if name not in available_backends():
        error = _extension_error() if name == "c" else _numba_error()
        usable = ", ".join(available_backends())
        raise ValueError(f"{source} is {name!r}, but {error}; available here: {usable}")
    return name


@functools.cache
def module(name: str) -> ModuleType:
    """The backend's module, imported when first asked for."""
    return importlib.import_module(f"{__name__}.{name}")


def active() -> ModuleType:
    """The module of the backend in use for the calling thread."""
    return module(get_backend())


def normalize(problem: Problem, want_state: bool = False) -> Any:
    """Normalise with the data's own statistics and return their state if asked for; None if x is empty."""
    if problem.x.size:
        return _write(problem, lambda p: active().normalize(p, want_state))
    return None


def apply(problem: Problem, mean: Array, var: Array) -> None:
    """Normalise with the given statistics."""
    if problem.x.size:
        _write(problem, lambda p: active().apply(p, mean, var))


def _write(problem: Problem, action: Callable[[Problem], Any]) -> Any:
    """Run action on the problem, by way of a temporary where `out` overlaps an input."""
    if not overlaps_inputs(problem):
        return action(problem)
    apart = problem._replace(out=np.empty(problem.x.shape, problem.out.dtype))
    result = action(apart)
    problem.out[...] = apart.out
    return result


def get_backend() -> str:
    """Name of the backend in use for the calling thread.

    Returns
    -------
    str

    Examples
    --------
    >>> import welnorm as wn
    >>> with wn.backend("reference"):
    ...     wn.get_backend()
    'reference'
    """
    return getattr(_local, "name", None) or _current


def reason() -> str:
    """Why the process's backend is the one in use, in words."""
    return _reason


def set_backend(name: str) -> None:
    """Use a backend from now on, in every thread of the process.

    Parameters
    ----------
    name : {"c", "numba", "reference"}

    Raises
    ------
    ValueError
        If there is no such backend or it cannot be used here; the message lists those that can.

    Examples
    --------
    >>> import welnorm as wn
    >>> before = wn.get_backend()
    >>> wn.set_backend("reference")
    >>> wn.set_backend(before)
    """
    global _current, _reason
    _check_name(name, "name")
    with _lock:
        _current, _reason = name, "set_backend()"
        _update_fast_lane()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use a backend inside a ``with`` block, in the calling thread only.

    Parameters
    ----------
    name : {"c", "numba", "reference"}

    Raises
    ------
    ValueError
        If there is no such backend or it cannot be used here.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> with wn.backend("reference"):
    ...     y = wn.layer_norm(np.arange(4.0))
    """
    global _overrides
    _check_name(name, "name")
    before = getattr(_local, "name", None)
    with _lock:
        _overrides += 1
        _update_fast_lane()
    _local.name = name
    try:
        yield
    finally:
        _local.name = before
        with _lock:
            _overrides -= 1
            _update_fast_lane()


_overrides = 0  # threads now inside a `with backend(...)` block, each as often as it entered one


def _update_fast_lane() -> None:
    """The fast lane is the compiled backend's: open while no thread has asked for another one."""
    if _extension_error() is None:
        module("c").set_fast_lane(_current == "c" and _overrides == 0)


def _initialise() -> None:
    global _current, _reason
    wanted = os.environ.get("WELNORM_BACKEND", "")
    if wanted:
        _current = _check_name(wanted, "the environment variable WELNORM_BACKEND")
        _reason = "the environment variable WELNORM_BACKEND"
    else:
        _current = available_backends()[0]
        error = _extension_error()
        _reason = "the default" if error is None else error
    _update_fast_lane()


_initialise()
