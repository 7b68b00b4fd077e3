"""Mergeable statistics: Welford states over any axes, for data larger than memory or one machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _backends, _dtypes
from ._problem import check_axes, check_number, statistics_shape

__all__ = ["Moments", "mean_var", "moments"]

Float = NDArray[np.float64]
Axes = int | tuple[int, ...] | str | None

_UNKNOWN = "unknown"  # the axes of Moments that came from an array


class Moments:
    """Count, mean and sum of squared deviations (M2) of many sets of numbers, in float64.

    States of parts of the data merge into the state of the whole: batches of a stream, blocks of a file, the
    workers of a cluster. Make one with `moments`, or from an array that another process sent with
    `from_array`.

    References
    ----------
    B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4
    (1962). T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", COMPSTAT 1982.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> x = np.arange(12.0).reshape(4, 3)
    >>> m = wn.moments(x[:2], axis=0)
    >>> m.update(x[2:])
    Moments(count=4, shape=(3,))
    >>> m.mean
    array([4.5, 5.5, 6.5])
    >>> m.var()
    array([11.25, 11.25, 11.25])
    >>> m == wn.moments(x[:2], axis=0) + wn.moments(x[2:], axis=0)
    True
    """

    __slots__ = ("_axis", "_count", "_m2", "_mean", "_mean_lo")
    __hash__ = None  # type: ignore[assignment]

    _axis: Axes
    _count: Float
    # The mean is the pair _mean + _mean_lo: merging rounds to float64 only where a value leaves the object.
    _mean: Float
    _mean_lo: Float
    _m2: Float

    def __init__(self) -> None:
        raise TypeError("make Moments with welnorm.moments(x, axis) or Moments.from_array(array)")

    @classmethod
    def _make(cls, axis: Axes, count: Float, mean: Float, mean_lo: Float, m2: Float) -> Moments:
        self = cls.__new__(cls)
        self._axis = axis
        self._count, self._mean, self._mean_lo, self._m2 = count, mean, mean_lo, m2
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the statistics: that of the data without the axes they are taken over."""
        return self._mean.shape

    @property
    def count(self) -> Any:
        """How many values each statistic is of: an int, or an int64 array where that differs."""
        counts = self._count.astype(np.int64)
        first = int(counts.flat[0]) if counts.size else 0
        return first if np.all(counts == first) else counts

    @property
    def mean(self) -> Any:
        """Mean: float64 of `shape`; NaN where the count is 0."""
        return np.where(self._count > 0, self._mean + self._mean_lo, np.nan)[()]

    @property
    def m2(self) -> Any:
        """Sum of squared deviations from the mean: float64 of `shape`."""
        return self._m2.copy()[()]

    def var(self, ddof: int = 0) -> Any:
        """Variance, ``m2 / (count - ddof)``.

        Parameters
        ----------
        ddof : int, default 0
            0 for the population variance, 1 for the unbiased one.

        Returns
        -------
        float64 or ndarray of float64, of `shape`
            NaN where ``count <= ddof``.
        """
        degrees = self._count - check_number(ddof, "ddof")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(degrees > 0, self._m2 / degrees, np.nan)[()]

    def std(self, ddof: int = 0) -> Any:
        """Standard deviation, the square root of `var`."""
        return np.sqrt(self.var(ddof))

    def update(self, batch: ArrayLike) -> Moments:
        """Take in more data, in place.

        Parameters
        ----------
        batch : array_like
            Reduced over the axes of the `moments` call that made this object; what is left must have `shape`.

        Returns
        -------
        Moments
            This object.
        """
        if self._axis == _UNKNOWN:
            raise ValueError(
                "these Moments came from an array and know no axes: merge moments(batch, axis) instead"
            )
        axis = cast("int | tuple[int, ...] | None", self._axis)
        state = moments(_dtypes.as_float_array(batch, "batch"), axis)
        if state.shape != self.shape:
            raise ValueError(f"batch has statistics of shape {state.shape}, but must have {self.shape}")
        return self.merge(state)

    def merge(self, other: Moments) -> Moments:
        """Take in the data of another state, in place.

        Parameters
        ----------
        other : Moments
            Of the same `shape`. It is not changed.

        Returns
        -------
        Moments
            This object.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other must be Moments, got {type(other).__name__}")
        if other.shape != self.shape:
            raise ValueError(f"other has shape {other.shape}, but must have shape {self.shape}")
        count = self._count + other._count
        with np.errstate(all="ignore"):
            share = np.where(count > 0, other._count / count, 0.0)
            delta = (other._mean - self._mean) + (other._mean_lo - self._mean_lo)
            m2 = self._m2 + other._m2 + delta * delta * (self._count * share)
            mean, error = _two_sum(self._mean, delta * share)
            mean, mean_lo = _two_sum(mean, self._mean_lo + error)
            mean = np.where(np.isfinite(delta), mean, self._mean + other._mean)
        # an empty side adds nothing, not even the rounding of an addition
        for empty, full in ((self, other), (other, self)):
            alone = empty._count == 0
            mean = np.where(alone, full._mean, mean)
            mean_lo = np.where(alone, full._mean_lo, mean_lo)
            m2 = np.where(alone, full._m2, m2)
        self._count, self._mean, self._mean_lo, self._m2 = count, mean, mean_lo, m2
        return self

    def __add__(self, other: object) -> Moments:
        """Merge two states into a new one."""
        if not isinstance(other, Moments):
            return NotImplemented
        return self.copy().merge(other)

    @staticmethod
    def merge_all(states: Iterable[Moments]) -> Moments:
        """Merge many states into a new one, pairwise in a tree that depends on their order alone.

        Parameters
        ----------
        states : iterable of Moments
            At least one, all of one `shape`. They are not changed.

        Returns
        -------
        Moments
        """
        level = list(states)
        for state in level:
            if not isinstance(state, Moments):
                raise TypeError(f"states must hold Moments, got {type(state).__name__}")
        level = [state.copy() for state in level]
        if not level:
            raise ValueError("states is empty, but must hold at least one Moments")
        while len(level) > 1:
            pairs = [a.merge(b) for a, b in zip(level[::2], level[1::2], strict=False)]
            level = pairs + (level[-1:] if len(level) % 2 else [])
        return level[0]

    def copy(self) -> Moments:
        """Return an independent copy."""
        return Moments._make(self._axis, *(array.copy() for array in self._arrays()))

    def to_array(self) -> Float:
        """Counts, means and M2 in one array: what crosses a process or a network.

        Returns
        -------
        ndarray
            float64, of shape ``(3, *shape)``.
        """
        return np.stack([self._count, self._mean + self._mean_lo, self._m2])

    @staticmethod
    def from_array(array: ArrayLike) -> Moments:
        """Make a state from what `to_array` gave.

        Parameters
        ----------
        array : array_like
            Of shape ``(3, *shape)``: counts (whole, not negative), means, M2 (not negative).

        Returns
        -------
        Moments
            It merges, but has no axes to `update` over.
        """
        value = _dtypes.as_float_array(array, "array").astype(np.float64)
        if value.ndim < 1 or value.shape[0] != 3:
            raise ValueError(f"array has shape {value.shape}, but must have shape (3, ...)")
        count, mean, m2 = value
        if not np.all((count >= 0) & (count == np.floor(count)) & (count <= 2.0**53)):
            raise ValueError("array[0], the counts, must be whole numbers from 0 to 2**53")
        if np.any(m2 < 0):
            raise ValueError("array[2], the sums of squared deviations, must not be negative")
        return Moments._make(_UNKNOWN, count, mean, np.zeros_like(mean), m2)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Moments._make, (self._axis, *self._arrays()))

    def _arrays(self) -> tuple[Float, Float, Float, Float]:
        return self._count, self._mean, self._mean_lo, self._m2

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return all(
            np.array_equal(a, b, equal_nan=True) for a, b in zip(self._arrays(), other._arrays(), strict=True)
        )

    def __repr__(self) -> str:
        return f"Moments(count={self.count}, shape={self.shape})"


def _two_sum(a: Float, b: Float) -> tuple[Float, Float]:
    """a + b as a rounded sum and its exact error (Knuth); no error where the sum is not finite."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return total, np.where(np.isfinite(total), error, 0.0)


