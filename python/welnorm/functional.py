"""Normalization functions: the public face of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _backends, _dtypes
from ._isa import extension
from ._problem import (
    Problem,
    check_axes,
    check_number,
    check_parameter,
    make_problem,
    overlaps_inputs,
    statistics_shape,
)

__all__ = ["batch_norm", "layer_norm"]

Array = NDArray[Any]


def _no_fast_lane(*_: object) -> Array | None:
    return None


_fast_layer_norm: Callable[..., Array | None] = _no_fast_lane if extension is None else extension.layer_norm


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
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
        float32 or float64, any strides; bool and integers are promoted to float64.
    weight, bias : array_like, optional
        Scale and shift, of x's shape over `axis` (in ascending order of axis). Another float dtype is
        converted to x's.
    axis : int or tuple of int, default -1
        The axes to normalise over.
    eps : float, default 1e-5
        Added to the variance; finite, not negative.
    out : ndarray, optional
        Where to write: x's shape and dtype (or `dtype`), any strides. ``out=x`` works in place.
    dtype : dtype, optional
        The result's dtype, float32 or float64; x's if not given.

    Returns
    -------
    ndarray
        A new array of x's shape, or `out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape or `eps` does not fit, or `out` cannot be written to.
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
    y = _fast_layer_norm(x, weight, bias, axis, eps, out, dtype)
    if y is not None:
        return y
    array = _dtypes.as_float_array(x, "x")
    axes = check_axes(axis, array.ndim)
    problem = make_problem(array, weight, bias, reduced=axes, affine=axes, eps=eps, out=out, dtype=dtype)
    _normalize(problem)
    return problem.out


def batch_norm(
    x: ArrayLike,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Batch normalization: each channel over the batch and all positions.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with a mean and a variance per channel: the running
    ones, or in training those of the batch (population variance, ddof 0).

    Parameters
    ----------
    x : array_like
        At least 2 dimensions, axis 0 the batch: (N, C), (N, C, L), (N, C, H, W), (N, C, D, H, W), or channels
        last. float32 or float64, any strides; bool and integers are promoted to float64.
    running_mean, running_var : ndarray or array_like, optional
        Of shape (C,). Needed unless `training`. In training they are float arrays that are updated in place,
        ``running = (1 - momentum) * running + momentum * batch``, the batch's variance unbiased (ddof 1).
    weight, bias : array_like, optional
        Scale and shift, of shape (C,).
    training : bool, default False
        Normalise with the batch's statistics and update the running ones, where given.
    momentum : float, default 0.1
        Weight of the batch in the update, between 0 and 1.
    eps : float, default 1e-5
        Added to the variance; finite, not negative.
    axis : int, default 1
        The channel axis: 1 for channels first, -1 for channels last.
    out : ndarray, optional
        Where to write: x's shape and dtype (or `dtype`), any strides. ``out=x`` works in place.
    dtype : dtype, optional
        The result's dtype, float32 or float64; x's if not given.

    Returns
    -------
    ndarray
        A new array of x's shape, or `out`.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape, `eps` or `momentum` does not fit, a running buffer is missing in inference or cannot be
        written in training, or there is one value per channel in training.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", 2015, arXiv:1502.03167. Statistics: see `layer_norm`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.array([[10.0, 12.0, 14.0], [20.0, 22.0, 24.0], [30.0, 32.0, 34.0], [40.0, 42.0, 44.0]])
    >>> wn.batch_norm(x, training=True).round(2)
    array([[-1.34, -1.34, -1.34],
           [-0.45, -0.45, -0.45],
           [ 0.45,  0.45,  0.45],
           [ 1.34,  1.34,  1.34]])
    """
    array = _dtypes.as_float_array(x, "x")
    if array.ndim < 2:
        raise ValueError(f"x has shape {array.shape}, but must have at least 2 dimensions")
    axes = check_axes(axis, array.ndim)
    if len(axes) != 1:
        raise ValueError(f"axis must be one axis, that of the channels, got {axis!r}")
    (channel,) = axes
    if channel == 0:
        raise ValueError("axis is the batch axis 0, but must be the channel axis")
    reduced = tuple(a for a in range(array.ndim) if a != channel)
    problem = make_problem(
        array, weight, bias, reduced=reduced, affine=(channel,), eps=eps, out=out, dtype=dtype
    )
    channels = array.shape[channel]
    if not training:
        _batch_norm_inference(problem, running_mean, running_var, channels)
        return problem.out

    momentum = check_momentum(momentum)
    check_running(running_mean, "running_mean", channels)
    check_running(running_var, "running_var", channels)
    count = array.size // channels if channels else 0
    if count == 1:
        raise ValueError(
            f"x has shape {array.shape}: one value per channel has no variance to train with; use "
            "training=False with running statistics, or layer_norm, which works with a batch of one"
        )
    state = _normalize(problem, want_state=True)
    if state is not None:
        with np.errstate(all="ignore"):
            _update_running(running_mean, state.mean + state.mean_lo, momentum)
            _update_running(running_var, state.m2 / (state.count - 1.0), momentum)
    return problem.out


def _batch_norm_inference(problem: Problem, running_mean: Any, running_var: Any, channels: int) -> None:
    for value, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if value is None:
            raise ValueError(f"{name} is None, but training=False needs running_mean and running_var")
    compute = _dtypes.COMPUTE[problem.x.dtype]
    shape = statistics_shape(problem.x.shape, problem.reduced)
    mean, var = (
        check_parameter(value, name, (channels,), compute).astype(np.float64).reshape(shape)
        for value, name in ((running_mean, "running_mean"), (running_var, "running_var"))
    )
    if problem.x.size:
        _write(problem, lambda p: _backends.active().apply(p, mean, var))


def check_running(buffer: Any, name: str, channels: int) -> None:
    """Check a buffer that training is to update."""
    if buffer is None:
        return
    if not isinstance(buffer, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray to be updated in place, got {type(buffer).__name__}")
    if buffer.dtype not in _dtypes.INDEX:
        raise TypeError(f"{name} has dtype {buffer.dtype}, but must be a float dtype to be updated in place")
    if buffer.shape != (channels,):
        raise ValueError(f"{name} has shape {buffer.shape}, but must have shape ({channels},)")
    if not buffer.flags.writeable:
        raise ValueError(f"{name} is read-only, but training updates it in place")


def check_momentum(momentum: Any) -> float:
    """Momentum as a float between 0 and 1."""
    value = check_number(momentum, "momentum")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"momentum must be between 0 and 1, got {momentum!r}")
    return value


def _update_running(running: Array | None, batch: Array, momentum: float) -> None:
    if running is not None:
        running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * batch.reshape(running.shape)


def _normalize(problem: Problem, want_state: bool = False) -> Any:
    """Normalise with the data's own statistics and return their state if asked for; None if x is empty."""
    if problem.x.size:
        return _write(problem, lambda p: _backends.active().normalize(p, want_state))
    return None


def _write(problem: Problem, action: Any) -> Any:
    """Run action on the problem, by way of a temporary where `out` overlaps an input."""
    if not overlaps_inputs(problem):
        return action(problem)
    apart = Problem(
        problem.x,
        np.empty(problem.x.shape, problem.out.dtype),
        problem.reduced,
        problem.affine,
        problem.weight,
        problem.bias,
        problem.eps,
    )
    result = action(apart)
    problem.out[...] = apart.out
    return result
