"""Element types: which ones the kernels take, and in which type each is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._isa import extension

_FLOAT32 = np.dtype(np.float32)

# Row order is that of src/dtypes.def. Value: the compute type, which parameters are converted to. bfloat16
# comes last and later: it is no dtype of NumPy's own, see `_is_bfloat16`.
COMPUTE: dict[np.dtype[Any], np.dtype[Any]] = {
    _FLOAT32: _FLOAT32,
    np.dtype(np.float64): np.dtype(np.float64),
    np.dtype(np.float16): _FLOAT32,
}

#: The number of each dtype in the C interface (enum wn_dtype).
INDEX = {dtype: index for index, dtype in enumerate(COMPUTE)}

_BFLOAT16 = "bfloat16"
_NAMES = "float16, bfloat16, float32, float64"


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Tell whether this is bfloat16, and make a note of it; nobody else imports ml_dtypes."""
    if dtype.name != _BFLOAT16 or dtype.itemsize != 2:
        return False
    COMPUTE[dtype] = _FLOAT32
    INDEX[dtype] = 3
    if extension is not None:
        extension.set_bfloat16(dtype.num)
    return True


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the kernels take the dtype as it is, in native byte order."""
    return (dtype in INDEX or _is_bfloat16(dtype)) and dtype.isnative


def as_float_array(value: Any, name: str) -> NDArray[Any]:
    """Return `value` as an array of a supported dtype in native byte order.

    bool and integers become float64, as in `np.mean`. Anything else raises a `TypeError` that names the
    argument and the dtype.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name} does not make an array: {error}") from None
    dtype = array.dtype
    if is_float(dtype):
        return array
    if dtype.kind in "biu":
        return array.astype(np.float64)
    native = dtype.newbyteorder("=")
    if is_float(native):
        return array.astype(native)
    raise TypeError(f"{name} has dtype {dtype}, but must be one of {_NAMES}, bool or integer")


def as_output_dtype(value: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that the argument `dtype=` names, or raise a `TypeError`."""
    if isinstance(value, str) and value == _BFLOAT16:
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError("dtype is 'bfloat16', which needs the package ml_dtypes") from None
        value = ml_dtypes.bfloat16
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"dtype is {value!r}, but must be one of {_NAMES}") from None
    if not is_float(dtype):
        raise TypeError(f"dtype is {dtype}, but must be one of {_NAMES}")
    return dtype
