"""What layers share: a mode, parameters, and a state that is loaded whole or not at all."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from . import _dtypes
from ._problem import Array


class Layer:
    """What layers share: a mode, and a state that is loaded whole or not at all."""

    #: Names of the arrays that make up the state; those that are None are not part of it.
    _state_names: ClassVar[tuple[str, ...]] = ("weight", "bias")

    training: bool = False
    weight: Array | None
    bias: Array | None

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode (or, with False, to inference mode); returns self."""
        self.training = bool(mode)
        return self

    def eval(self) -> Any:
        """Switch to inference mode; returns self."""
        return self.train(False)

    def _state(self, prefix: str = "") -> dict[str, Array]:
        named = {prefix + name: getattr(self, name) for name in self._state_names}
        return {name: array for name, array in named.items() if array is not None}

    def state_dict(self, prefix: str = "") -> dict[str, Array]:
        """Copies of the layer's arrays, by PyTorch's names.

        Parameters
        ----------
        prefix : str, optional
            Put before each name.

        Returns
        -------
        dict of str to ndarray
        """
        return {name: array.copy() for name, array in self._state(prefix).items()}

    def load_state_dict(self, state: Mapping[str, Any], prefix: str = "") -> Any:
        """Load parameters and buffers; everything is checked before anything changes.

        Parameters
        ----------
        state : mapping of str to array_like
            NumPy arrays or torch tensors, or an opened npz file. Of the names that start with `prefix` none
            may be missing and none may be left over.
        prefix : str, optional
            Such as ``"encoder.layer.0.norm."``.

        Returns
        -------
        The layer itself.

        Raises
        ------
        KeyError
            If names are missing or unknown; all of them are listed.
        ValueError
            If a shape differs or a value is not finite.
        TypeError
            If a dtype is not numeric.
        """
        own = self._state(prefix)
        missing = sorted(own.keys() - set(state))
        extra = sorted(name for name in map(str, state) if name.startswith(prefix) and name not in own)
        if missing or extra:
            parts = [f"missing {missing}"] * bool(missing) + [f"unexpected {extra}"] * bool(extra)
            raise KeyError(f"state does not fit {self!r}: {' and '.join(parts)}")
        loaded = {name: _loaded(state[name], name, array) for name, array in own.items()}
        for name, array in own.items():
            array[...] = loaded[name]
        return self


def _loaded(value: Any, name: str, like: Array) -> Array:
    """`value` as an array that fits `like`."""
    if hasattr(value, "detach"):  # a torch tensor; bfloat16 has no NumPy dtype of its own
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and not _dtypes.is_float(array.dtype):
        raise TypeError(f"{name} has dtype {array.dtype}, but must be a real number type")
    if array.shape != like.shape:
        raise ValueError(f"{name} has shape {array.shape}, but must have shape {like.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(like.dtype)
    if not (np.all(np.isfinite(array.astype(np.float64))) and np.all(np.isfinite(converted))):
        raise ValueError(f"{name} has values that are not finite in {like.dtype}")
    if name.endswith("running_var") and np.any(converted < 0):
        raise ValueError(f"{name} has negative variances")
    if like.dtype.kind == "i" and not (np.all(converted == array) and np.all(converted >= 0)):
        raise ValueError(f"{name} must be a count, got {array}")
    return converted


def new_parameters(
    shape: tuple[int, ...], affine: bool, bias: bool, dtype: DTypeLike
) -> tuple[Array | None, Array | None]:
    element = _dtypes.as_output_dtype(dtype)
    return np.ones(shape, element) if affine else None, np.zeros(shape, element) if affine and bias else None


def check_size(value: Any, name: str) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size
