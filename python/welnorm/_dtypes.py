"""Element types: which ones the kernels take, and in which type each is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Row order is that of src/dtypes.def. Value: the compute type, which parameters are converted to.
COMPUTE: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float64): np.dtype(np.float64),
}

#: The number of each dtype in the C interface (enum wn_dtype).
INDEX = {dtype: index for index, dtype in enumerate(COMPUTE)}

_NAMES = ", ".join(dtype.name for dtype in COMPUTE)


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
    if dtype in INDEX and dtype.isnative:
        return array
    if dtype.kind in "biu":
        return array.astype(np.float64)
    native = dtype.newbyteorder("=")
    if native in INDEX:
        return array.astype(native)
    raise TypeError(f"{name} has dtype {dtype}, but must be one of {_NAMES}, bool or integer")


def as_output_dtype(value: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that the argument `dtype=` names, or raise a `TypeError`."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype is {value!r}, but must be one of {_NAMES}") from None
    if dtype not in INDEX or not dtype.isnative:
        raise TypeError(f"dtype is {dtype}, but must be one of {_NAMES}")
    return dtype
