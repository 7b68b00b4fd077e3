"""Layer and RMS norm together with what stands before or after them: a residual addition, int8."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _backends, _dtypes
from ._fast_lane import add_norm_rows
from ._problem import (
    Array,
    check_axes,
    check_out,
    make_problem,
    same_memory,
    share_memory,
    statistics_shape,
)
from .functional import with_offset

__all__ = ["add_layer_norm", "add_rms_norm", "layer_norm_int8", "rms_norm_int8"]


def add_layer_norm(
    x: ArrayLike,
    residual: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    out: Array | None = None,
    sum_out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Array]:
    """Residual addition and layer normalization in one pass over memory.

    The same bits as ``h = x + residual; y = layer_norm(h, weight, bias)``.

    Parameters
    ----------
    x : array_like
        As in `layer_norm`.
    residual : array_like
        Of x's shape and dtype.
    weight, bias, axis, eps, dtype
        As in `layer_norm`.
    out : ndarray, optional
        Where to write y: x's shape and dtype (or `dtype`), any strides. It may be x.
    sum_out : ndarray, optional
        Where to write h: x's shape and dtype, any strides. ``sum_out=residual`` updates the residual stream
        in place. It shares no memory with `out`.

    Returns
    -------
    y, h : ndarray
        The normalised sum and the sum, new arrays or `out` and `sum_out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype, or x and residual have different ones.
    ValueError
        If a shape or `eps` does not fit, an output cannot be written to, or both share memory.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    See `layer_norm`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> y, h = wn.add_layer_norm([1.0, 1.0, 3.0, 3.0], [1.0, 3.0, 3.0, 5.0])
    >>> h, y.round(2)
    (array([2., 4., 6., 8.]), array([-1.34, -0.45,  0.45,  1.34]))
    """
    pair = add_norm_rows(x, residual, weight, bias, axis, eps, out, sum_out, dtype, True)
    if pair is not None:
        return pair
    return _add_norm(x, residual, weight, bias, axis, eps, out, sum_out, dtype, centred=True)


def add_rms_norm(
    x: ArrayLike,
    residual: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    out: Array | None = None,
    sum_out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Array]:
    """Residual addition and RMS normalization in one pass over memory.

    The same bits as ``h = x + residual; y = rms_norm(h, weight, bias)``.

    Parameters
    ----------
    x : array_like
        As in `rms_norm`.
    residual : array_like
        Of x's shape and dtype.
    weight, bias, axis, eps, weight_offset, dtype
        As in `rms_norm`.
    out : ndarray, optional
        Where to write y: x's shape and dtype (or `dtype`), any strides. It may be x.
    sum_out : ndarray, optional
        Where to write h: x's shape and dtype, any strides. ``sum_out=residual`` updates the residual stream
        in place. It shares no memory with `out`.

    Returns
    -------
    y, h : ndarray
        The normalised sum and the sum, new arrays or `out` and `sum_out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype, or x and residual have different ones.
    ValueError
        If a shape, `eps` or `weight_offset` does not fit, an output cannot be written to, or both share
        memory.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    See `rms_norm`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> residual = np.array([1.0, 2.0])
    >>> y, h = wn.add_rms_norm([2.0, 2.0], residual, sum_out=residual)
    >>> h is residual, residual, y.round(3)
    (True, array([3., 4.]), array([0.849, 1.131]))
    """
    if isinstance(weight_offset, float) and weight_offset == 0.0:
        pair = add_norm_rows(x, residual, weight, bias, axis, eps, out, sum_out, dtype, False)
        if pair is not None:
            return pair
    return _add_norm(x, residual, weight, bias, axis, eps, out, sum_out, dtype, False, weight_offset)


def _add_norm(
    x: Any, residual: Any, weight: Any, bias: Any, axis: Any, eps: Any, out: Any, sum_out: Any, dtype: Any,
    centred: bool, weight_offset: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    a, b = _dtypes.as_float_array(x, "x"), _dtypes.as_float_array(residual, "residual")
    if b.shape != a.shape:
        raise ValueError(f"residual has shape {b.shape}, but must have x's shape {a.shape}")
    if b.dtype != a.dtype:
        raise TypeError(f"residual has dtype {b.dtype}, but must have x's dtype {a.dtype}")
    axes = check_axes(axis, a.ndim)
    h = check_out(sum_out, a, None, "sum_out")
    problem = make_problem(
        h,
        with_offset(weight, weight_offset, a.dtype),
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=check_out(out, a, dtype),
        centred=centred,
    )
    if share_memory(h, problem.out):
        raise ValueError("out shares memory with sum_out, but both results need their own")
    for name, value in (("weight", problem.weight), ("bias", problem.bias)):
        if value is not None and share_memory(value, h):  # the sum would overwrite it before it is used
            problem = problem._replace(**{name: value.copy()})  # type: ignore[arg-type]
    if all(same_memory(h, part) or not share_memory(h, part) for part in (a, b)):
        _backends.normalize(problem._replace(addends=(a, b)))
    else:
        with np.errstate(all="ignore"):
            np.add(a, b, out=h)
        _backends.normalize(problem)
    return problem.out, h


def layer_norm_int8(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    scale: ArrayLike | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Layer normalization straight into int8, symmetric: the input of an int8 matrix product.

    ``q = clip(rint(y / scale), -127, 127)`` with y the result of `layer_norm` (in float32 for 16-bit data);
    the scale is dynamic, ``max|y| / 127`` of each row, or given. A row of zeros has scale 1.

    Parameters
    ----------
    x, weight, bias, axis, eps
        As in `layer_norm`.
    scale : array_like, optional
        Positive and finite: a number, or broadcastable to x's shape with length 1 on `axis`. Dynamic if not
        given.

    Returns
    -------
    q : ndarray of int8
        Of x's shape; 0 where y is NaN.
    scale : ndarray of float32
        Of x's shape with length 1 on `axis`. A row with NaN has scale NaN, one of float64 whose scale
        leaves float32's range inf; their q is 0.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape, `eps` or `scale` does not fit.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    T. Dettmers, M. Lewis, Y. Belkada, L. Zettlemoyer, "LLM.int8(): 8-bit Matrix Multiplication for
    Transformers at Scale", NeurIPS 2022, arXiv:2208.07339 (row-wise absmax quantization).

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> q, scale = wn.layer_norm_int8([[2.0, 4.0, 6.0, 8.0]])
    >>> q
    array([[-127,  -42,   42,  127]], dtype=int8)
    >>> (q * scale).round(2)
    array([[-1.34, -0.44,  0.44,  1.34]], dtype=float32)
    """
    return _norm_int8(x, weight, bias, axis, eps, scale, centred=True)


