"""The kernels of the Numba backend: blocks of a `Job`, their statistics, their merge and the apply step.

The algorithms are those of src/: sums of deviations from a value near the mean, a second pass over a block
where that value was far from it, and Chan's merge of blocks in pairs hi + lo. All arithmetic is in float64,
the apply step too, so float32 data needs no special case; float64 data whose squares leave the range is
scaled by a power of two. Statistics that are to be merged further (`Job.is_exact`) are summed in pairs.

Arrays of all dtypes are passed as bytes, so that everything is compiled once. What a mask leaves out is
replaced after it was loaded: by the shift, which adds nothing to the sums, and by 0 in the result.

A *unit* holds whole statistics: one in the pattern ``run``, a strip of columns in ``cols``. A *block* is some
rows of a unit by some inner elements. Which blocks exist and the order of every sum depend on the shape
alone: threads only decide who computes what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from .._problem import Array

STRIP = 512  # columns of a unit in the pattern cols, and elements that the apply step takes at a time
_LANES = 128  # running sums in the pattern run: element i of a row goes to sum i % _LANES
# Rows of a thread's scratch array. The sums of a second pass lie _AGAIN rows below those of the first. Sums
# in pairs take no second pass: the rounding errors of the total lie there.
_SCALE, _VALUE, _ZERO, _NARROW, _SHIFT, _TOTAL, _SQUARE, _LOST = range(8)
_MEAN, _OFFSET, _RSTD, _AGAIN, _LOST_TOTAL, _WORK_ROWS = 4, 5, 6, 4, 8, 12
FLOAT64, FLOAT32, FLOAT16, BFLOAT16 = range(4)
_RELU, _SILU, _GELU = 1, 2, 3  # see ACTIVATIONS
_SQRT_HALF = math.sqrt(0.5)
_GELU_TANH_SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
_index = np.uint64  # without a sign, Numba does not test for negative indices, and loops vectorise
_LARGEST = float(np.finfo(np.float64).max)

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Data(NamedTuple):
    """The arrays of a problem. Strides count elements.

    Where it matters, functions take those they need: a call counts references to every array it passes.
    """

    x: Array  # the memory that x lies in, as a vector of bytes
    y: Array
    weight: Array
    bias: Array
    mask: Array  # bytes; empty if everything counts
    widened: Array  # what each bit pattern of x stands for, if of 16 bits
    axes: Array  # the outer axes and the reduced ones: length, strides of x, y, weight and bias, mask


class Job(NamedTuple):
    """How a problem is cut into units and blocks. Steps count elements."""

    row_count: int
    inner_count: int
    x_step: int
    y_step: int
    affine_step: int
    mask_step: int  # 0 in the pattern cols: a row counts for all columns, or for none
    is_run: bool
    strips: int  # units of an outer index
    blocks: int  # blocks of a unit
    segments: int  # so many of them side by side
    block_rows: int
    block_inner: int
    x_type: int
    y_type: int
    is_double: bool  # x is float64: every block takes a second pass, and squares may leave the range
    is_centred: bool
    is_exact: bool  # sums in pairs, of data whose squares stay within the range
    activation: int
    eps: float


def _jit(**options: bool) -> Callable[[_Function], _Function]:
    """Compile by `numba.njit` with IEEE arithmetic, cached where there is a folder that can be written to."""
    njit: Any = numba.njit

    def decorate(function: _Function) -> _Function:
        try:
            compiled: _Function = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:
            compiled = njit(nogil=True, error_model="numpy", **options)(function)
        return compiled

    return decorate


@_jit(forceinline=True)
def _locate(axes: Array, index: int) -> tuple[int, int, int, int]:
    """Find where the index-th row begins in x, in y, in weight and bias, and in the mask."""
    x = y = affine = mask = 0
    for axis in range(len(axes) - 1, -1, -1):
        i = index
        if axis > 0:
            index = i // axes[axis, 0]
            i -= index * axes[axis, 0]
        x += i * axes[axis, 1]
        y += i * axes[axis, 2]
        affine += i * axes[axis, 3]
        mask += i * axes[axis, 4]
    return x, y, affine, mask


@_jit(forceinline=True)
def _extent(job: Job, unit: int, block: int) -> tuple[int, int, int, int]:
    """Return a block's first row, the one after its last, its first inner element and their number."""
    first = unit // job.strips * job.row_count
    row = block // job.segments * job.block_rows
    end = min(row + job.block_rows, job.row_count)
    inner = (unit % job.strips + block % job.segments) * job.block_inner
    return first + row, first + end, inner, min(job.block_inner, job.inner_count - inner)


