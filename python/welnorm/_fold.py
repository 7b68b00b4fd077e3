"""Batch norm folded into the layer before it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _dtypes
from ._problem import Array, check_axes, check_eps, check_parameter

__all__ = ["fold_batch_norm"]


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
