"""The specification: every result as its formula says, in float64 NumPy.

What the other backends must reproduce. Written for reading, not for speed: it makes full-size temporaries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._problem import Array, Problem, State, statistics_shape

Float64 = NDArray[np.float64]


class _Deviations(NamedTuple):
    """What a slice's statistics are made of, all of it divided by ``2**exponent``."""

    exponent: NDArray[np.int32]
    mean: Float64
    mean_lo: Float64
    from_mean: Float64  # x - (mean + mean_lo)
    m2: Float64


def normalize(problem: Problem, want_state: bool) -> State | None:
    """Write ``problem.out`` with the statistics of ``problem.x``; return them if `want_state`."""
    with np.errstate(all="ignore"):
        d = _deviations(problem.x, problem.reduced, problem.eps)
        count = _count(problem.x, problem.reduced)
        std = np.sqrt(d.m2 / count + np.ldexp(problem.eps, -2 * d.exponent))
        _write(problem, d.from_mean / std)
        return _state(d, count) if want_state else None


def apply(problem: Problem, mean: Float64, var: Float64) -> None:
    """Write ``problem.out`` with the given statistics."""
    with np.errstate(all="ignore"):
        # in quarters, so that x - mean does not overflow where the result does not
        scale = np.where(np.abs(mean) > 2.0**960, 0.25, 1.0)
        std = np.sqrt(var + problem.eps)
        _write(problem, (problem.x * scale - mean * scale) / (std * scale))


def moments(x: Array, reduced: tuple[int, ...]) -> State:
    """Return the statistics of x over the axes `reduced`."""
    with np.errstate(all="ignore"):
        return _state(_deviations(x, reduced, 0.0), _count(x, reduced))


def _deviations(x: Array, reduced: tuple[int, ...], eps: float) -> _Deviations:
    """Take the statistics by the corrected two-pass algorithm, on data brought near 1.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983). The power of two keeps
    squares within the range.
    """
    count = _count(x, reduced)
    x = x.astype(np.float64)
    first = x[tuple(slice(0, 1) if axis in reduced else slice(None) for axis in range(x.ndim))]
    constant = np.all(x == first, axis=reduced, keepdims=True)
    largest = np.max(np.abs(x), axis=reduced, keepdims=True, where=np.isfinite(x), initial=np.sqrt(eps))
    exponent = np.where(constant, 0, np.frexp(largest)[1])
    x, first = np.ldexp(x, -exponent), np.ldexp(first, -exponent)

    origin = np.where(np.isfinite(first), first, 0.0)  # deviations from it are exactly 0 in a constant slice
    mean = origin + _sum(x - origin, reduced) / count
    mean_lo = np.where(np.isfinite(mean), _sum(x - mean, reduced) / count, 0.0)
    from_mean = (x - mean) - mean_lo
    m2 = _sum(from_mean**2, reduced) - _sum(from_mean, reduced) ** 2 / count
    return _Deviations(exponent, mean, mean_lo, from_mean, np.maximum(m2, 0.0))


def _write(problem: Problem, normalized: Float64) -> None:
    """Do the affine step, and the one rounding to the type of the result."""
    weight = 1.0 if problem.weight is None else problem.weight.astype(np.float64)
    bias = 0.0 if problem.bias is None else problem.bias.astype(np.float64)
    y = normalized * weight + bias
    overflow = ~np.isfinite(y)  # perhaps of the product only: once more, in quarters
    problem.out[...] = np.where(overflow, 4.0 * (0.25 * normalized * weight + 0.25 * bias), y)


def _state(d: _Deviations, count: int) -> State:
    mean, mean_lo = np.ldexp(d.mean, d.exponent), np.ldexp(d.mean_lo, d.exponent)
    return State(float(count), mean, mean_lo, np.ldexp(d.m2, 2 * d.exponent))


def _count(x: Array, reduced: tuple[int, ...]) -> int:
    return int(np.prod([x.shape[axis] for axis in reduced], dtype=np.int64))


def _sum(x: NDArray[Any], reduced: tuple[int, ...]) -> Float64:
    """Sum with length 1 on `reduced`, pairwise along rows, so that its order depends on the shape alone."""
    kept = x.ndim - len(reduced)
    rows = np.moveaxis(x, reduced, range(kept, x.ndim))
    rows = np.ascontiguousarray(rows.reshape(*rows.shape[:kept], -1))
    total: Float64 = rows.sum(axis=-1).reshape(statistics_shape(x.shape, reduced))
    return total
