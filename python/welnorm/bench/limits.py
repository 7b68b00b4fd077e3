"""The physical limit: no normalization is faster than a copy, which reads once and writes once.

`P.copy` is a plain vector copy. Its stores first read the line they write to, so beyond the last-level cache
the better limit is `P.copy_nt`, a copy with non-temporal stores. Both are timed in turn with the contenders.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .contenders import Contender, Missing

LIMITS = ("P.copy", "P.copy_nt")

#: Below this many bytes, waking a second Python thread costs more than it gives.
_WORTH_THREADS = 1 << 20

Array = npt.NDArray[Any]
NativeCopy = Callable[[Array, Array, bool], object]


def native_copy() -> NativeCopy | None:
    """Return the extension's copy `(dst, src, nontemporal)`, or None where welnorm has no extension."""
    try:
        from welnorm._c import copy
    except ImportError:
        return None
    return copy  # type: ignore[no-any-return, unused-ignore]


def make_limits(x: Array, threads: int, native: NativeCopy | None) -> list[Contender | Missing]:
    """Make the two copies of `x` into a warm array.

    Parameters
    ----------
    x : ndarray
        A contiguous array.
    threads : int
        Threads of the fallback; the extension uses welnorm's setting.
    native : callable or None
        What `native_copy` returned.

    Returns
    -------
    list of Contender or Missing
        `P.copy` and `P.copy_nt`.
    """
    out = np.empty_like(x)
    if native is None:
        return [
            Contender(
                "P.copy", _numpy_copy(out, x, threads), note="by np.copyto, there is no extension here"
            ),
            Missing("P.copy_nt", "needs welnorm's extension"),
        ]
    return [
        Contender("P.copy", lambda: native(out, x, False)),
        Contender("P.copy_nt", lambda: native(out, x, True)),
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