def moments(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Moments:
    """Count, mean and M2 of an array over the given axes, as a state that merges with others.

    float32 data is summed in float64, and the mean is carried as a pair: the statistics are right to the
    data's last digit at any offset, and have the same bits on any number of threads.

    Parameters
    ----------
    x : array_like
        float32 or float64, any strides; bool and integers are promoted to float64.
    axis : int or tuple of int, optional
        The axes to reduce over; all of them if not given.

    Returns
    -------
    Moments

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    See `Moments`.

    Examples
    --------
    >>> import welnorm as wn
    >>> m = wn.moments([2.0, 4.0, 6.0, 8.0])
    >>> m.count, float(m.mean), float(m.var())
    (4, 5.0, 5.0)
    """
    array = _dtypes.as_float_array(x, "x")
    reduced = tuple(range(array.ndim)) if axis is None else check_axes(axis, array.ndim)
    axis = tuple(axis) if isinstance(axis, list) else axis  # update() will want it as it is now
    kept = tuple(length for a, length in enumerate(array.shape) if a not in reduced)
    count = float(math.prod(array.shape[a] for a in reduced))
    if array.size == 0:
        zeros = np.zeros(kept)
        return Moments._make(axis, np.full(kept, count), zeros, zeros.copy(), zeros.copy())
    state = _backends.active().moments(array, reduced)
    mean, mean_lo, m2 = (np.asarray(value).reshape(kept) for value in state[1:])
    return Moments._make(axis, np.full(kept, count), mean, mean_lo, m2)


def mean_var(
    x: ArrayLike, axis: int | tuple[int, ...] | None = None, *, ddof: int = 0, keepdims: bool = False
) -> tuple[Any, Any]:
    """Mean and variance over the given axes, in one pass.

    As `np.mean` and `np.var`, but right for float32 data at any offset: within 1 ULP of the exact value.

    Parameters
    ----------
    x : array_like
        float32 or float64, any strides; bool and integers are promoted to float64.
    axis : int or tuple of int, optional
        The axes to reduce over; all of them if not given.
    ddof : int, default 0
        The variance is the sum of squared deviations over ``count - ddof``.
    keepdims : bool, default False
        Leave the reduced axes in the results, with length 1.

    Returns
    -------
    mean, var : scalar or ndarray
        Of x's dtype, or float64 for bool and integers; NaN where ``count <= ddof`` (mean: where it is 0).

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    References
    ----------
    See `Moments`.

    Examples
    --------
    >>> import numpy as np, welnorm as wn
    >>> mean, var = wn.mean_var(np.float32([40000, 40001, 40002, 40003]))
    >>> float(mean), float(var)
    (40001.5, 1.25)
    """
    array = _dtypes.as_float_array(x, "x")
    state = moments(array, axis)
    reduced = tuple(range(array.ndim)) if axis is None else check_axes(axis, array.ndim)
    shape = statistics_shape(array.shape, reduced) if keepdims else state.shape
    with np.errstate(over="ignore"):
        mean, var = (
            np.asarray(value, dtype=array.dtype).reshape(shape)[()] for value in (state.mean, state.var(ddof))
        )
    return mean, var
