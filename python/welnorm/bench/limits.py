"""The physical limit: no normalization is faster than a copy, which reads once and writes once.

`P.copy` is a plain vector copy. Its stores first read the line they write to, so beyond the last-level cache
the better limit is `P.copy_nt`, a copy with non-temporal stores. Both are timed in turn with the contenders.

But no result can be written before all that its statistics are made of is read, and then it is read again:
`P.read_copy` and `P.read_copy_nt` read all of it, do nothing with it, and then copy it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import welnorm as wn

from .contenders import Contender, Missing

LIMITS = ("P.copy", "P.copy_nt")
#: Only made where they are asked for.
LIMITS_OF_TWO_SWEEPS = ("P.read_copy", "P.read_copy_nt")

#: Below this many bytes, waking a second Python thread costs more than it gives.
_WORTH_THREADS = 1 << 20

#: Bytes of a cache line.
_LINE = 64

Array = npt.NDArray[Any]
NativeCopy = Callable[[Array, Array, bool, int], object]


def native_copy() -> NativeCopy | None:
    """Return the extension's copy `(dst, src, nontemporal, read_first)`, None where there is no extension."""
    try:
        from welnorm._c import copy
    except ImportError:
        return None
    return copy  # type: ignore[no-any-return, unused-ignore]


def make_limits(
    x: Array, threads: int, native: NativeCopy | None, read_first: int = 0
) -> list[Contender | Missing]:
    """Make the copies of `x` into a warm array.

    Parameters
    ----------
    x : ndarray
        A contiguous array.
    threads : int
        Threads of the fallback; the extension uses welnorm's setting.
    native : callable or None
        What `native_copy` returned.
    read_first : int
        Elements that `P.read_copy` and `P.read_copy_nt` read before they copy them; 0: without these two.

    Returns
    -------
    list of Contender or Missing
        `P.copy`, `P.copy_nt` and, with `read_first`, those two.
    """
    out = wn.aligned_empty(x.shape, x.dtype)  # as ours are
    names = LIMITS + (LIMITS_OF_TWO_SWEEPS if read_first else ())
    if native is None:
        note = "by np.copyto, there is no extension here"
        return [
            Contender("P.copy", _numpy_copy(out, x, threads), note=note),
            *(Missing(name, "needs welnorm's extension") for name in names[1:]),
        ]
    lines = -(-read_first * x.itemsize // _LINE)
    return [
        Contender(name, partial(native, out, x, name.endswith("_nt"), lines * _LINE if "read" in name else 0))
        for name in names
    ]


def _numpy_copy(out: Array, x: Array, threads: int) -> Callable[[], object]:
    """Copy with NumPy, each thread its share: `np.copyto` releases the GIL."""
    if threads == 1 or x.nbytes < _WORTH_THREADS:
        return lambda: np.copyto(out, x)
    to, source = (np.array_split(array.reshape(-1), threads) for array in (out, x))
    parts = list(zip(to, source, strict=True))
    pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="copy")

    def call() -> None:
        others = [pool.submit(np.copyto, *part) for part in parts[1:]]
        np.copyto(*parts[0])
        for other in others:
            other.result()

    return call
