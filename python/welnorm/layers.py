"""Layers: norms that hold their parameters, with PyTorch's attribute and state names."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _dtypes
from ._channels import batch_norm, check_momentum, group_norm, instance_norm
from ._layer import Layer, check_size, new_parameters
from ._problem import Array, check_axes, check_eps
from .functional import check_weight_offset, layer_norm, rms_norm

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _OverLastDimensions(Layer):
    """Layers over the last dimensions of their input."""

    normalized_shape: tuple[int, ...]
    eps: float
    _axis: int | tuple[int, ...]

    def _set_up(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float,
        affine: bool,
        bias: bool,
        dtype: DTypeLike,
    ) -> None:
        lengths = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        if not lengths:
            raise ValueError("normalized_shape is empty, but must have at least one dimension")
        self.normalized_shape = tuple(check_size(length, "normalized_shape") for length in lengths)
        self.eps = check_eps(eps)
        self.weight, self.bias = new_parameters(self.normalized_shape, affine, bias, dtype)
        self._axis = -1 if len(lengths) == 1 else tuple(range(-len(lengths), 0))

    def _check(self, x: ArrayLike) -> Array:
        x = _dtypes.as_float_array(x, "x")
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ValueError(
                f"x has shape {x.shape}, but its last dimensions must be {self.normalized_shape}"
            )
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.normalized_shape}, eps={self.eps})"


class LayerNorm(_OverLastDimensions):
    """Layer normalization over the last dimensions, with learned scale and shift.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last dimensions of the input.
    eps : float, default 1e-5
        Added to the variance.
    affine : bool, default True
        Whether there are a weight and a bias.
    bias : bool, default True
        Whether there is a bias, if `affine`.
    dtype : dtype, default "float32"
        Of the parameters.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of shape `normalized_shape`; ones and zeros at first.

    See Also
    --------
    layer_norm : the function, with its formula and references.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> layer = wn.LayerNorm(4)
    >>> layer(np.float32([[2, 4, 6, 8]])).round(2)
    array([[-1.34, -0.45,  0.45,  1.34]], dtype=float32)
    >>> sorted(layer.state_dict(prefix="norm."))
    ['norm.bias', 'norm.weight']
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        *,
        affine: bool = True,
        bias: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None:
        self._set_up(normalized_shape, eps, affine, bias, dtype)

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """Normalise x, whose last dimensions are `normalized_shape`; see `layer_norm`."""
        return layer_norm(self._check(x), self.weight, self.bias, axis=self._axis, eps=self.eps, out=out)


class RMSNorm(_OverLastDimensions):
    """Root mean square normalization over the last dimensions, with a learned scale.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last dimensions of the input.
    eps : float, default 1e-6
        Added to the mean of squares.
    affine : bool, default True
        Whether there is a weight.
    bias : bool, default False
        Whether there is a bias, if `affine`.
    weight_offset : float, default 0.0
        Added to the weight: 1.0 for Gemma's parameters. The weight is then zeros at first.
    dtype : dtype, default "float32"
        Of the parameters.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of shape `normalized_shape`; ``1 - weight_offset`` and zeros at first.

    See Also
    --------
    rms_norm : the function, with its formula and references.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> layer = wn.RMSNorm(2)
    >>> layer(np.float32([[3, 4]])).round(3)
    array([[0.849, 1.131]], dtype=float32)
    >>> list(layer.state_dict())
    ['weight']
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-6,
        *,
        affine: bool = True,
        bias: bool = False,
        weight_offset: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self._set_up(normalized_shape, eps, affine, bias, dtype)
        self.weight_offset = check_weight_offset(weight_offset)
        if self.weight is not None:
            self.weight -= self.weight.dtype.type(self.weight_offset)

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """Normalise x, whose last dimensions are `normalized_shape`; see `rms_norm`."""
        return rms_norm(
            self._check(x),
            self.weight,
            self.bias,
            axis=self._axis,
            eps=self.eps,
            weight_offset=self.weight_offset,
            out=out,
        )


class BatchNorm(Layer):
    """Batch normalization, with learned scale and shift and running statistics.

    Parameters
    ----------
    num_features : int
        Number of channels.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of a batch in the running statistics; None for their cumulative average.
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last, (1, -1) for channel-blocked.
    affine : bool, default True
        Whether there are a weight and a bias.
    track_running_stats : bool, default True
        Whether there are running statistics; without them, inference uses those of the batch as well.
    dtype : dtype, default "float32"
        Of parameters and buffers.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of shape (num_features,); ones and zeros at first.
    running_mean, running_var : ndarray or None
        Of shape (num_features,); zeros and ones at first.
    num_batches_tracked : ndarray of int64 or None
        How many batches the running statistics have seen.
    training : bool
        False at first: `train` and `eval` switch.

    See Also
    --------
    batch_norm : the function, with its formula and references.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> layer = wn.BatchNorm(3, momentum=None).train()
    >>> for batch in np.arange(24.0).reshape(2, 4, 3):
    ...     y = layer(batch)
    >>> layer.running_mean
    array([10.5, 11.5, 12.5], dtype=float32)
    >>> layer.eval()(np.float32([[10.5, 11.5, 12.5]]))
    array([[0., 0., 0.]], dtype=float32)

    Precise batch norm (Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576): the
    running statistics are made again as the plain average over batches of the final model, by one loop over
    data with ``momentum=None``.

    >>> layer.momentum = None
    >>> layer.num_batches_tracked[...] = 0
    >>> _ = layer.train()
    >>> for batch in np.arange(24.0).reshape(2, 4, 3):
    ...     y = layer(batch)
    >>> _ = layer.eval()
    >>> layer.running_var
    array([15., 15., 15.], dtype=float32)
    """

    _state_names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        axis: int | tuple[int, int] = 1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.num_features = check_size(num_features, "num_features")
        self.eps = check_eps(eps)
        self.momentum = None if momentum is None else check_momentum(momentum)
        self.axis = axis
        shape = (self.num_features,)
        self.weight, self.bias = new_parameters(shape, affine, True, dtype)
        self.running_mean: Array | None = None
        self.running_var: Array | None = None
        self.num_batches_tracked: Array | None = None
        if track_running_stats:
            element = _dtypes.as_output_dtype(dtype)
            self.running_mean, self.running_var = np.zeros(shape, element), np.ones(shape, element)
            self.num_batches_tracked = np.zeros((), np.int64)

    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Normalise x, which has `num_features` channels on `axis`; see `batch_norm`."""
        tracked = self.num_batches_tracked
        learns = self.training and tracked is not None
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / (float(tracked) + 1.0) if learns and tracked is not None else 0.0
        x = _with_channels(x, self.axis, self.num_features)
        y = batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training or tracked is None,
            momentum=momentum,
            eps=self.eps,
            axis=self.axis,
            mask=mask,
            out=out,
        )
        has_data = x.size > 0 and (mask is None or bool(np.any(mask)))
        if learns and tracked is not None and has_data:
            tracked += 1
        return y

    def __repr__(self) -> str:
        return f"BatchNorm({self.num_features}, eps={self.eps}, momentum={self.momentum}, axis={self.axis})"


