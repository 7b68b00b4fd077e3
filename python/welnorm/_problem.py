"""The canonical problem: any normalization on any layout, checked and brought into one form.

`Problem` says what is to be computed, axis by axis, and is all a backend is given. `layout` brings it into
the form of the compiled drivers (src/welnorm.h): one of two access patterns over three groups of axes.

=======================================  =========  ==================  ================
norm                                     pattern    statistics per      affine per
=======================================  =========  ==================  ================
layer norm, RMS norm, trailing axes      ``run``    row                 element of the row
instance norm, channels first            ``run``    (sample, channel)   row
group norm, channels first               ``run``    (sample, group)     segment
group norm, channels last                ``run``    (sample, group)     element of a segment
batch norm, channels first               ``run``    channel             channel
batch norm, channels last, (N, C)        ``cols``   column              column
batch norm, channel-blocked              ``cols``   column of a block   column
instance norm, channels last             ``cols``   (sample, column)    column
layer norm, RMS norm over a middle axis  ``cols``   (sample, position)  row
=======================================  =========  ==================  ================

Which pattern a call takes depends on shape and axes alone, never on strides, and so does the order of every
summation: an array gives the same bits however it lies in memory. (A mask of `moments` that differs from
column to column makes a run of each.)
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import DTypeLike, NDArray

from . import _dtypes
from ._isa import extension

Array = NDArray[Any]


class State(NamedTuple):
    """Welford states of many sets of numbers: what `Moments` holds and backends return.

    `mean + mean_lo` is the mean, more precise than one float64, and `m2 + m2_lo` the sum of squared
    deviations. The arrays are float64 and have x's dimensions, with length 1 on the axes reduced over.
    """

    count: Array  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    mean: Array
    mean_lo: Array
    m2: Array
    m2_lo: Array


class Problem(NamedTuple):
    """One call, checked: ``out = activation((x - mean) / sqrt(var + eps) * weight + bias)``.

    Attributes
    ----------
    x : ndarray
        Of a supported dtype and native byte order, any strides.
    out : ndarray
        x's shape, any strides; it is x itself (same memory, same strides) or shares no memory with it.
    reduced : tuple of int
        The axes that each statistic is taken over, ascending.
    affine : tuple of int
        The axes that weight and bias vary along, ascending, whether or not they are given.
    weight, bias : ndarray or None
        C-contiguous, of x's compute type and number of dimensions, of length 1 but on `affine`.
    eps : float
    centred : bool
        Whether the mean is taken off. If not (RMS norm), it counts as 0 and var is the mean of squares.
    activation : str or None
        One of `ACTIVATIONS`.
    mask : ndarray of bool or None
        Of x's shape. What is False enters no statistic and comes out as 0.
    addends : pair of ndarray, or None
        x has yet to be written: it is their sum, rounded to x's dtype. They have x's shape and dtype and
        are x itself or share no memory with it.
    scale : ndarray of float32, or None
        Of `statistics_shape`, with `out` of int8: ``out = clip(rint(y / scale), -127, 127)``, y in x's
        compute type; 0 where y is NaN. Such a problem has neither a mask nor an activation.
    scale_is_given : bool
        If not, the scale is written too: the largest magnitude of y over 127, or 1 where that is 0.
    """

    x: Array
    out: Array
    reduced: tuple[int, ...]
    affine: tuple[int, ...]
    weight: Array | None
    bias: Array | None
    eps: float
    centred: bool = True
    activation: str | None = None
    mask: Array | None = None
    addends: tuple[Array, Array] | None = None
    scale: Array | None = None
    scale_is_given: bool = False

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        """x's shape with length 1 on the reduced axes."""
        return statistics_shape(self.x.shape, self.reduced)


#: In the order of enum wn_activation (src/state.h).
ACTIVATIONS = (None, "relu", "silu", "gelu", "gelu_tanh")


