"""The right answer, in float64 NumPy: nothing is timed before its result was compared with this."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .cases import ADDS, GROUPS, MOVES

if TYPE_CHECKING:
    import numpy.typing as npt

    from .cases import Arrays, Case

    Float64 = npt.NDArray[np.float64]

#: Largest absolute error by item size: results are of order 1, so more than this is not rounding.
_GROSS_ERROR = {2: 5e-2, 4: 1e-3, 8: 1e-9}

#: Larger arrays are checked on a part of this many elements, spread evenly.
_CHECKED_ELEMENTS = 1 << 21


class WrongResultError(RuntimeError):
    """A contender computes something else."""


class Reference:
    """The expected values of a case on the positions that are checked."""

    def __init__(self, case: Case, arrays: Arrays) -> None:
        self._case = case
        x = channels_first(arrays.x, case.layout)
        # What is normalised together must be taken whole: samples are independent, or channels are.
        self._axis = 1 if case.norm.startswith("batch_norm") else 0
        length = x.shape[self._axis]
        keep = min(length, max(1, length * _CHECKED_ELEMENTS // max(1, x.size)))
        self._positions = np.unique(np.linspace(0, length - 1, keep).astype(np.intp))
        self._expected = _expected(case, arrays, self._take)
        self._tolerance = _GROSS_ERROR[arrays.x.dtype.itemsize]

    def error(self, *results: Any) -> float:
        """Return the largest absolute error of the results, arrays or tensors.

        Raises
        ------
        WrongResultError
            If their number or a shape is wrong, or the error is beyond rounding.
        """
        if len(results) != len(self._expected):
            raise WrongResultError(f"{len(results)} results, expected {len(self._expected)}")
        return max(map(self._error, results, self._expected))

    def _error(self, result: Any, expected: Float64) -> float:
        values, shape = np.asarray(result), self._case.result_shape
        if values.shape != shape:
            raise WrongResultError(f"result has shape {values.shape}, expected {shape}")
        checked = self._take(channels_first(values, self._case.result_layout))
        error = float(np.max(np.abs(checked - expected)))
        if not error <= self._tolerance:
            raise WrongResultError(f"largest absolute error {error:.2g}, allowed {self._tolerance:.2g}")
        return error

    def _take(self, values: npt.NDArray[Any]) -> Float64:
        return values.take(self._positions, axis=self._axis).astype(np.float64)


def channels_first(values: npt.NDArray[Any], layout: str) -> npt.NDArray[Any]:
    """Return an array of any layout as (N, C, S); rows of n elements are (rows, n, 1)."""
    if layout == "nhwc":
        values = np.moveaxis(values, -1, 1)
    elif layout == "nchw16c":
        values = np.moveaxis(values, -1, 2)
        values = values.reshape(values.shape[0], values.shape[1] * values.shape[2], *values.shape[3:])
    return values.reshape(*values.shape[:2], -1)


def _expected(case: Case, arrays: Arrays, take: Any) -> tuple[Float64, ...]:
    """Return the results on what `take` takes of (N, C, S) arrays."""
    x = take(channels_first(arrays.x, case.layout))
    if case.op in MOVES:
        return (x,)
    if case.op in ADDS:
        x = x + take(channels_first(arrays.residual, case.layout))

    parameters = (arrays.weight, arrays.bias, arrays.running_mean, arrays.running_var)
    if case.norm.startswith("batch_norm"):
        weight, bias, mean, var = (take(p.reshape(1, -1, 1)) for p in parameters)
    else:
        weight, bias, mean, var = (p.astype(np.float64).reshape(1, -1, 1) for p in parameters)
    if case.norm in ("rms_norm", "add_rms_norm"):
        mean, bias = np.float64(0), np.float64(0)
        var = np.mean(x * x, axis=(1, 2), keepdims=True)
    elif case.norm != "batch_norm_inference":
        mean, var = _moments(case.norm, x)
    y = (x - mean) / np.sqrt(var + case.eps) * weight + bias
    y = _activate(y, case.activation)
    return (y, x) if case.op in ADDS else (y,)


def _moments(norm: str, x: Float64) -> tuple[Float64, Float64]:
    """Return mean and variance, broadcastable to x of (N, C, S)."""
    if norm == "group_norm":
        groups = x.reshape(x.shape[0], GROUPS, -1)
        repeat = x.shape[1] // GROUPS
        return tuple(  # type: ignore[return-value]
            np.repeat(moment, repeat, axis=1)[:, :, None] for moment in (groups.mean(-1), groups.var(-1))
        )
    axes = {"batch_norm_training": (0, 2), "instance_norm": (2,)}.get(norm, (1, 2))
    return x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)


def _activate(y: Float64, activation: str | None) -> Float64:
    if activation == "relu":
        return np.maximum(y, 0.0)
    if activation == "gelu":
        # math.erf an element: slow, but it is everywhere, and a part of a large array is enough.
        erf = np.array([math.erf(value) for value in (y / math.sqrt(2.0)).ravel().tolist()])
        y = y * 0.5 * (1.0 + erf.reshape(y.shape))
    return y
