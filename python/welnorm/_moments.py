"""Mergeable statistics: Welford states over any axes, for data larger than memory or one machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _backends, _dtypes
from ._problem import State, check_axes, check_mask, check_number, statistics_shape

__all__ = ["Moments", "mean_var", "moments"]

Float = NDArray[np.float64]
Axes = int | tuple[int, ...] | str | None

_UNKNOWN = "unknown"  # the axes of Moments that came from an array


class Moments:
    """Count, mean and sum of squared deviations (M2) of many sets of numbers, in float64.

    States of parts of the data merge into the state of the whole: batches of a stream, blocks of a file, the
    workers of a cluster. However the data is grouped, mean and variance agree to 2 units in the last place
    with those of one pass over all of it (for a mean that cancels: of the standard deviation). Make one with
    `moments`, or from an array that another process sent with `from_array`.

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

    __slots__ = ("_axis", "_state")
    __hash__ = None  # type: ignore[assignment]

    _axis: Axes
    # mean and m2 are pairs there: merging rounds to float64 only where a value leaves the object.
    _state: State

    def __init__(self) -> None:
        raise TypeError("make Moments with welnorm.moments(x, axis) or Moments.from_array(array)")

    @classmethod
    def _make(cls, axis: Axes, *state: Float) -> Moments:
        self = cls.__new__(cls)
        self._axis, self._state = axis, State(*state)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the statistics: that of the data without the axes they are taken over."""
        return self._state.mean.shape

    @property
    def count(self) -> Any:
        """How many values each statistic is of: an int, or an int64 array where that differs."""
        counts = self._state.count.astype(np.int64)
        first = int(counts.flat[0]) if counts.size else 0
        return first if np.all(counts == first) else counts

    @property
    def mean(self) -> Any:
        """Mean: float64 of `shape`; NaN where the count is 0."""
        state = self._state
        return np.where(state.count > 0, state.mean + state.mean_lo, np.nan)[()]

    @property
    def m2(self) -> Any:
        """Sum of squared deviations from the mean: float64 of `shape`."""
        return (self._state.m2 + self._state.m2_lo)[()]

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
        degrees = self._state.count - check_number(ddof, "ddof")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(degrees > 0, self.m2 / degrees, np.nan)[()]

    def std(self, ddof: int = 0) -> Any:
        """Standard deviation, the square root of `var`."""
        return np.sqrt(self.var(ddof))

    def update(self, batch: ArrayLike, *, mask: ArrayLike | None = None) -> Moments:
        """Take in more data, in place.

        Parameters
        ----------
        batch : array_like
            Reduced over the axes of the `moments` call that made this object; what is left must have `shape`.
        mask : array_like of bool, optional
            Which values count, as in `moments`.

        Returns
        -------
        Moments
            This object.
        """
        if isinstance(self._axis, str):
            raise ValueError(
                "these Moments came from an array and know no axes: merge moments(batch, axis) instead"
            )
        state = moments(_dtypes.as_float_array(batch, "batch"), self._axis, mask=mask)
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
        self._state = _merge(self._state, other._state)
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
        return Moments._make(self._axis, *(array.copy() for array in self._state))

    def to_array(self) -> Float:
        """Counts, means and M2 in one array: what crosses a process or a network.

        Returns
        -------
        ndarray
            float64, of shape ``(3, *shape)``.
        """
        return np.stack(self._rounded())

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
            Equal to the one that `to_array` was called on. It merges, but has no axes to `update` over.
        """
        value = _dtypes.as_float_array(array, "array").astype(np.float64)
        if value.ndim < 1 or value.shape[0] != 3:
            raise ValueError(f"array has shape {value.shape}, but must have shape (3, ...)")
        count, mean, m2 = value
        if not np.all((count >= 0) & (count == np.floor(count)) & (count <= 2.0**53)):
            raise ValueError("array[0], the counts, must be whole numbers from 0 to 2**53")
        if np.any(m2 < 0):
            raise ValueError("array[2], the sums of squared deviations, must not be negative")
        zeros = np.zeros_like(mean)
        return Moments._make(_UNKNOWN, count, mean, zeros, m2, zeros)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Moments._make, (self._axis, *self._state))

    def _rounded(self) -> tuple[Float, Float, Float]:
        state = self._state
        return state.count, state.mean + state.mean_lo, state.m2 + state.m2_lo

    def __eq__(self, other: object) -> bool:
        """Equal counts, means and M2, as float64."""
        if not isinstance(other, Moments):
            return NotImplemented
        pairs = zip(self._rounded(), other._rounded(), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    def __repr__(self) -> str:
        return f"Moments(count={self.count}, shape={self.shape})"


def _two_sum(a: Float, b: Float) -> tuple[Float, Float]:
    """a + b as a rounded sum and its exact error (Knuth); no error where the sum is not finite."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return total, np.where(np.isfinite(total), error, 0.0)


def _two_product(a: Float, b: Float) -> tuple[Float, Float]:
    """a * b as a rounded product and its exact error (Dekker); no error where halves leave the range."""
    product = a * b

    def halves(value: Float) -> tuple[Float, Float]:
        scaled = value * 134217729.0  # 2**27 + 1 (Veltkamp)
        high = scaled - (scaled - value)
        return high, value - high

    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, np.where(np.isfinite(error), error, 0.0)


_Pair = tuple[Float, Float]  # an unevaluated sum of a float64 and what rounding it lost


def _add(a: _Pair, b: _Pair) -> _Pair:
    total, error = _two_sum(a[0], b[0])
    return _two_sum(total, error + (a[1] + b[1]))


def _multiply(a: _Pair, b: _Pair) -> _Pair:
    product, error = _two_product(a[0], b[0])
    return _two_sum(product, error + (a[0] * b[1] + a[1] * b[0]))


def _divide(a: _Pair, b: Float) -> _Pair:
    quotient = a[0] / b
    product, error = _two_product(quotient, b)
    return _two_sum(quotient, (((a[0] - product) - error) + a[1]) / b)


def _merge(a: State, b: State) -> State:
    """Chan's form of Welford's update for whole sets, in pairs of float64; see `wn_merge` in src/state.h."""
    count = a.count + b.count
    with np.errstate(all="ignore"):
        safe = np.where(count > 0, count, 1.0)
        delta = _add((b.mean, b.mean_lo), (-a.mean, -a.mean_lo))
        step = _divide(_multiply(delta, (b.count, np.zeros_like(safe))), safe)
        mean, mean_lo = _add((a.mean, a.mean_lo), step)
        between = _multiply(_multiply(delta, (a.count, np.zeros_like(safe))), step)
        m2, m2_lo = _add(_add((a.m2, a.m2_lo), (b.m2, b.m2_lo)), between)
        finite = np.isfinite(delta[0])  # else there is inf in the data: inf + finite is inf
        mean, mean_lo = np.where(finite, mean, a.mean + b.mean), np.where(finite, mean_lo, 0.0)
    merged = State(count, mean, mean_lo, m2, m2_lo)
    for empty, full in ((a, b), (b, a)):  # which adds nothing, not even rounding
        alone = empty.count == 0
        if np.any(alone):
            merged = State(*(np.where(alone, x, y) for x, y in zip(full, merged, strict=True)))
    return merged


def moments(
    x: ArrayLike, axis: int | tuple[int, ...] | None = None, *, mask: ArrayLike | None = None
) -> Moments:
    """Count, mean and M2 of an array over the given axes, as a state that merges with others.

    Sums are carried as pairs of float64: the statistics are right to float64's last digit at any offset of
    the data, and have the same bits on any number of threads.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64, any strides; bool and integers are promoted to float64.
    axis : int or tuple of int, optional
        The axes to reduce over; all of them if not given.
    mask : array_like of bool, optional
        Which values count: of x's shape, or broadcastable to it.

    Returns
    -------
    Moments

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype or `mask` is not bool.
    ValueError
        If `mask` does not fit x.
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
    # update() will want it as it is now
    axis = (
        axis if axis is None or np.ndim(axis) == 0 else tuple(int(a) for a in cast("tuple[int, ...]", axis))
    )
    kept = tuple(length for a, length in enumerate(array.shape) if a not in reduced)
    selected = None if mask is None else check_mask(mask, array.shape)
    if array.size == 0:
        count = float(math.prod(array.shape[a] for a in reduced))
        return Moments._make(axis, np.full(kept, count), *np.zeros((4, *kept)))
    state = _backends.active().moments(array, reduced, selected)
    return Moments._make(axis, *(np.asarray(value).reshape(kept) for value in state))


def mean_var(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    ddof: int = 0,
    keepdims: bool = False,
    mask: ArrayLike | None = None,
) -> tuple[Any, Any]:
    """Mean and variance over the given axes, in one pass.

    As `np.mean` and `np.var`, but right for float32 data at any offset: within 1 ULP of the exact value.

    Parameters
    ----------
    x : array_like
        float16, bfloat16, float32 or float64, any strides; bool and integers are promoted to float64.
    axis : int or tuple of int, optional
        The axes to reduce over; all of them if not given.
    ddof : int, default 0
        The variance is the sum of squared deviations over ``count - ddof``.
    keepdims : bool, default False
        Leave the reduced axes in the results, with length 1.
    mask : array_like of bool, optional
        Which values count: of x's shape, or broadcastable to it.

    Returns
    -------
    mean, var : scalar or ndarray
        Of x's dtype, or float64 for bool and integers; NaN where ``count <= ddof`` (mean: where it is 0).

    Raises
    ------
    TypeError
        If `x` has an unsupported dtype or `mask` is not bool.
    ValueError
        If `mask` does not fit x.
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
    state = moments(array, axis, mask=mask)
    reduced = tuple(range(array.ndim)) if axis is None else check_axes(axis, array.ndim)
    shape = statistics_shape(array.shape, reduced) if keepdims else state.shape
    with np.errstate(over="ignore"):
        mean, var = (
            np.asarray(value, dtype=array.dtype).reshape(shape)[()] for value in (state.mean, state.var(ddof))
        )
    return mean, var