@_jit(forceinline=True)
def _statistics(job: Job, unit: int) -> tuple[int, int]:
    """Return the number of a unit's first statistic, and how many it has."""
    if job.is_run:
        return unit, 1
    column = unit % job.strips * job.block_inner
    return unit // job.strips * job.inner_count + column, min(job.block_inner, job.inner_count - column)


@_jit(forceinline=True)
def _load_floats(x: Array, at: int, step: int, n: int, work: Array) -> None:
    if step == 1:
        for i in range(n):
            work[_VALUE, i] = x[_index(at + i)] * work[_SCALE, i]
    else:
        for i in range(n):
            work[_VALUE, i] = x[_index(at + i * step)] * work[_SCALE, i]


@_jit(forceinline=True)
def _load(job: Job, x: Array, widened: Array, at: int, n: int, work: Array) -> None:
    if job.x_type == FLOAT64:
        _load_floats(x.view(np.float64), at, job.x_step, n, work)
    elif job.x_type == FLOAT32:
        _load_floats(x.view(np.float32), at, job.x_step, n, work)
    else:
        bits = x.view(np.uint16)
        for i in range(n):
            work[_VALUE, i] = widened[_index(bits[_index(at + i * job.x_step)])] * work[_SCALE, i]


@_jit(forceinline=True)
def _replace_masked(job: Job, mask: Array, at: int, n: int, work: Array, row: int) -> None:
    """Put values from a row of the scratch array where the mask is False: x may be NaN there."""
    for i in range(n):
        if mask[_index(at + i * job.mask_step)] == 0:
            work[_VALUE, i] = work[row, i]


@_jit(forceinline=True)
def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Knuth's: sum and error are a + b exactly; no error where the sum is not finite."""
    s = a + b
    b_part = s - a
    error = (a - (s - b_part)) + (b - b_part)
    return s, (error if abs(s) <= _LARGEST else 0.0)


@_jit(forceinline=True)
def _halves(value: float) -> tuple[float, float]:
    """Veltkamp's: the upper and the lower 26 bits."""
    scaled = value * 134217729.0  # 2**27 + 1
    high = scaled - (scaled - value)
    return high, value - high