def rms_norm_int8(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    scale: ArrayLike | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """RMS normalization straight into int8, symmetric: the input of an int8 matrix product.

    ``q = clip(rint(y / scale), -127, 127)`` with y the result of `rms_norm` (in float32 for 16-bit data); the
    scale is dynamic, ``max|y| / 127`` of each row, or given. A row of zeros has scale 1.

    Parameters
    ----------
    x, weight, bias, axis, eps, weight_offset
        As in `rms_norm`.
    scale : array_like, optional
        Positive and finite: a number, or broadcastable to x's shape with length 1 on `axis`. Dynamic if not
        given.

    Returns
    -------
    q : ndarray of int8
        Of x's shape; 0 where y is NaN.
    scale : ndarray of float32
        Of x's shape with length 1 on `axis`. A row with NaN has scale NaN, one of float64 whose scale
        leaves float32's range inf; their q is 0.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape, `eps`, `weight_offset` or `scale` does not fit.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    See `rms_norm` and `layer_norm_int8`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> q, scale = wn.rms_norm_int8([3.0, -4.0], scale=0.01)
    >>> q
    array([  85, -113], dtype=int8)
    """
    return _norm_int8(x, weight, bias, axis, eps, scale, False, weight_offset)


def _norm_int8(
    x: Any, weight: Any, bias: Any, axis: Any, eps: Any, scale: Any, centred: bool, weight_offset: float = 0.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    array = _dtypes.as_float_array(x, "x")
    axes = check_axes(axis, array.ndim)
    q = np.empty(array.shape, np.int8)
    problem = make_problem(
        array,
        with_offset(weight, weight_offset, array.dtype),
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=q,
        centred=centred,
    )
    shape = statistics_shape(array.shape, axes)
    scales = np.ones(shape, np.float32) if scale is None else _check_scale(scale, shape)
    _backends.normalize(problem._replace(scale=scales, scale_is_given=scale is not None))
    return q, scales


def _check_scale(scale: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A new float32 array of that shape."""
    array = _dtypes.as_float_array(scale, "scale")
    with np.errstate(all="ignore"):
        narrow = array.astype(np.float32)
    if not np.all((narrow > 0) & np.isfinite(narrow)):
        raise ValueError(f"scale must be positive and finite in float32, got {scale!r}")
    try:
        return np.broadcast_to(narrow, shape).copy()
    except ValueError:
        raise ValueError(
            f"scale has shape {array.shape}, but must have shape {shape} or broadcast to it"
        ) from None
