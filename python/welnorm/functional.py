"""Normalization functions: the public face of the kernels."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _backends, _dtypes
from ._isa import extension
from ._problem import (
    ACTIVATIONS,
    Problem,
    check_axes,
    check_eps,
    check_mask,
    check_number,
    check_out,
    check_parameter,
    make_problem,
    overlaps_inputs,
    same_memory,
    share_memory,
    statistics_shape,
)

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "fold_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm_int8",
    "rms_norm",
    "rms_norm_int8",
]

Array = NDArray[Any]


def _no_fast_lane(*_: object) -> Any:
    return None


_norm_rows: Callable[..., Array | None] = _no_fast_lane
_add_norm_rows: Callable[..., tuple[Array, Array] | None] = _no_fast_lane
if extension is not None:
    _norm_rows, _add_norm_rows = extension.norm_rows, extension.add_norm_rows
    extension.set_activations(ACTIVATIONS)


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
    y = _norm_rows(x, weight, bias, axis, eps, activation, out, dtype, True)
    if y is not None:
        return y
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
    _normalize(problem)
    return problem.out


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
    if isinstance(weight_offset, float) and weight_offset == 0.0:
        y = _norm_rows(x, weight, bias, axis, eps, activation, out, dtype, False)
        if y is not None:
            return y
    array = _dtypes.as_float_array(x, "x")
    axes = check_axes(axis, array.ndim)
    problem = make_problem(
        array,
        _with_offset(weight, weight_offset, array.dtype),
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=check_out(out, array, dtype),
        centred=False,
        activation=activation,
    )
    _normalize(problem)
    return problem.out


def check_weight_offset(offset: Any) -> float:
    """weight_offset as a finite float."""
    value = check_number(offset, "weight_offset")
    if not math.isfinite(value):
        raise ValueError(f"weight_offset must be finite, got {offset!r}")
    return value


def _with_offset(weight: ArrayLike | None, offset: Any, dtype: np.dtype[Any]) -> ArrayLike | None:
    """Weight plus offset, in the compute type of dtype."""
    value, compute = check_weight_offset(offset), _dtypes.COMPUTE[dtype]
    if weight is None or value == 0.0:
        return weight
    with np.errstate(all="ignore"):
        if not np.isfinite(compute.type(value)):
            raise ValueError(f"weight_offset must be finite in {compute}, got {offset!r}")
        total: Array = _dtypes.as_float_array(weight, "weight").astype(compute) + compute.type(value)
    return total


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
    state = _normalize(problem, want_state=True)
    if state is not None and count:
        with np.errstate(all="ignore"):
            _update_running(running_mean, state.mean + state.mean_lo, momentum)
            _update_running(running_var, state.m2 / (count - 1.0), momentum)
    return channels.finish(problem.out)


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
        _normalize(_grouped(problem, length))
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
    array, channel = _channelled(x, axis)
    channels = _Channels(array.shape, channel, weight=weight, bias=bias)
    reduced = tuple(a for a in range(1, array.ndim) if a not in channel)
    problem = channels.problem(array, weight, bias, reduced, eps, mask, activation, out, dtype)
    _normalize(problem)
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


def _batch_norm_inference(problem: Problem, channels: _Channels, running_mean: Any, running_var: Any) -> None:
    for value, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if value is None:
            raise ValueError(f"{name} is None, but training=False needs running_mean and running_var")
    compute = _dtypes.COMPUTE[problem.x.dtype]
    mean = channels.parameter(running_mean, "running_mean", compute).astype(np.float64)
    var = channels.parameter(running_var, "running_var", compute, 1.0).astype(np.float64)
    if problem.x.size:
        _write(problem, lambda p: _backends.active().apply(p, mean, var))


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
    pair = _add_norm_rows(x, residual, weight, bias, axis, eps, out, sum_out, dtype, True)
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
        pair = _add_norm_rows(x, residual, weight, bias, axis, eps, out, sum_out, dtype, False)
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
        _with_offset(weight, weight_offset, a.dtype),
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
        _normalize(problem._replace(addends=(a, b)))
    else:
        with np.errstate(all="ignore"):
            np.add(a, b, out=h)
        _normalize(problem)
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
        _with_offset(weight, weight_offset, array.dtype),
        bias,
        reduced=axes,
        affine=axes,
        eps=eps,
        out=q,
        centred=centred,
    )
    shape = statistics_shape(array.shape, axes)
    scales = np.ones(shape, np.float32) if scale is None else _check_scale(scale, shape)
    _normalize(problem._replace(scale=scales, scale_is_given=scale is not None))
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


def fold_batch_norm(
    weight: ArrayLike,
    bias: ArrayLike | None,
    running_mean: ArrayLike,
    running_var: ArrayLike,
    bn_weight: ArrayLike | None = None,
    bn_bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 0,
) -> tuple[Array, Array]:
    """Fold a batch norm for inference into the convolution or linear layer before it.

    ``conv(x, folded_weight) + folded_bias`` equals ``batch_norm(conv(x, weight) + bias)`` up to rounding.

    Parameters
    ----------
    weight : array_like
        The layer's weight, of any shape with C output channels on `axis`.
    bias : array_like or None
        Its bias, of shape (C,).
    running_mean, running_var : array_like
        Of the batch norm, of shape (C,).
    bn_weight, bn_bias : array_like, optional
        Of the batch norm, of shape (C,).
    eps : float, default 1e-5
        Of the batch norm; finite, not negative.
    axis : int, default 0
        The axis of `weight` that output channels are on.

    Returns
    -------
    folded_weight, folded_bias : ndarray
        Of the weight's shape and of shape (C,), both of the weight's dtype, computed in float64 and rounded
        once.

    Raises
    ------
    TypeError
        If an array has an unsupported dtype.
    ValueError
        If a shape or `eps` does not fit.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, arXiv:1712.05877, section 3.2.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> weight, bias = wn.fold_batch_norm([[2.0, 1.0]], [1.0], [3.0], [4.0], eps=0.0)
    >>> weight, bias
    (array([[1. , 0.5]]), array([-1.]))
    """
    array = _dtypes.as_float_array(weight, "weight")
    axes = check_axes(axis, array.ndim)
    if len(axes) != 1:
        raise ValueError(f"axis must be one axis, that of the output channels, got {axis!r}")
    channels, wide = (array.shape[axes[0]],), np.dtype(np.float64)

    def parameter(value: Any, name: str, missing: float) -> Array:
        return np.full(channels, missing) if value is None else check_parameter(value, name, channels, wide)

    mean = check_parameter(running_mean, "running_mean", channels, wide)
    var = check_parameter(running_var, "running_var", channels, wide)
    shift = parameter(bias, "bias", 0.0)
    with np.errstate(all="ignore"):
        scale = parameter(bn_weight, "bn_weight", 1.0) / np.sqrt(var + check_eps(eps))
        folded_bias = (shift - mean) * scale + parameter(bn_bias, "bn_bias", 0.0)
        broadcast = [-1 if a == axes[0] else 1 for a in range(array.ndim)]
        folded = array.astype(np.float64) * scale.reshape(broadcast)
        return folded.astype(array.dtype), folded_bias.astype(array.dtype)


def _normalize(problem: Problem, want_state: bool = False) -> Any:
    """Normalise with the data's own statistics and return their state if asked for; None if x is empty."""
    if problem.x.size:
        return _write(problem, lambda p: _backends.active().normalize(p, want_state))
    return None


def _write(problem: Problem, action: Any) -> Any:
    """Run action on the problem, by way of a temporary where `out` overlaps an input."""
    if not overlaps_inputs(problem):
        return action(problem)
    apart = problem._replace(out=np.empty(problem.x.shape, problem.out.dtype))
    result = action(apart)
    problem.out[...] = apart.out
    return result