@_jit(forceinline=True)
def _two_product(a: float, b: float) -> tuple[float, float]:
    """Dekker's: product and error are a * b exactly; no error where halves leave the range."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, (error if abs(error) <= _LARGEST else 0.0)


_Pair = tuple[float, float]  # an unevaluated sum of a float64 and what rounding it lost


@_jit(forceinline=True)
def _add_pairs(a: _Pair, b: _Pair) -> _Pair:
    total, error = _two_sum(a[0], b[0])
    return _two_sum(total, error + (a[1] + b[1]))


@_jit(forceinline=True)
def _multiply_pairs(a: _Pair, b: _Pair) -> _Pair:
    product, error = _two_product(a[0], b[0])
    return _two_sum(product, error + (a[0] * b[1] + a[1] * b[0]))


@_jit(forceinline=True)
def _divide_pair(a: _Pair, b: float) -> _Pair:
    quotient = a[0] / b
    product, error = _two_product(quotient, b)
    return _two_sum(quotient, (((a[0] - product) - error) + a[1]) / b)


@_jit(forceinline=True)
def _add_row(n: int, lanes: int, work: Array, sums: int, is_double: bool) -> None:
    """Add elements to the sums; float64 data needs what rounding takes from the sum of squares, too."""
    for first in range(0, n, lanes):
        if is_double:
            for i in range(min(lanes, n - first)):
                d = work[_VALUE, _index(first + i)] - work[_SHIFT + sums, i]
                work[_TOTAL + sums, i] += d
                work[_SQUARE + sums, i], lost = _two_sum(work[_SQUARE + sums, i], d * d)
                work[_LOST + sums, i] += lost
        else:
            for i in range(min(lanes, n - first)):
                d = work[_VALUE, _index(first + i)] - work[_SHIFT + sums, i]
                work[_TOTAL + sums, i] += d
                work[_SQUARE + sums, i] += d * d


@_jit(forceinline=True)
def _add_row_exactly(n: int, lanes: int, work: Array) -> None:
    """Add elements to the sums and all that rounding takes from them, that of the deviations included."""
    for first in range(0, n, lanes):
        for i in range(min(lanes, n - first)):
            d, error = _two_sum(work[_VALUE, _index(first + i)], -work[_SHIFT, i])
            work[_TOTAL, i], lost = _two_sum(work[_TOTAL, i], d)
            work[_LOST_TOTAL, i] += lost + error
            square, square_error = _two_product(d, d)
            work[_SQUARE, i], lost = _two_sum(work[_SQUARE, i], square)
            work[_LOST, i] += lost + (square_error + 2.0 * d * error)


@_jit()
def _fold(work: Array, row: int, n: int) -> None:
    """Add the first n values of a row up into its first, by halves."""
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            work[row, i] += work[row, _index(half + i)]
        n = half


@_jit()
def _fold_pairs(work: Array, row: int, low_row: int, n: int) -> None:
    """Add the first n pairs, whose parts lie in two rows, up into the first."""
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            work[row, i], error = _two_sum(work[row, i], work[row, _index(half + i)])
            work[low_row, i] += work[low_row, _index(half + i)] + error
        n = half


@_jit()
def _add_block(job: Job, data: Data, unit: int, block: int, work: Array, sums: int) -> int:
    """Sum deviations from the shift, and their squares: for each column or, in the pattern run, in lanes.

    Return how many sums of each kind there are.
    """
    row, end, inner, n = _extent(job, unit, block)
    lanes = min(n, _LANES) if job.is_run else n
    is_masked = len(data.mask) > 0
    for c in range(lanes):
        work[_TOTAL + sums, c] = work[_SQUARE + sums, c] = work[_LOST + sums, c] = 0.0
        if job.is_exact:
            work[_LOST_TOTAL, c] = 0.0
    for c in range(min(n, STRIP) if job.is_run else 0):
        work[_SHIFT + sums, c] = work[_SHIFT + sums, 0]
    for r in range(row, end):
        x_row, _, _, mask_row = _locate(data.axes, r)
        for i in range(inner, inner + n, STRIP):
            part = min(STRIP, inner + n - i)
            _load(job, data.x, data.widened, x_row + i * job.x_step, part, work)
            if is_masked:
                _replace_masked(job, data.mask, mask_row + i * job.mask_step, part, work, _SHIFT + sums)
            if job.is_exact:
                _add_row_exactly(part, lanes, work)
            else:
                _add_row(part, lanes, work, sums, job.is_double)
    return lanes


@_jit(forceinline=True)
def _sum_block(job: Job, data: Data, unit: int, block: int, work: Array, sums: int) -> None:
    """Sum deviations from the shift, and their squares: for each column or, in the pattern run, in all."""
    lanes = _add_block(job, data, unit, block, work, sums)
    for c in range(lanes):
        work[_SQUARE + sums, c] += work[_LOST + sums, c]
    if job.is_run:
        _fold(work, _TOTAL + sums, lanes)
        _fold(work, _SQUARE + sums, lanes)


@_jit(forceinline=True)
def _needs_second_pass(job: Job, total: float, square: float, count: float) -> bool:
    """Tell whether the mean is so far from the shift that digits are lost; no if the sums are not finite."""
    moved = total * (total / count)
    return job.is_centred and (0.0 if job.is_double else 2.0**20 * (square - moved)) < moved <= _LARGEST


@_jit(forceinline=True)
def _find_kept(job: Job, data: Data, unit: int, block: int) -> tuple[float, int]:
    """Return how many elements count (in the pattern cols, of a column), and where the first is in x."""
    row, end, inner, n = _extent(job, unit, block)
    width = n if job.is_run else 1
    if len(data.mask) == 0:
        return float((end - row) * width), _locate(data.axes, row)[0] + inner * job.x_step
    count = first = 0
    for r in range(row, end):
        x_row, _, _, mask_row = _locate(data.axes, r)
        at = mask_row + inner * job.mask_step
        before = count
        for i in range(width):
            count += data.mask[_index(at + i * job.mask_step)]
        if before == 0 and count > 0:
            i = 0
            while data.mask[at + i * job.mask_step] == 0:
                i += 1
            first = x_row + (inner + i) * job.x_step
    return float(count), first


@_jit(forceinline=True)
def _moments_block(job: Job, data: Data, unit: int, block: int, work: Array, state: Array, at: int) -> None:
    """Write the state of one block: count, mean, mean_lo, m2 and m2_lo from state[:, at] on."""
    columns = 1 if job.is_run else _extent(job, unit, block)[3]
    count, first = _find_kept(job, data, unit, block)
    for c in range(columns):
        state[0, at + c] = count
        if count == 0.0:
            state[1, at + c] = state[2, at + c] = state[3, at + c] = state[4, at + c] = 0.0
    if count == 0.0:
        return
    _load(job, data.x, data.widened, first, columns, work)
    for c in range(columns):
        is_shift = job.is_centred and abs(work[_VALUE, c]) <= _LARGEST
        work[_SHIFT, c] = work[_VALUE, c] if is_shift else 0.0
    if job.is_exact:
        _exact_moments(job, data, unit, block, work, state, at)
    else:
        _fast_moments(job, data, unit, block, work, state, at)


@_jit()
def _fast_moments(job: Job, data: Data, unit: int, block: int, work: Array, state: Array, at: int) -> None:
    """Write what `_moments_block` promises, but the count. See src/kernels/moments.tpl.h."""
    columns = 1 if job.is_run else _extent(job, unit, block)[3]
    count = state[0, at]
    _sum_block(job, data, unit, block, work, 0)
    again = False
    for c in range(columns):
        again |= _needs_second_pass(job, work[_TOTAL, c], work[_SQUARE, c], count)
        work[_SHIFT + _AGAIN, c] = work[_SHIFT, c] + work[_TOTAL, c] / count
    if again:
        _sum_block(job, data, unit, block, work, _AGAIN)
    for c in range(columns):
        # not all of a strip: a column's bits do not depend on its neighbours
        sums = _AGAIN if _needs_second_pass(job, work[_TOTAL, c], work[_SQUARE, c], count) else 0
        total = work[_TOTAL + sums, c] if job.is_centred else 0.0
        m2 = work[_SQUARE + sums, c] - total * (total / count)
        state[1, at + c], state[2, at + c] = _two_sum(work[_SHIFT + sums, c], total / count)
        state[3, at + c], state[4, at + c] = (0.0 if m2 < 0.0 else m2), 0.0


@_jit()
def _exact_moments(job: Job, data: Data, unit: int, block: int, work: Array, state: Array, at: int) -> None:
    """Write what `_moments_block` promises, but the count: in pairs, which makes up for any shift.

    The shift is one of the data, so the sum of squares is at most count + 1 times M2.
    """
    columns = 1 if job.is_run else _extent(job, unit, block)[3]
    lanes = _add_block(job, data, unit, block, work, 0)
    if job.is_run:
        _fold_pairs(work, _TOTAL, _LOST_TOTAL, lanes)
        _fold_pairs(work, _SQUARE, _LOST, lanes)
    for c in range(columns):
        total = _two_sum(work[_TOTAL, c], work[_LOST_TOTAL, c])
        square = _two_sum(work[_SQUARE, c], work[_LOST, c])
        moved = _divide_pair(total, state[0, at + c])
        excess = _multiply_pairs(total, moved)
        m2, m2_lo = _add_pairs(square, (-excess[0], -excess[1]))
        state[1, at + c], state[2, at + c] = _add_pairs((work[_SHIFT, c], 0.0), moved)
        state[3, at + c], state[4, at + c] = (0.0, 0.0) if m2 < 0.0 else (m2, m2_lo)


@_jit()
def _merge(a: Array, a_at: int, b: Array, b_at: int, columns: int) -> None:
    """Welford's update for whole sets, b into a, in pairs: the same as in `welnorm._moments`."""
    for c in range(columns):
        i, j = a_at + c, b_at + c
        if b[0, j] == 0.0:
            continue
        if a[0, i] == 0.0:
            a[:, i] = b[:, j]
            continue
        count = a[0, i] + b[0, j]
        a_mean, b_mean = (a[1, i], a[2, i]), (b[1, j], b[2, j])
        delta = _add_pairs(b_mean, (-a_mean[0], -a_mean[1]))
        step = _divide_pair(_multiply_pairs(delta, (b[0, j], 0.0)), count)
        between = _multiply_pairs(_multiply_pairs(delta, (a[0, i], 0.0)), step)
        within = _add_pairs((a[3, i], a[4, i]), (b[3, j], b[4, j]))
        finite = abs(delta[0]) <= _LARGEST  # else there is inf in the data: inf + finite is inf
        a[1, i], a[2, i] = _add_pairs(a_mean, step) if finite else (a_mean[0] + b_mean[0], 0.0)
        a[3, i], a[4, i] = _add_pairs(within, between)
        a[0, i] = count


