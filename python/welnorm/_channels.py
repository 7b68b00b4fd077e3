"""Norms with parameters per channel: batch, group and instance normalization."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _backends, _dtypes
from ._fast_lane import norm_channels
from ._problem import (
    Array,
    Problem,
    check_axes,
    check_mask,
    check_number,
    check_out,
    check_parameter,
    make_problem,
    share_memory,
)

__all__ = ["batch_norm", "group_norm", "instance_norm"]


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
    axis: int | tuple[int, int] = 1,
    mask: ArrayLike | None = None,
    activation: str | None = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Batch normalization: each channel over the batch and all positions.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with a mean and a variance per channel: the running
    ones, or in training those of the batch (population variance, ddof 0).

    Parameters
    ----------
    x : array_like
        At least 2 dimensions, axis 0 the batch: (N, C), (N, C, L), (N, C, H, W), (N, C, D, H, W), channels
        last, or channel-blocked. float16, bfloat16, float32 or float64, any strides; bool and integers are
        promoted to float64. 16-bit data is computed in float32 and rounded once.
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
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last; (1, -1) for channel-blocked x of shape
        (N, C/b, ..., b), see `to_blocked`. If the last block is padded, the length of the parameters is C,
        and padding comes out as 0.
    mask : array_like of bool, optional
        Of x's shape without the channel axis, or broadcastable to it. False positions (padding) enter no
        statistic and come out as 0.
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
        If a shape, `eps`, `momentum`, `mask` or `activation` does not fit, a running buffer is missing in
        inference or cannot be written in training, or there is one value per channel in training.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", ICML 2015, arXiv:1502.03167.
    Statistics: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", COMPSTAT 1982.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.array([[10.0, 12.0], [20.0, 22.0], [30.0, 32.0], [40.0, 42.0]])
    >>> wn.batch_norm(x, training=True)[:, 0].round(2)
    array([-1.34, -0.45,  0.45,  1.34])
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> y = wn.batch_norm(x, mean, var, training=True)
    >>> mean
    array([2.5, 2.7])

    Sequences of different lengths, padded: only what the mask selects counts.

    >>> wn.batch_norm([[1.0], [3.0], [99.0]], training=True, mask=[True, True, False]).round(2)
    array([[-1.],
           [ 1.],
           [ 0.]])
    """
    y = norm_channels(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        axis,
        eps,
        mask,
        activation,
        out,
        dtype,
        0,
    )
    if y is not None:
        return y
    array, channel = _channelled(x, axis)
    channels = _Channels(
        array.shape,
        channel,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    reduced = tuple(a for a in range(array.ndim) if a not in channel)
    problem = channels.problem(array, weight, bias, reduced, eps, mask, activation, out, dtype)
    momentum = check_momentum(momentum)
    if not training:
        _batch_norm_inference(problem, channels, running_mean, running_var)
        return channels.finish(problem.out)

    check_running(running_mean, "running_mean", channels.count)
    check_running(running_var, "running_var", channels.count)
    count = array.size // channels.room if channels.room else 0
    if problem.mask is not None and array.size:
        kept = problem.mask[tuple(slice(0, 1) if a in channel else slice(None) for a in range(array.ndim))]
        count = int(np.count_nonzero(kept))
    if count == 1:
        what = f"x has shape {array.shape}" if problem.mask is None else "mask selects one position"
        raise ValueError(
            f"{what}: one value per channel has no variance to train with; use training=False with running "
            "statistics, or layer_norm, which works with a batch of one"
        )
    for buffer, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if buffer is not None and share_memory(buffer, problem.out):
            raise ValueError(f"{name} shares memory with out, but both are written to")
    if running_mean is not None and running_var is not None and share_memory(running_mean, running_var):
        raise ValueError("running_mean shares memory with running_var, but both are written to")
    state = _backends.normalize(problem, want_state=True)
    if state is not None and count:
        with np.errstate(all="ignore"):
            _update_running(running_mean, state.mean + state.mean_lo, momentum)
            _update_running(running_var, state.m2 / (count - 1.0), momentum)
    return channels.finish(problem.out)


def _batch_norm_inference(problem: Problem, channels: _Channels, running_mean: Any, running_var: Any) -> None:
    for value, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if value is None:
            raise ValueError(f"{name} is None, but training=False needs running_mean and running_var")
    compute = _dtypes.COMPUTE[problem.x.dtype]
    mean = channels.parameter(running_mean, "running_mean", compute).astype(np.float64)
    var = channels.parameter(running_var, "running_var", compute, 1.0).astype(np.float64)
    _backends.apply(problem, mean, var)


def check_running(buffer: Any, name: str, channels: int) -> None:
    """Check a buffer that training is to update."""
    if buffer is None:
        return
    if not isinstance(buffer, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray to be updated in place, got {type(buffer).__name__}")
    if not _dtypes.is_float(buffer.dtype):
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
        batch = batch.reshape(-1)[: running.size]  # padding channels, if any, come last
        running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * batch


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, int] = 1,
    eps: float = 1e-5,
    mask: ArrayLike | None = None,
    activation: str | None = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Group normalization: each sample over groups of adjacent channels and all positions.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with a mean and a population variance (ddof 0) per
    sample and group, weight and bias per channel.

    Parameters
    ----------
    x : array_like
        At least 2 dimensions, axis 0 the batch. float16, bfloat16, float32 or float64, any strides; bool and
        integers are promoted to float64. 16-bit data is computed in float32 and rounded once.
    num_groups : int
        How many groups; divides the number of channels C.
    weight, bias : array_like, optional
        Scale and shift, of shape (C,).
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last; (1, -1) for channel-blocked x of shape
        (N, C/b, ..., b), see `to_blocked`: there the groups' length must be a divisor or a multiple of b. If
        the last block is padded, the length of the parameters is C, and padding comes out as 0; without
        parameters padding channels count as channels.
    eps : float, default 1e-5
        Added to the variance; finite, not negative.
    mask : array_like of bool, optional
        Of x's shape without the channel axis, or broadcastable to it. False positions (padding) enter no
        statistic and come out as 0.
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
        If a shape, `num_groups`, `eps` or `activation` does not fit, or `out` cannot be written to.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    Y. Wu, K. He, "Group Normalization", ECCV 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.array([[[2.0, 4.0], [6.0, 8.0], [0.0, 0.0], [1.0, 1.0]]])
    >>> wn.group_norm(x, 2).round(2)
    array([[[-1.34, -0.45],
            [ 0.45,  1.34],
            [-1.  , -1.  ],
            [ 1.  ,  1.  ]]])
    """
    if type(num_groups) is int and 0 < num_groups < 2**31:
        y = norm_channels(
            x, None, None, weight, bias, False, 0.0, axis, eps, mask, activation, out, dtype, num_groups
        )
        if y is not None:
            return y
    array, channel = _channelled(x, axis)
    channels = _Channels(array.shape, channel, weight=weight, bias=bias)
    try:
        groups = operator.index(num_groups)
    except TypeError:
        raise TypeError(f"num_groups must be an integer, got {num_groups!r}") from None
    if groups < 1 or channels.count % groups:
        raise ValueError(f"num_groups is {groups}, but must divide the number of channels, {channels.count}")
    length = channels.count // groups
    problem = channels.problem(array, weight, bias, (), eps, mask, activation, out, dtype)
    if problem.x.size:
        _backends.normalize(_grouped(problem, length))
    return channels.finish(problem.out)


def _grouped(problem: Problem, length: int) -> Problem:
    """Split the channel axis, or one of two, into groups and the channels of each; reduce over the latter."""
    shape = problem.x.shape
    axis, step = problem.affine[0], length
    if len(problem.affine) == 2:  # the axis of blocks holds whole groups, or each block does
        block = shape[-1]
        axis, step = (axis, length // block) if length % block == 0 else (len(shape) - 1, length)
    if shape[axis] % step:
        raise ValueError(
            f"num_groups makes groups of {length} channels, but that must be a divisor or a multiple of the "
            f"{shape[-1]} channels of a block"
        )

    def split(array: Array) -> Array:
        """`axis` becomes two: groups, and the channels (or blocks) of each."""
        return array.reshape(*array.shape[:axis], -1, min(step, array.shape[axis]), *array.shape[axis + 1 :])

    kept = {0, axis, problem.affine[0]}
    affine = {axis, axis + 1, *(a + (a > axis) for a in problem.affine)}
    return problem._replace(
        x=split(problem.x),
        out=split(np.asarray(problem.out)),
        weight=None if problem.weight is None else split(problem.weight),
        bias=None if problem.bias is None else split(problem.bias),
        mask=None if problem.mask is None else split(problem.mask),
        reduced=tuple(a for a in range(len(shape) + 1) if a not in kept),
        affine=tuple(sorted(affine)),
    )


def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int | tuple[int, int] = 1,
    eps: float = 1e-5,
    mask: ArrayLike | None = None,
    activation: str | None = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Instance normalization: each channel of each sample over all positions.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with a mean and a population variance (ddof 0) per
    sample and channel.

    Parameters
    ----------
    x : array_like
        At least 2 dimensions, axis 0 the batch. float16, bfloat16, float32 or float64, any strides; bool and
        integers are promoted to float64. 16-bit data is computed in float32 and rounded once.
    weight, bias : array_like, optional
        Scale and shift, of shape (C,).
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last; (1, -1) for channel-blocked x of shape
        (N, C/b, ..., b), see `to_blocked`. If the last block is padded, the length of the parameters is C,
        and padding comes out as 0.
    eps : float, default 1e-5
        Added to the variance; finite, not negative.
    mask : array_like of bool, optional
        Of x's shape without the channel axis, or broadcastable to it. False positions (padding) enter no
        statistic and come out as 0.
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
    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> wn.instance_norm([[[2.0, 4.0, 6.0, 8.0], [5.0, 5.0, 5.0, 5.0]]]).round(2)
    array([[[-1.34, -0.45,  0.45,  1.34],
            [ 0.  ,  0.  ,  0.  ,  0.  ]]])
    """
    y = norm_channels(x, None, None, weight, bias, False, 0.0, axis, eps, mask, activation, out, dtype, -1)
    if y is not None:
        return y
    array, channel = _channelled(x, axis)
    channels = _Channels(array.shape, channel, weight=weight, bias=bias)
    reduced = tuple(a for a in range(1, array.ndim) if a not in channel)
    problem = channels.problem(array, weight, bias, reduced, eps, mask, activation, out, dtype)
    _backends.normalize(problem)
    return channels.finish(problem.out)


def _channelled(x: ArrayLike, axis: Any) -> tuple[Array, tuple[int, ...]]:
    """X as an array, and its channel axis; two of them if the channels are blocked."""
    array = _dtypes.as_float_array(x, "x")
    if array.ndim < 2:
        raise ValueError(f"x has shape {array.shape}, but must have at least 2 dimensions")
    axes = check_axes(axis, array.ndim)
    if len(axes) != 1 and (len(axes) != 2 or axes != (1, array.ndim - 1)):
        raise ValueError(f"axis must be one axis, that of the channels, or (1, -1), got {axis!r}")
    if axes[0] == 0:
        raise ValueError("axis is the batch axis 0, but must be the channel axis")
    return array, axes


class _Channels:
    """The channels of an array: how many there are, and arrays with an element for each.

    The last of blocked channels may be padded; then the length of a parameter tells how many there are.
    """

    def __init__(self, shape: tuple[int, ...], axes: tuple[int, ...], **parameters: Any) -> None:
        self.shape, self.axes = shape, axes
        self.room = self.count = math.prod(shape[a] for a in axes)
        if len(axes) == 2:
            given = (_dtypes.as_float_array(p, name) for name, p in parameters.items() if p is not None)
            lengths = [p.shape[0] for p in given if p.ndim == 1]
            if lengths and self.room - shape[axes[1]] < lengths[0] < self.room:
                self.count = lengths[0]

    def finish(self, out: Array) -> Array:
        """Padding channels stay 0, whatever the norm makes of them; returns out."""
        if self.count < self.room:
            out[:, -1, ..., self.count - self.room :] = 0
        return out

    def parameter(self, value: Any, name: str, compute: np.dtype[Any], missing: float = 0.0) -> Array:
        """A parameter of length 1 but on the channel axes; padding channels get `missing`."""
        array = check_parameter(value, name, (self.count,), compute)
        if self.count < self.room:
            array = np.concatenate([array, np.full(self.room - self.count, missing, compute)])
        return array.reshape([n if a in self.axes else 1 for a, n in enumerate(self.shape)])

    def problem(
        self,
        x: Array,
        weight: Any,
        bias: Any,
        reduced: tuple[int, ...],
        eps: float,
        mask: Any,
        activation: Any,
        out: Any,
        dtype: Any,
    ) -> Problem:
        """Check what norms of channels share and make their problem."""
        compute = _dtypes.COMPUTE[x.dtype]
        y = check_out(out, x, dtype)
        problem = make_problem(
            x, None, None, reduced=reduced, affine=self.axes, eps=eps, out=y, activation=activation
        )
        return problem._replace(
            weight=None if weight is None else self.parameter(weight, "weight", compute),
            bias=None if bias is None else self.parameter(bias, "bias", compute),
            mask=None if mask is None else check_mask(mask, self.shape, self.axes),
        )