def _with_channels(x: ArrayLike, axis: int | tuple[int, int], channels: int) -> Array:
    """X as an array, after its channels were counted; the last of blocks of channels may be padded."""
    array = _dtypes.as_float_array(x, "x")
    if array.ndim >= 2:
        axes = check_axes(axis, array.ndim)
        room = math.prod(array.shape[a] for a in axes)
        padding = array.shape[axes[-1]] - 1 if len(axes) == 2 else 0
        if not channels <= room <= channels + padding:
            raise ValueError(f"x has shape {array.shape}, but must have {channels} channels on axis {axis}")
    return array


class GroupNorm(Layer):
    """Group normalization, with learned scale and shift.

    Parameters
    ----------
    num_groups : int
        How many groups; divides `num_channels`.
    num_channels : int
        Number of channels.
    eps : float, default 1e-5
        Added to the variance.
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last, (1, -1) for channel-blocked.
    affine : bool, default True
        Whether there are a weight and a bias.
    dtype : dtype, default "float32"
        Of the parameters.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of shape (num_channels,); ones and zeros at first.

    See Also
    --------
    group_norm : the function, with its formula and references.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> layer = wn.GroupNorm(2, 4)
    >>> layer(np.float32([[2, 4, 5, 5]])).round(2)
    array([[-1.,  1.,  0.,  0.]], dtype=float32)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        *,
        axis: int | tuple[int, int] = 1,
        affine: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.num_groups = check_size(num_groups, "num_groups")
        self.num_channels = check_size(num_channels, "num_channels")
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_groups is {num_groups}, but must divide num_channels, {num_channels}")
        self.eps = check_eps(eps)
        self.axis = axis
        self.weight, self.bias = new_parameters((self.num_channels,), affine, True, dtype)

    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Normalise x, which has `num_channels` channels on `axis`; see `group_norm`."""
        x = _with_channels(x, self.axis, self.num_channels)
        weight = self.weight
        if weight is None and isinstance(self.axis, tuple):  # whose length tells channels from padding
            weight = np.ones(self.num_channels, _dtypes.COMPUTE[x.dtype])
        return group_norm(
            x,
            self.num_groups,
            weight,
            self.bias,
            axis=self.axis,
            eps=self.eps,
            mask=mask,
            out=out,
        )

    def __repr__(self) -> str:
        return f"GroupNorm({self.num_groups}, {self.num_channels}, eps={self.eps}, axis={self.axis})"


class InstanceNorm(Layer):
    """Instance normalization, if wanted with learned scale and shift.

    Parameters
    ----------
    num_features : int
        Number of channels.
    eps : float, default 1e-5
        Added to the variance.
    axis : int or (1, -1), default 1
        The channel axis: 1 for channels first, -1 for channels last, (1, -1) for channel-blocked.
    affine : bool, default False
        Whether there are a weight and a bias; not by default, as in PyTorch.
    dtype : dtype, default "float32"
        Of the parameters.

    Attributes
    ----------
    weight, bias : ndarray or None
        Of shape (num_features,); ones and zeros at first.

    See Also
    --------
    instance_norm : the function, with its formula and references.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> layer = wn.InstanceNorm(2, affine=True)
    >>> layer(np.float32([[[2, 4, 6, 8], [5, 5, 5, 5]]])).round(2)
    array([[[-1.34, -0.45,  0.45,  1.34],
            [ 0.  ,  0.  ,  0.  ,  0.  ]]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        axis: int | tuple[int, int] = 1,
        affine: bool = False,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.num_features = check_size(num_features, "num_features")
        self.eps = check_eps(eps)
        self.axis = axis
        self.weight, self.bias = new_parameters((self.num_features,), affine, True, dtype)

    def __call__(self, x: ArrayLike, *, mask: ArrayLike | None = None, out: Array | None = None) -> Array:
        """Normalise x, which has `num_features` channels on `axis`; see `instance_norm`."""
        x = _with_channels(x, self.axis, self.num_features)
        return instance_norm(x, self.weight, self.bias, axis=self.axis, eps=self.eps, mask=mask, out=out)

    def __repr__(self) -> str:
        return f"InstanceNorm({self.num_features}, eps={self.eps}, axis={self.axis})"