@_jit(forceinline=True)
def _is_out_of_range(job: Job, m2: float) -> bool:
    return job.is_double and (not m2 <= 2.0**1000 or (m2 < 2.0**-900 and job.eps < 2.0**-900))


@_jit()
def _rescale(job: Job, data: Data, unit: int, work: Array, state: Array, at: int) -> None:
    """Make the state again, of the data times a power of two that brings columns out of range to about 1."""
    columns = _statistics(job, unit)[1]
    x = data.x.view(np.float64)
    for c in range(columns):
        work[_SCALE, c] = math.sqrt(job.eps)
    for block in range(job.blocks):
        row, end, inner, n = _extent(job, unit, block)
        for r in range(row, end):
            x_row, _, _, mask_row = _locate(data.axes, r)
            for i in range(inner, inner + n):
                if len(data.mask) > 0 and data.mask[mask_row + i * job.mask_step] == 0:
                    continue
                value = abs(x[x_row + i * job.x_step])
                c = 0 if job.is_run else i - inner
                if work[_SCALE, c] < value <= _LARGEST:
                    work[_SCALE, c] = value
    for c in range(columns):
        m2 = state[3, at + c]
        highest = 0 if m2 < 1.0 else 1000  # a constant slice is not scaled down: eps could become 0
        exponent = min(max(math.frexp(work[_SCALE, c])[1], -1000), highest)
        work[_SCALE, c] = math.ldexp(1.0, -exponent) if _is_out_of_range(job, m2) else 1.0
    if job.is_run:
        work[_SCALE] = work[_SCALE, 0]
    block_state = np.empty((5, columns))
    for block in range(job.blocks):
        into, into_at = (state, at) if block == 0 else (block_state, 0)
        _moments_block(job, data, unit, block, work, into, into_at)
        if block > 0:
            _merge(state, at, block_state, 0, columns)


