"""The right answer, in float64 NumPy: nothing is timed before its result was compared with this."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .cases import EPS

if TYPE_CHECKING:
    import numpy.typing as npt

    from .cases import Arrays, Case

#: Largest absolute error by item size: results are of order 1, so more than this is not rounding.
_GROSS_ERROR = {2: 5e-2, 4: 1e-3, 8: 1e-9}

#: Larger arrays are checked on a part of this many elements, spread evenly.
_CHECKED_ELEMENTS = 1 << 21


class WrongResultError(RuntimeError):
    """A contender computes something else."""


class Reference:
    """The expected values of a case on the positions that are checked."""

    def __init__(self, case: Case, arrays: Arrays) -> None:
        # What is normalised together must be taken whole: rows are independent, or channels are.
        self._axis = 0 if case.op == "layer_norm" else case.axis
        length = case.shape[self._axis]
        keep = min(length, max(1, length * _CHECKED_ELEMENTS // max(1, math.prod(case.shape))))
        self._positions = np.unique(np.linspace(0, length - 1, keep).astype(np.intp))
        self._expected = _normalize(case, arrays, self._axis, self._positions)
        self._shape = case.shape
        self._tolerance = _GROSS_ERROR[np.dtype(case.dtype).itemsize]

    def error(self, result: Any) -> float:
        """Return the largest absolute error of `result`, an array or tensor.

        Raises
        ------
        WrongResultError
            If the shape is wrong or the error is beyond rounding.
        """
        values = np.asarray(result)
        if values.shape != self._shape:
            raise WrongResultError(f"result has shape {values.shape}, expected {self._shape}")
        checked = values.take(self._positions, axis=self._axis).astype(np.float64)
        error = float(np.max(np.abs(checked - self._expected)))
        if not error <= self._tolerance:
            raise WrongResultError(f"largest absolute error {error:.2g}, allowed {self._tolerance:.2g}")
        return error


def _normalize(
    case: Case, arrays: Arrays, axis: int, positions: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    x = arrays.x.take(positions, axis=axis).astype(np.float64)
    if case.op == "layer_norm":
        mean = x.mean(axis=-1, keepdims=True)
        var = x.var(axis=-1, keepdims=True)
        weight, bias = (p.astype(np.float64) for p in (arrays.weight, arrays.bias))
    else:
        along_channels = [1] * x.ndim
        along_channels[axis] = -1
        weight, bias, mean, var = (
            p[positions].astype(np.float64).reshape(along_channels)
            for p in (arrays.weight, arrays.bias, arrays.running_mean, arrays.running_var)
        )
        if case.op == "batch_norm_training":
            others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
            mean = x.mean(axis=others, keepdims=True)
            var = x.var(axis=others, keepdims=True)
    y: npt.NDArray[np.float64] = (x - mean) / np.sqrt(var + EPS) * weight + bias
    return y
