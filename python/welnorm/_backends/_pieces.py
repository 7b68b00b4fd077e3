"""Results in int8 from a backend that has none: a piece of y at a time, then its quantization by NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import _dtypes
from .._problem import Array, Problem, State

_PIECE_BYTES = 1 << 18  # of x: with y it stays in L2
_LINE = 16  # elements along the last axis of x, if it is cut: less would leave cache lines half used


def quantize_in_pieces(problem: Problem, normalize: Callable[[Problem, bool], State | None]) -> None:
    """Write the int8 result, and the scale if it is not given, by way of the backend's own `normalize`.

    Such a problem has neither addends, nor a mask, nor an activation; weight and bias vary along reduced axes
    only. Pieces are cut along the axes that are kept, so each holds whole statistics, and the bits of y are
    those of the whole.
    """
    assert problem.scale is not None
    lengths = _piece_lengths(problem)
    scratch = np.empty(math.prod(lengths), _dtypes.COMPUTE[problem.x.dtype])
    for index in _pieces(problem.x.shape, lengths):
        x = problem.x[index]
        y = scratch[: x.size].reshape(x.shape)
        normalize(problem._replace(x=x, out=y, scale=None), False)
        scale = problem.scale[
            tuple(s if n > 1 else slice(1) for s, n in zip(index, problem.scale.shape, strict=True))
        ]
        with np.errstate(all="ignore"):
            if not problem.scale_is_given:
                _choose_scale(y, problem.reduced, scale)
            _quantize(y, scale, problem.out[index])


def _choose_scale(y: Array, reduced: tuple[int, ...], scale: Array) -> None:
    scale[...] = np.max(np.abs(y), axis=reduced, keepdims=True) / 127
    scale[scale == 0] = 1


def _quantize(y: Array, scale: Array, out: Array) -> None:
    """Write ``clip(rint(y / scale), -127, 127)``, or 0 for NaN; y is used up."""
    y /= scale.astype(y.dtype)
    np.rint(y, out=y)
    np.clip(y, -127, 127, out=y)
    y[np.isnan(y)] = 0
    out[...] = y


def _piece_lengths(problem: Problem) -> list[int]:
    """Return the length of a piece along each axis of x: the first ones that are kept are cut first."""
    x = problem.x
    lengths = list(x.shape)
    for axis in range(x.ndim):
        if axis not in problem.reduced:
            rest = math.prod(lengths) // lengths[axis] * x.itemsize
            least = _LINE if axis == x.ndim - 1 else 1
            lengths[axis] = min(lengths[axis], max(least, _PIECE_BYTES // rest))
    return lengths


def _pieces(shape: tuple[int, ...], lengths: list[int]) -> Iterator[tuple[slice, ...]]:
    cuts: list[list[Any]] = [
        [slice(begin, begin + length) for begin in range(0, whole, length)]
        for whole, length in zip(shape, lengths, strict=True)
    ]
    return itertools.product(*cuts)
