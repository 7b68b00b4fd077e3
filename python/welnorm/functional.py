"""Norms of a sample over some of its axes: layer and RMS normalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _backends, _dtypes
from ._fast_lane import fast_layer_norm, fast_rms_norm
from ._problem import Array, check_axes, check_number, check_out, make_problem

__all__ = ["layer_norm", "rms_norm"]


@fast_layer_norm
def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    activation: str | None = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Layer normalization: each sample over the given axes.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with mean and population variance (ddof 0) over
    `axis`. float32 results are within 4 ULP at any offset of the data, a constant row gives exactly `bias`,
    and the bits depend neither on the number of threads nor on the batch a row sits in.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64, any strides; bool and integers are promoted to float64. 16-bit
        data is computed in float32 and rounded once.
    weight, bias : array_like, optional
        Scale and shift, of x's shape over `axis` (in ascending order of axis). Another float dtype is
        converted to x's.
    axis : int or tuple of int, default -1
        The axes to normalise over. ``axis=1`` on (N, C, H, W) is the layer norm over channels of ConvNeXt.
    eps : float, default 1e-5
        Added to the variance; finite, not negative.
    activation : {None, "relu", "silu", "gelu", "gelu_tanh"}, optional
        Applied to the result in the same pass over memory.
    out : ndarray, optional
        Where to write: x's shape and dtype (or `dtype`), any strides. ``out=x`` works in place.
    dtype : dtype, optional
        The result's dtype, one of the four float types; x's if not given.

    Returns
    -------
    ndarray
        A new array of x's shape, or `out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape, `eps` or `activation` does not fit, or `out` cannot be written to.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    Statistics: T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The
    American Statistician 37 (1983).

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> wn.layer_norm([2.0, 4.0, 6.0, 8.0]).round(2)
    array([-1.34, -0.45,  0.45,  1.34])
    """
    array = _dtypes.as_float_array(x, "x")
    axes = check_axes(axis, array.ndim)
    problem = make_problem(
        array,
        weight,
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=check_out(out, array, dtype),
        activation=activation,
    )
    _backends.normalize(problem)
    return problem.out


@fast_rms_norm
def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    activation: str | None = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Root mean square normalization: each sample over the given axes, its mean left where it is.

    ``y = x / sqrt(mean(x**2) + eps) * (weight + weight_offset) + bias``.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64, any strides; bool and integers are promoted to float64. 16-bit
        data is computed in float32 and rounded once.
    weight, bias : array_like, optional
        Scale and shift, of x's shape over `axis` (in ascending order of axis). Another float dtype is
        converted to x's.
    axis : int or tuple of int, default -1
        The axes to normalise over.
    eps : float, default 1e-6
        Added to the mean of squares; finite, not negative.
    weight_offset : float, default 0.0
        Added to `weight`: 1.0 for Gemma's parameters. Without `weight` it has no effect.
    activation : {None, "relu", "silu", "gelu", "gelu_tanh"}, optional
        Applied to the result in the same pass over memory.
    out : ndarray, optional
        Where to write: x's shape and dtype (or `dtype`), any strides. ``out=x`` works in place.
    dtype : dtype, optional
        The result's dtype, one of the four float types; x's if not given.

    Returns
    -------
    ndarray
        A new array of x's shape, or `out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape, `eps`, `weight_offset` or `activation` does not fit, or `out` cannot be written to.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> wn.rms_norm([3.0, 4.0]).round(3)
    array([0.849, 1.131])
    """
    array = _dtypes.as_float_array(x, "x")
    axes = check_axes(axis, array.ndim)
    problem = make_problem(
        array,
        with_offset(weight, weight_offset, array.dtype),
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=check_out(out, array, dtype),
        centred=False,
        activation=activation,
    )
    _backends.normalize(problem)
    return problem.out


def check_weight_offset(offset: Any) -> float:
    """weight_offset as a finite float."""
    value = check_number(offset, "weight_offset")
    if not math.isfinite(value):
        raise ValueError(f"weight_offset must be finite, got {offset!r}")
    return value


def with_offset(weight: ArrayLike | None, offset: Any, dtype: np.dtype[Any]) -> ArrayLike | None:
    """Weight plus offset, in the compute type of dtype."""
    value, compute = check_weight_offset(offset), _dtypes.COMPUTE[dtype]
    if weight is None or value == 0.0:
        return weight
    with np.errstate(all="ignore"):
        if not np.isfinite(compute.type(value)):
            raise ValueError(f"weight_offset must be finite in {compute}, got {offset!r}")
        total: Array = _dtypes.as_float_array(weight, "weight").astype(compute) + compute.type(value)
    return total