def statistics_shape(shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with length 1 on the reduced axes."""
    return tuple(1 if axis in reduced else length for axis, length in enumerate(shape))


def make_problem(
    x: Any,
    weight: Any,
    bias: Any,
    *,
    reduced: tuple[int, ...],
    affine: tuple[int, ...],
    eps: float,
    out: Array,
    centred: bool = True,
    activation: Any = None,
) -> Problem:
    """Check the arguments that all norms share. x is an array already, and `check_out` has seen `out`."""
    eps = check_eps(eps)
    check_activation(activation)
    compute = _dtypes.COMPUTE[x.dtype]
    affine_shape = tuple(x.shape[axis] for axis in affine)
    broadcast = tuple(length if axis in affine else 1 for axis, length in enumerate(x.shape))
    if weight is not None:
        weight = check_parameter(weight, "weight", affine_shape, compute).reshape(broadcast)
    if bias is not None:
        bias = check_parameter(bias, "bias", affine_shape, compute).reshape(broadcast)
    return Problem(x, out, reduced, affine, weight, bias, eps, centred, activation)


def check_activation(activation: Any) -> None:
    """Check the name of an activation."""
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        names = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation is {activation!r}, but must be one of {names}")


def check_axes(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Ascending non-negative axes. AxisError or ValueError as in NumPy."""
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    try:
        return tuple(sorted(normalize_axis_tuple(axis, ndim, argname="axis")))
    except OverflowError:
        raise np.exceptions.AxisError(
            f"axis {axis!r} is out of bounds for array of dimension {ndim}"
        ) from None
    except TypeError:
        raise TypeError(f"axis must be an int or a tuple of ints, got {axis!r}") from None


def check_number(value: Any, name: str) -> float:
    """`value` as a float; infinite where it is too large for one."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def check_eps(eps: Any) -> float:
    """Eps as a finite non-negative float."""
    value = check_number(eps, "eps")
    if not 0.0 <= value < math.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps!r}")
    return value


def check_parameter(value: Any, name: str, shape: tuple[int, ...], compute: np.dtype[Any]) -> Array:
    """`value` as a C-contiguous array of the compute type, after its shape was checked."""
    array = _dtypes.as_float_array(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but must have shape {shape}")
    flags = array.flags
    if array.dtype == compute and flags.c_contiguous and flags.aligned:
        return array
    with np.errstate(all="ignore"):
        return np.require(array, compute, ("C", "A"))


def check_mask(mask: Any, shape: tuple[int, ...], without: tuple[int, ...] = ()) -> Array:
    """`mask` broadcast to `shape`, of which it lacks the axes `without`."""
    try:
        array = np.asarray(mask)
    except ValueError as error:  # ragged lists
        raise ValueError(f"mask does not make an array: {error}") from None
    if array.dtype != np.bool_:
        raise TypeError(f"mask has dtype {array.dtype}, but must be bool")
    own_shape = tuple(length for axis, length in enumerate(shape) if axis not in without)
    try:
        return np.broadcast_to(np.expand_dims(np.broadcast_to(array, own_shape), without), shape)
    except ValueError:
        raise ValueError(
            f"mask has shape {array.shape}, but must have shape {own_shape} or broadcast to it"
        ) from None


def check_out(out: Any, x: Array, dtype: DTypeLike | None, name: str = "out") -> Array:
    """The array to write into: `out` after checks, or a new one."""
    wanted = x.dtype if dtype is None else _dtypes.as_output_dtype(dtype)
    if out is None:
        new: Array = np.empty(x.shape, wanted) if extension is None else extension.empty(x, wanted)
        return new
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != wanted or not out.dtype.isnative:
        raise TypeError(f"{name} has dtype {out.dtype}, but must have dtype {wanted}")
    if out.shape != x.shape:
        raise ValueError(f"{name} has shape {out.shape}, but must have x's shape {x.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if out.size and not out.flags.forc and _overlaps_itself(out):
        raise ValueError(f"{name} has elements that share memory with each other")
    return out


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements share memory, judged by strides: each must reach over all that is inside it."""
    reach = array.itemsize
    axes = zip(array.strides, array.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in axes if length > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def same_memory(a: Array, b: Array) -> bool:
    """Whether a and b are the same elements in the same order: safe to work in place."""
    return (
        a.dtype == b.dtype
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def overlaps_inputs(problem: Problem) -> bool:
    """Whether writing `out` could change an input that is still to be read."""
    out = problem.out
    wholes = (problem.x, *(problem.addends or ()))
    if any(not same_memory(a, out) and share_memory(a, out) for a in wholes):
        return True
    return any(p is not None and share_memory(p, out) for p in (problem.weight, problem.bias, problem.mask))


def share_memory(a: Array, b: Array) -> bool:
    """Whether the arrays have memory in common, or it is too hard to tell."""
    if not np.may_share_memory(a, b):  # cheap, and nearly always enough
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


class Layout(NamedTuple):
    """A problem in the form of the compiled drivers: see `wn_problem` in src/welnorm.h.

    In the pattern ``cols``, `group` adjacent columns share a statistic, 1 if each has its own. `axes` has a
    row per axis: length, strides of x and out in bytes, of weight and bias in elements, of the mask in bytes;
    first the `outer` axes, then the `reduced`, then the inner ones.
    """

    pattern: Literal["run", "cols"]
    outer: int
    reduced: int
    inner: int
    group: int
    axes: NDArray[np.int64]


def layout(
    x: Array,
    out: Array,
    reduced: tuple[int, ...],
    affine: tuple[int, ...],
    mask: Array | None = None,
    *,
    group_columns: bool = False,
) -> Layout:
    """Group the axes of a problem that is not empty. Adjacent axes that lie so in memory become one.

    With `group_columns`, a statistic over short segments with axes before them (group norm, channels last)
    becomes one over groups of columns; else `group` is always 1.
    """
    mask_strides = None if mask is None else mask.strides
    return _layout(x.shape, x.strides, out.strides, mask_strides, reduced, affine, group_columns)


_MAX_GROUP = 64  # columns: WN_TILE in src/job.h


# Cached: a pipeline makes the same few calls again and again, and this takes longer than a small kernel.
@functools.lru_cache(maxsize=256)
def _layout(
    shape: tuple[int, ...],
    x_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
    mask_strides: tuple[int, ...] | None,
    reduced: tuple[int, ...],
    affine: tuple[int, ...],
    group_columns: bool,
) -> Layout:
    mask_strides = mask_strides or (0,) * len(shape)
    affine_stride = dict.fromkeys(range(len(shape)), 0)
    stride = 1
    for axis in reversed(affine):
        affine_stride[axis] = stride
        stride *= shape[axis]
    # A batch of one is a batch: only reduced axes of length 1 do not count. Else a row on its own would be
    # summed in another order than the same row among others.
    axes = [axis for axis, length in enumerate(shape) if length > 1 or axis not in reduced]

    # The innermost group: trailing axes that are alike in whether they are reduced and in whether the
    # parameters vary along them.
    def kind(axis: int) -> tuple[bool, bool]:
        return axis in reduced, axis in affine

    inner: list[int] = []
    while axes and (not inner or kind(axes[-1]) == kind(inner[0])):
        inner.insert(0, axes.pop())
    is_run = not inner or inner[0] in reduced
    group = 1
    before = [axis for axis in axes if axis in reduced]
    if group_columns and is_run and before and before[-1] not in affine and inner and inner[0] in affine:
        columns = math.prod(shape[axis] for axis in inner)
        if columns <= _MAX_GROUP and axes[-1] in (before[-1], *affine):
            is_run, group = False, columns
            if axes[-1] not in reduced:  # it holds the groups
                inner.insert(0, axes.pop())
    rows = [axis for axis in axes if axis in reduced]
    outer = [axis for axis in axes if axis not in reduced]
    if not is_run and any(mask_strides[axis] for axis in inner):  # each column selects rows of its own
        is_run, outer, inner = True, outer + inner, [rows.pop()] if rows else []

    def merge(members: list[int]) -> list[tuple[int, ...]]:
        merged: list[tuple[int, ...]] = []
        for axis in members:
            if shape[axis] == 1:
                continue
            strides = x_strides[axis], out_strides[axis], affine_stride[axis], mask_strides[axis]
            new = (shape[axis], *strides)
            if merged and all(a == b * new[0] for a, b in zip(merged[-1][1:], new[1:], strict=True)):
                new = (merged.pop()[0] * new[0], *new[1:])
            merged.append(new)
        return merged

    groups = [merge(outer), merge(rows), merge(inner)]
    table = np.array([axis for members in groups for axis in members], dtype=np.int64).reshape(-1, 5)
    table.flags.writeable = False
    pattern: Literal["run", "cols"] = "run" if is_run else "cols"
    return Layout(pattern, len(groups[0]), len(groups[1]), len(groups[2]), group, table)
