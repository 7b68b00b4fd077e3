"""The specification: every result as its formula says, in float64 NumPy.

What the other backends must reproduce. Written for reading, not for speed: it makes full-size temporaries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _dtypes
from .._problem import Array, Problem, State, statistics_shape

Float64 = NDArray[np.float64]


class _Deviations(NamedTuple):
    """What a slice's statistics are made of, all of it but the count divided by ``2**exponent``."""

    counts: Array
    exponent: Array
    mean: Array
    mean_lo: Array
    from_mean: Array  # x - (mean + mean_lo), of x's shape; the others have length 1 on the reduced axes
    m2: Array


def normalize(problem: Problem, want_state: bool) -> State | None:
    """Write ``problem.out`` with the statistics of ``problem.x``; return them if `want_state`."""
    with np.errstate(all="ignore"):
        if problem.addends is not None:
            np.add(*problem.addends, out=problem.x)
        d = _deviations(problem.x.astype(np.float64), problem)
        std = np.sqrt(d.m2 / d.counts + np.ldexp(problem.eps, -2 * d.exponent))
        _write(problem, d.from_mean / std)
        return _state(d) if want_state else None


def apply(problem: Problem, mean: Float64, var: Float64) -> None:
    """Write ``problem.out`` with the given statistics."""
    with np.errstate(all="ignore"):
        # in quarters, so that x - mean does not overflow where the result does not
        scale = np.where(np.abs(mean) > 2.0**960, 0.25, 1.0)
        std = np.sqrt(var + problem.eps)
        _write(problem, (problem.x.astype(np.float64) * scale - mean * scale) / (std * scale))


def moments(x: Array, reduced: tuple[int, ...], mask: Array | None) -> State:
    """Return the statistics of x over the axes `reduced`."""
    with np.errstate(all="ignore"):
        problem = Problem(x, x, reduced, (), None, None, 0.0, mask=mask)
        return _state(_deviations(x.astype(np.longdouble), problem))  # merges add up what rounding loses


def _deviations(x: Array, problem: Problem) -> _Deviations:
    """Take the statistics by the corrected two-pass algorithm, on data brought near 1.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983). The power of two keeps
    squares within the range.
    """
    shape = statistics_shape(x.shape, problem.reduced)
    rows = _rows(x, problem.reduced)
    kept = _rows(np.broadcast_to(True, x.shape) if problem.mask is None else problem.mask, problem.reduced)
    count = kept.sum(axis=-1, keepdims=True, dtype=np.float64)
    divisor = np.maximum(count, 1.0)
    first = np.take_along_axis(rows, kept.argmax(axis=-1)[..., None], axis=-1)
    rows = np.where(kept, rows, first)  # what the mask leaves out becomes as good as any; it counts nothing

    constant = np.all(rows == first, axis=-1, keepdims=True)
    finite = np.isfinite(rows)
    largest = np.max(np.abs(rows), axis=-1, keepdims=True, where=finite, initial=math.sqrt(problem.eps))
    exponent = np.where(constant & problem.centred, 0, np.frexp(largest)[1])
    rows, first = np.ldexp(rows, -exponent), np.ldexp(first, -exponent)

    def total(values: Array) -> Array:  # pairwise along rows, so that its order depends on the shape alone
        sums: Array = np.where(kept, values, 0).sum(axis=-1, keepdims=True)
        return sums

    if problem.centred:
        origin = np.where(
            np.isfinite(first), first, 0
        )  # deviations from it are exactly 0 in a constant slice
        mean = origin + total(rows - origin) / divisor
        mean_lo = np.where(np.isfinite(mean), total(rows - mean) / divisor, 0)
        rows = (rows - mean) - mean_lo
        m2 = np.maximum(total(rows**2) - total(rows) ** 2 / divisor, 0)
    else:
        mean = mean_lo = np.zeros_like(first)
        m2 = total(rows**2)
    return _Deviations(
        count.reshape(shape),
        exponent.reshape(shape),
        mean.reshape(shape),
        mean_lo.reshape(shape),
        _from_rows(rows, x.shape, problem.reduced),
        m2.reshape(shape),
    )


def _write(problem: Problem, normalized: Float64) -> None:
    """Do the affine step and what comes after it, and the one rounding to the type of the result."""
    weight = 1.0 if problem.weight is None else problem.weight.astype(np.float64)
    bias = 0.0 if problem.bias is None else problem.bias.astype(np.float64)
    wide = normalized * weight + bias
    overflow = ~np.isfinite(wide)  # perhaps of the product only: once more, in quarters
    wide = np.where(overflow, 4.0 * (0.25 * normalized * weight + 0.25 * bias), wide)
    y: Array = _activate(wide, problem.activation).astype(_dtypes.COMPUTE[problem.x.dtype])
    y = y if problem.scale is None else _quantize(y, problem)
    problem.out[...] = y if problem.mask is None else np.where(problem.mask, y, 0)


def _activate(y: Float64, activation: str | None) -> Float64:
    if activation == "relu":
        y = np.where(y < 0.0, 0.0, y)
    elif activation == "silu":
        y = y * _logistic(y)
    elif activation == "gelu":
        y = y * _normal_cdf(y)
    elif activation == "gelu_tanh":
        y = y * _logistic(2.0 * math.sqrt(2.0 / math.pi) * (y + 0.044715 * y**3))
    return y


def _logistic(t: Float64) -> Float64:
    e = np.exp(-np.abs(t))
    logistic: Float64 = np.where(t < 0.0, e, 1.0) / (1.0 + e)
    return logistic


def _normal_cdf(y: Float64) -> Float64:
    cdf: Float64 = 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(y * -math.sqrt(0.5))
    return cdf


def _quantize(y: Array, problem: Problem) -> NDArray[np.int8]:
    assert problem.scale is not None
    if not problem.scale_is_given:
        largest = np.max(np.abs(y), axis=problem.reduced, keepdims=True)
        problem.scale[...] = largest / 127
        problem.scale[problem.scale == 0] = 1
    q = np.clip(np.rint(y / problem.scale.astype(y.dtype)), -127, 127)
    return np.where(np.isnan(q), 0, q).astype(np.int8)


def _state(d: _Deviations) -> State:
    mean, mean_lo = (np.ldexp(value, d.exponent) for value in (d.mean, d.mean_lo))
    m2 = np.ldexp(d.m2, 2 * d.exponent)
    mean, mean_lo = _pair(np.where(np.isfinite(mean), mean + mean_lo, mean), (mean, mean_lo))
    return State(d.counts, mean, mean_lo, *_pair(m2, (m2,)))


def _pair(total: Array, terms: tuple[Array, ...]) -> tuple[Float64, Float64]:
    """Split a sum of long doubles into float64 and what that lacks."""
    high = total.astype(np.float64)
    low = sum(terms[1:], terms[0] - high).astype(np.float64)
    return high, np.where(np.isfinite(low), low, 0.0)


def _rows(array: Array, reduced: tuple[int, ...]) -> Array:
    """Bring the reduced axes to the end, as one."""
    kept = array.ndim - len(reduced)
    rows = np.moveaxis(array, reduced, range(kept, array.ndim))
    return np.ascontiguousarray(rows.reshape(*rows.shape[:kept], -1))


def _from_rows(rows: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """Undo `_rows`."""
    kept = [axis for axis in range(len(shape)) if axis not in reduced]
    whole = rows.reshape([shape[axis] for axis in (*kept, *reduced)])
    return np.moveaxis(whole, range(len(kept), len(shape)), reduced)