@_jit(forceinline=True)
def _finish(
    job: Job, data: Data, unit: int, work: Array, state: Array, at: int, norm: Array, norm_at: int
) -> None:
    """Write what the apply step needs from norm[:, norm_at] on: y = (x * scale - mean) * rstd - offset."""
    columns = _statistics(job, unit)[1]
    for c in range(columns):
        work[_SCALE, c] = 1.0
    for c in range(columns):
        if _is_out_of_range(job, state[3, at + c]):
            _rescale(job, data, unit, work, state, at)
            break
    for c in range(columns):
        i, j, scale = at + c, norm_at + c, work[_SCALE, c]
        var = state[3, i] / max(state[0, i], 1.0)
        rstd = 1.0 / math.sqrt(var + job.eps * scale * scale)
        norm[0, j], norm[1, j], norm[2, j], norm[3, j] = state[1, i], state[2, i] * rstd, rstd, scale
        state[1, i] /= scale
        state[2, i] /= scale
        state[3, i] = state[3, i] / scale / scale
        state[4, i] = state[4, i] / scale / scale


@_jit(forceinline=True)
def _multiply_add(value: float, weight: float, bias: float) -> float:
    """Value * weight + bias, finite even if only the product is not."""
    y = value * weight + bias
    return y if abs(y) <= _LARGEST else 4.0 * (0.25 * value * weight + 0.25 * bias)


