"""Memory that suits the kernels: aligned arrays, and channels in blocks of a vector's width."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _backends, _dtypes
from ._isa import extension
from ._problem import Array

__all__ = ["aligned_empty", "clear_output_cache", "from_blocked", "to_blocked"]


def aligned_empty(
    shape: int | tuple[int, ...], dtype: DTypeLike = "float32", *, alignment: int = 64
) -> Array:
    """Return a new C-contiguous array, its values undefined, that starts at a multiple of `alignment`.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype, default "float32"
        Any dtype of plain numbers.
    alignment : int, default 64
        In bytes, a power of two. 64 is a cache line and a vector of AVX-512.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError
        If `dtype` holds Python objects.
    ValueError
        If `alignment` is not a power of two or a length is negative.

    Examples
    --------
    >>> import welnorm as wn
    >>> a = wn.aligned_empty((3, 5))
    >>> a.shape, a.ctypes.data % 64
    ((3, 5), 0)
    """
    element = (
        _dtypes.as_output_dtype(dtype) if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
    )
    if element.hasobject:
        raise TypeError(f"dtype is {element}, but must be one of plain numbers")
    step = _integer(alignment, "alignment")
    if step < 1 or step & (step - 1):
        raise ValueError(f"alignment must be a power of two, got {alignment}")
    lengths = tuple(_integer(n, "shape") for n in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape has a negative length: {shape}")
    size = math.prod(lengths) * element.itemsize
    try:
        memory = extension.empty_bytes(size + step) if extension else np.empty(size + step, np.uint8)
    except (OverflowError, ValueError):
        raise ValueError(f"shape {shape} with alignment {alignment} is too large") from None
    start = -memory.ctypes.data % step
    return memory[start : start + size].view(element).reshape(lengths)


def clear_output_cache() -> int:
    """Give the memory that results have left, and that is held for the next ones, back to the system.

    A result of 1 MiB or more that is no longer referred to leaves its memory to the next one of about its
    size: memory that is new costs page faults, which take longer than the norm. At most a sixteenth of the
    machine's memory is held, and at most 1 GiB; or so many MiB as the environment variable
    ``WELNORM_OUTPUT_CACHE_MB`` says when it is first needed, 0 for none.

    Returns
    -------
    int
        How many bytes that were.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> y = wn.layer_norm(np.zeros((1024, 1024), np.float32))
    >>> del y
    >>> held = wn.clear_output_cache()
    >>> wn.clear_output_cache()
    0
    """
    if extension is None:
        return 0
    freed: int = extension.output_cache(clear=True)[0]
    return freed


def to_blocked(x: ArrayLike, block: int = 16) -> Array:
    """Bring channels into blocks: (N, C, ...) to (N, C/block, ..., block), oneDNN's nChw16c.

    There a vector holds adjacent channels of one position. The norms take the result with ``axis=(1, -1)``.

    Parameters
    ----------
    x : array_like
        Of shape (N, C, ...); float16, bfloat16, float32 or float64, any strides; bool and integers are
        promoted to float64.
    block : int, default 16
        Channels in a block. Where it does not divide C, the last one is padded with zeros.

    Returns
    -------
    ndarray
        Of shape (N, ceil(C / block), ..., block), C-contiguous, aligned to 64 bytes.

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype.
    ValueError
        If x has less than 2 dimensions or `block` is less than 1.

    See Also
    --------
    from_blocked : the way back.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> wn.to_blocked(x, 2)
    array([[[[0., 2.],
             [1., 3.]],
    <BLANKLINE>
            [[4., 0.],
             [5., 0.]]]])
    """
    array = _dtypes.as_float_array(x, "x")
    if array.ndim < 2:
        raise ValueError(f"x has shape {array.shape}, but must have at least 2 dimensions")
    size = _integer(block, "block")
    if size < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    batch, channels, *positions = array.shape
    out = aligned_empty((batch, -(-channels // size), *positions, size), array.dtype)
    _move(array, out, into_blocks=True)
    return out


def from_blocked(x: ArrayLike, channels: int | None = None) -> Array:
    """Bring channels out of blocks: (N, C/b, ..., b) to (N, C, ...), what `to_blocked` began with.

    Parameters
    ----------
    x : array_like
        Of shape (N, C/b, ..., b); float16, bfloat16, float32 or float64, any strides; bool and integers are
        promoted to float64.
    channels : int, optional
        C, where the last block is padded; all of them if not given.

    Returns
    -------
    ndarray
        Of shape (N, channels, ...), C-contiguous, aligned to 64 bytes.

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype.
    ValueError
        If x has less than 3 dimensions or empty blocks, or `channels` does not end in its last block.

    See Also
    --------
    to_blocked : the way there.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> np.array_equal(wn.from_blocked(wn.to_blocked(x, 2), 3), x)
    True
    """
    array = _dtypes.as_float_array(x, "x")
    if array.ndim < 3:
        raise ValueError(f"x has shape {array.shape}, but must have at least 3 dimensions")
    batch, blocks, *positions, size = array.shape
    if size < 1:
        raise ValueError(f"x has shape {array.shape}, but its last axis, a block, must not be empty")
    room = blocks * size
    count = room if channels is None else _integer(channels, "channels")
    if not (count == room or room - size < count < room):
        raise ValueError(f"channels is {count}, but must be above {room - size} and at most {room}")
    out = aligned_empty((batch, count, *positions), array.dtype)
    _move(out, array, into_blocks=False)
    return out


def _move(plain: Array, blocked: Array, into_blocks: bool) -> None:
    """Fill one from the other: by the library's threads, or by NumPy where the strides are odd."""
    contiguous = all(array.flags.c_contiguous and array.flags.aligned for array in (plain, blocked))
    if extension is not None and contiguous and _backends.get_backend() == "c":
        extension.move_blocked(plain, blocked, into_blocks)
        return
    size = blocked.shape[-1]
    by_channel = np.moveaxis(blocked, -1, 2)
    for k in range(blocked.shape[1]):
        part = plain[:, k * size : (k + 1) * size]
        held = by_channel[:, k, : part.shape[1]]
        if into_blocks:
            held[...] = part
            by_channel[:, k, part.shape[1] :] = 0
        else:
            part[...] = held


def _integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
