"""How many threads a call may use. The compiled core keeps the setting; without it, this module does."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._isa import extension as _extension

_process = 0  # 0: no limit
_MOST = 2**31 - 1
_local = threading.local()


def _whole(digits: str) -> int:
    """The number they stand for, or the largest limit: Python refuses to convert thousands of digits."""
    return _MOST if len(digits.strip().lstrip("0")) > 9 else int(digits)


def _check(n: Any, name: str) -> int:
    try:
        value = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {n!r}") from None
    if not 1 <= value <= _MOST:
        raise ValueError(f"{name} must be at least 1 and less than 2**31, got {n!r}")
    return value


def set_num_threads(n: int) -> None:
    """Limit the threads of every later call, in every thread of the process.

    Fewer are used where the work is too small to pay, and never more than the CPU affinity, the cgroup's
    CPU quota, ``OMP_NUM_THREADS`` and threadpoolctl allow. Results do not depend on it: they have the same
    bits on any number of threads.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If it is less than 1.

    Examples
    --------
    >>> import welnorm as wn
    >>> before = wn.get_num_threads()
    >>> wn.set_num_threads(1)
    >>> wn.get_num_threads()
    1
    >>> wn.set_num_threads(before)
    """
    global _process
    _process = _check(n, "n")
    if _extension is not None:
        _extension.set_num_threads(_process)


def get_num_threads() -> int:
    """Threads that a call from the calling thread may use now, all limits considered.

    Returns
    -------
    int

    Examples
    --------
    >>> import welnorm as wn
    >>> wn.get_num_threads() >= 1
    True
    """
    if _extension is not None:
        return int(_extension.max_threads())
    limit = getattr(_local, "limit", 0) or _process
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    openmp = os.environ.get("OMP_NUM_THREADS", "").strip()
    limits = [limit, _whole(openmp) if openmp.isdecimal() else 0]
    return min([cpus, *(n for n in limits if n > 0)])


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Limit the threads of calls from the calling thread inside a ``with`` block.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        As `set_num_threads`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> with wn.num_threads(1):
    ...     y = wn.layer_norm(np.arange(4.0))
    """
    limit = _check(n, "n")
    before = getattr(_local, "limit", 0)
    _set_local(limit)
    try:
        yield
    finally:
        _set_local(before)


def _set_local(limit: int) -> None:
    _local.limit = limit
    if _extension is not None:
        _extension.set_thread_num_threads(limit)


def _initialise() -> None:
    wanted = os.environ.get("WELNORM_NUM_THREADS", "")
    if not wanted:
        return
    name = "the environment variable WELNORM_NUM_THREADS"
    if not wanted.strip().isdecimal():
        raise ValueError(f"{name} is {wanted!r}, but must be an integer of at least 1")
    set_num_threads(_check(_whole(wanted), name))


_initialise()