@_jit(forceinline=True)
def _affine(n: int, work: Array, weight: Array, bias: Array, at: int, step: int) -> None:
    if step == 1:
        for i in range(n):
            work[_VALUE, i] = _multiply_add(work[_VALUE, i], weight[_index(at + i)], bias[_index(at + i)])
    else:
        w, b = weight[at], bias[at]
        for i in range(n):
            work[_VALUE, i] = _multiply_add(work[_VALUE, i], w, b)


@_jit(forceinline=True)
def _logistic(t: float) -> float:
    e = math.exp(-abs(t))
    return (e if t < 0.0 else 1.0) / (1.0 + e)


@_jit()
def _activate(n: int, work: Array, activation: int) -> None:
    """Apply an activation; the formulas are those of the backend `reference`."""
    if activation == _RELU:
        for i in range(n):
            y = work[_VALUE, i]
            work[_VALUE, i] = 0.0 if y < 0.0 else y
    elif activation == _SILU:
        for i in range(n):
            work[_VALUE, i] *= _logistic(work[_VALUE, i])
    elif activation == _GELU:
        for i in range(n):
            y = work[_VALUE, i]
            work[_VALUE, i] = y * (0.5 * math.erfc(y * -_SQRT_HALF))
    else:
        for i in range(n):
            y = work[_VALUE, i]
            work[_VALUE, i] = y * _logistic(_GELU_TANH_SLOPE * (y + 0.044715 * (y * y * y)))


@_jit(forceinline=True)
def _store_floats(n: int, work: Array, y: Array, at: int, step: int) -> None:
    if step == 1:
        for i in range(n):
            y[_index(at + i)] = work[_VALUE, i]
    else:
        for i in range(n):
            y[_index(at + i * step)] = work[_VALUE, i]


@_jit(forceinline=True)
def _shift_off(bits: int, count: int) -> int:
    """Shift out the last bits of a number, rounding to nearest even."""
    return (bits + (1 << (count - 1)) - 1 + (bits >> count & 1)) >> count


@_jit(forceinline=True)
def _to_bfloat16(magnitude: int) -> int:
    """Round the bits of a float32, without its sign."""
    return 0x7FC0 if magnitude > 0x7F800000 else _shift_off(magnitude, 16)


@_jit(forceinline=True)
def _to_float16(magnitude: int) -> int:
    """Round the bits of a float32, without its sign."""
    if magnitude > 0x7F800000:
        return 0x7E00 | (magnitude >> 13 & 0x3FF)
    if magnitude >= 0x38800000:  # 2**-14, the smallest normal number; the exponent's bias is less by 112
        return min(_shift_off(magnitude - (112 << 23), 13), 0x7C00)
    significand = magnitude & 0x7FFFFF | 0x800000  # as if it were normal: if not, nothing is left of it
    return _shift_off(significand, min(126 - (magnitude >> 23), 62))


@_jit()
def _make_odd(n: int, work: Array, narrow: Array, bits: Array) -> None:
    """Make inexact float32 values odd, so that rounding on to float16 gives what rounding once gives.

    (Rounding of float64 to bfloat16 is defined by ml_dtypes, which goes by way of float32.)
    """
    for i in range(n):
        wide, rounded = abs(work[_VALUE, i]), abs(narrow[i])
        if rounded > wide:
            bits[i] = (bits[i] - 1) | 1
        elif rounded < wide:
            bits[i] |= 1


@_jit(forceinline=True)
def _store(job: Job, n: int, work: Array, y: Array, at: int) -> None:
    """Round to the compute type, and from there to the type of y."""
    if job.y_type == FLOAT32:
        _store_floats(n, work, y.view(np.float32), at, job.y_step)
    elif job.y_type == FLOAT64:
        if not job.is_double:
            for i in range(n):
                work[_VALUE, i] = np.float32(work[_VALUE, i])
        _store_floats(n, work, y.view(np.float64), at, job.y_step)
    else:
        narrow = work[_NARROW].view(np.float32)
        for i in range(n):
            narrow[i] = work[_VALUE, i]
        bits, halves = narrow.view(np.uint32), y.view(np.uint16)
        if job.is_double and job.y_type == FLOAT16:
            _make_odd(n, work, narrow, bits)
        for i in range(n):
            magnitude, sign = bits[i] & 0x7FFFFFFF, bits[i] >> 16 & 0x8000
            half = _to_float16(magnitude) if job.y_type == FLOAT16 else _to_bfloat16(magnitude)
            halves[_index(at + i * job.y_step)] = sign | half


@_jit(forceinline=True)
def _normalize(n: int, work: Array, is_run: bool) -> None:
    if is_run:
        mean, offset, rstd = work[_MEAN, 0], work[_OFFSET, 0], work[_RSTD, 0]
        for i in range(n):
            work[_VALUE, i] = (work[_VALUE, i] - mean) * rstd - offset
    else:
        for c in range(n):
            work[_VALUE, c] = (work[_VALUE, c] - work[_MEAN, c]) * work[_RSTD, c] - work[_OFFSET, c]


@_jit(forceinline=True)
def _apply_block(job: Job, data: Data, unit: int, block: int, work: Array, norm: Array, at: int) -> None:
    row, end, inner, n = _extent(job, unit, block)
    is_masked = len(data.mask) > 0
    for c in range(min(n, STRIP)):
        i = at if job.is_run else at + c
        work[_MEAN, c], work[_OFFSET, c] = norm[0, i], norm[1, i]
        work[_RSTD, c], work[_SCALE, c] = norm[2, i], norm[3, i]
    for r in range(row, end):
        x_row, y_row, affine_row, mask_row = _locate(data.axes, r)
        for i in range(inner, inner + n, STRIP):
            part = min(STRIP, inner + n - i)
            _load(job, data.x, data.widened, x_row + i * job.x_step, part, work)
            _normalize(part, work, job.is_run)
            _affine(part, work, data.weight, data.bias, affine_row + i * job.affine_step, job.affine_step)
            if job.activation > 0:
                _activate(part, work, job.activation)
            if is_masked:
                _replace_masked(job, data.mask, mask_row + i * job.mask_step, part, work, _ZERO)
            _store(job, part, work, data.y, y_row + i * job.y_step)


@_jit()
def _make_work() -> Array:
    work = np.empty((_WORK_ROWS, STRIP))
    work[_ZERO] = 0.0
    return work


@_jit()
def merge_units(job: Job, data: Data, states: Array, norms: Array, units: int) -> None:
    """Merge the states of a unit's blocks into that of its first, and finish it if that is to be applied."""
    work = _make_work()
    for unit in range(units):
        first, columns = _statistics(job, unit)
        for block in range(1, job.blocks):
            _merge(states[0], first, states[block], first, columns)
        if not job.is_exact:
            _finish(job, data, unit, work, states[0], first, norms, first)


@_jit()
def sweep(
    job: Job, data: Data, measure: bool, write: bool, states: Array, norms: Array, begin: int, end: int
) -> None:
    """Take the statistics of some blocks, or write their results, or both: then each block is a unit.

    What `states` or `norms` has no room for is not kept.
    """
    work = _make_work()
    state_step, norm_step = min(states.shape[2], 1), min(norms.shape[1], 1)
    if state_step == 0:
        states = np.empty((1, 5, STRIP))
    if norm_step == 0:
        norms = np.empty((4, STRIP))
    for task in range(begin, end):
        unit, block = task // job.blocks, task % job.blocks
        first = _statistics(job, unit)[0]
        state_at, norm_at = first * state_step, first * norm_step
        if measure:
            for c in range(STRIP):
                work[_SCALE, c] = 1.0
            _moments_block(job, data, unit, block, work, states[block], state_at)
            if job.blocks == 1 and not job.is_exact:
                _finish(job, data, unit, work, states[0], state_at, norms, norm_at)
        if write:
            _apply_block(job, data, unit, block, work, norms, norm_at)


@_jit(parallel=True)
def parallel_sweep(
    job: Job, data: Data, measure: bool, write: bool, states: Array, norms: Array, tasks: int, threads: int
) -> None:
    for thread in numba.prange(threads):
        begin, end = tasks * thread // threads, tasks * (thread + 1) // threads
        sweep(job, data, measure, write, states, norms, begin, end)
