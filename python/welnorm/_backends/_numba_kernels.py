"""The kernels of the Numba backend: blocks of a `Job`, their statistics, their merge and the apply step.

The algorithms are those of src/: sums of deviations from a value near the mean, a second pass over a block
where that value was far from it, and Chan's merge of blocks with the mean as a pair hi + lo. All arithmetic
is in float64, the apply step too, so float32 data needs no special case; float64 data whose squares leave
the range is scaled by a power of two.

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
# Rows of a thread's scratch array. The sums of a second pass lie _AGAIN rows below those of the first.
_SCALE, _VALUE, _SHIFT, _TOTAL, _SQUARE, _LOST = range(6)
_MEAN, _OFFSET, _RSTD, _AGAIN, _WORK_ROWS = 2, 3, 4, 4, 10
_index = np.uint64  # without a sign, Numba does not test for negative indices, and loops vectorise
_LARGEST = float(np.finfo(np.float64).max)

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Data(NamedTuple):
    """The arrays of a problem. Strides count elements."""

    x: Array  # the memory that x lies in, as a vector
    y: Array
    weight: Array
    bias: Array
    axes: Array  # the outer axes and the reduced ones: length, strides of x, of y, of weight and bias


class Job(NamedTuple):
    """How a problem is cut into units and blocks. Steps count elements."""

    row_count: int
    inner_count: int
    x_step: int
    y_step: int
    affine_step: int
    is_run: bool
    strips: int  # units of an outer index
    blocks: int  # blocks of a unit
    segments: int  # so many of them side by side
    block_rows: int
    block_inner: int
    is_double: bool  # x is float64: every block takes a second pass, and squares may leave the range
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


@_jit()
def _locate(axes: Array, index: int) -> tuple[int, int, int]:
    """Find where the index-th row begins in x, in y, and in weight and bias."""
    x = y = affine = 0
    for axis in range(len(axes) - 1, -1, -1):
        i = index
        if axis > 0:
            index = i // axes[axis, 0]
            i -= index * axes[axis, 0]
        x += i * axes[axis, 1]
        y += i * axes[axis, 2]
        affine += i * axes[axis, 3]
    return x, y, affine


@_jit()
def _extent(job: Job, unit: int, block: int) -> tuple[int, int, int, int]:
    """Return a block's first row, the one after its last, its first inner element and their number."""
    first = unit // job.strips * job.row_count
    row = block // job.segments * job.block_rows
    end = min(row + job.block_rows, job.row_count)
    inner = (unit % job.strips + block % job.segments) * job.block_inner
    return first + row, first + end, inner, min(job.block_inner, job.inner_count - inner)


@_jit()
def _statistics(job: Job, unit: int) -> tuple[int, int]:
    """Return the number of a unit's first statistic, and how many it has."""
    if job.is_run:
        return unit, 1
    column = unit % job.strips * job.block_inner
    return unit // job.strips * job.inner_count + column, min(job.block_inner, job.inner_count - column)


@_jit()
def _load(x: Array, at: int, step: int, n: int, work: Array) -> None:
    if step == 1:
        for i in range(n):
            work[_VALUE, i] = x[_index(at + i)] * work[_SCALE, i]
    else:
        for i in range(n):
            work[_VALUE, i] = x[_index(at + i * step)] * work[_SCALE, i]


@_jit()
def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Knuth's: sum and error are a + b exactly; no error where the sum is not finite."""
    s = a + b
    b_part = s - a
    error = (a - (s - b_part)) + (b - b_part)
    return s, (error if abs(s) <= _LARGEST else 0.0)


@_jit()
def _add(n: int, work: Array, sums: int, is_double: bool) -> None:
    """Add a row to the sums; float64 data needs what rounding takes from the sum of squares, too."""
    if is_double:
        for i in range(n):
            d = work[_VALUE, i] - work[_SHIFT + sums, i]
            work[_TOTAL + sums, i] += d
            work[_SQUARE + sums, i], lost = _two_sum(work[_SQUARE + sums, i], d * d)
            work[_LOST + sums, i] += lost
    else:
        for i in range(n):
            d = work[_VALUE, i] - work[_SHIFT + sums, i]
            work[_TOTAL + sums, i] += d
            work[_SQUARE + sums, i] += d * d


@_jit()
def _fold(work: Array, row: int, n: int) -> None:
    """Add the first n values of a row up into its first, by halves."""
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            work[row, i] += work[row, _index(half + i)]
        n = half


@_jit()
def _add_block(job: Job, data: Data, unit: int, block: int, work: Array, sums: int) -> None:
    """Sum deviations from the shift, and their squares: for each column or, in the pattern run, in all."""
    row, end, inner, n = _extent(job, unit, block)
    lanes = min(n, _LANES) if job.is_run else n
    for c in range(lanes):
        work[_TOTAL + sums, c] = work[_SQUARE + sums, c] = work[_LOST + sums, c] = 0.0
        if job.is_run:
            work[_SHIFT + sums, c] = work[_SHIFT + sums, 0]
    for r in range(row, end):
        at = _locate(data.axes, r)[0] + inner * job.x_step
        for i in range(0, n, lanes):
            _load(data.x, at + i * job.x_step, job.x_step, min(lanes, n - i), work)
            _add(min(lanes, n - i), work, sums, job.is_double)
    for c in range(lanes):
        work[_SQUARE + sums, c] += work[_LOST + sums, c]
    if job.is_run:
        _fold(work, _TOTAL + sums, lanes)
        _fold(work, _SQUARE + sums, lanes)


@_jit()
def _needs_second_pass(job: Job, total: float, square: float, count: float) -> bool:
    """Tell whether the mean is so far from the shift that digits are lost; no if the sums are not finite."""
    moved = total * (total / count)
    return (0.0 if job.is_double else 2.0**20 * (square - moved)) < moved <= _LARGEST


@_jit()
def _moments_block(job: Job, data: Data, unit: int, block: int, work: Array, state: Array, at: int) -> None:
    """Write count, mean, mean_lo and m2 of one block from state[:, at] on. See src/kernels/moments.tpl.h."""
    row, end, inner, n = _extent(job, unit, block)
    columns = 1 if job.is_run else n
    count = float((end - row) * (n if job.is_run else 1))
    _load(data.x, _locate(data.axes, row)[0] + inner * job.x_step, job.x_step, columns, work)
    for c in range(columns):
        work[_SHIFT, c] = work[_VALUE, c] if abs(work[_VALUE, c]) <= _LARGEST else 0.0
    _add_block(job, data, unit, block, work, 0)
    again = False
    for c in range(columns):
        again |= _needs_second_pass(job, work[_TOTAL, c], work[_SQUARE, c], count)
        work[_SHIFT + _AGAIN, c] = work[_SHIFT, c] + work[_TOTAL, c] / count
    if again:
        _add_block(job, data, unit, block, work, _AGAIN)
    for c in range(columns):
        # not all of a strip: a column's bits do not depend on its neighbours
        sums = _AGAIN if _needs_second_pass(job, work[_TOTAL, c], work[_SQUARE, c], count) else 0
        total = work[_TOTAL + sums, c]
        m2 = work[_SQUARE + sums, c] - total * (total / count)
        state[0, at + c] = count
        state[1, at + c], state[2, at + c] = _two_sum(work[_SHIFT + sums, c], total / count)
        state[3, at + c] = 0.0 if m2 < 0.0 else m2


@_jit()
def _merge(a: Array, a_at: int, b: Array, b_at: int, columns: int) -> None:
    """Welford's update for whole sets, b into a: Chan, Golub and LeVeque (1979). See src/state.h."""
    for c in range(columns):
        i, j = a_at + c, b_at + c
        share = b[0, j] / (a[0, i] + b[0, j])
        delta = (b[1, j] - a[1, i]) + (b[2, j] - a[2, i])
        mean, error = _two_sum(a[1, i], delta * share)
        mean, error = _two_sum(mean, a[2, i] + error)
        finite = abs(delta) <= _LARGEST  # else there is inf in the data: inf + finite is inf
        a[1, i], a[2, i] = (mean, error) if finite else (a[1, i] + b[1, j], 0.0)
        a[3, i] = (a[3, i] + b[3, j]) + (delta * delta) * (a[0, i] * share)
        a[0, i] += b[0, j]


@_jit()
def _is_out_of_range(job: Job, m2: float) -> bool:
    return job.is_double and (not m2 <= 2.0**1000 or (m2 < 2.0**-900 and job.eps < 2.0**-900))


@_jit()
def _rescale(job: Job, data: Data, unit: int, work: Array, state: Array, at: int) -> None:
    """Make the state again, of the data times a power of two that brings columns out of range to about 1."""
    columns = _statistics(job, unit)[1]
    for c in range(columns):
        work[_SCALE, c] = math.sqrt(job.eps)
    for block in range(job.blocks):
        row, end, inner, n = _extent(job, unit, block)
        for r in range(row, end):
            first = _locate(data.axes, r)[0] + inner * job.x_step
            for i in range(n):
                value = abs(data.x[first + i * job.x_step])
                c = 0 if job.is_run else i
                if work[_SCALE, c] < value <= _LARGEST:
                    work[_SCALE, c] = value
    for c in range(columns):
        m2 = state[3, at + c]
        highest = 0 if m2 < 1.0 else 1000  # a constant slice is not scaled down: eps could become 0
        exponent = min(max(math.frexp(work[_SCALE, c])[1], -1000), highest)
        work[_SCALE, c] = math.ldexp(1.0, -exponent) if _is_out_of_range(job, m2) else 1.0
    for c in range(columns, _LANES):  # in the pattern run, the other lanes of the one statistic
        work[_SCALE, c] = work[_SCALE, 0]
    block_state = np.empty((4, columns))
    for block in range(job.blocks):
        into, into_at = (state, at) if block == 0 else (block_state, 0)
        _moments_block(job, data, unit, block, work, into, into_at)
        if block > 0:
            _merge(state, at, block_state, 0, columns)


@_jit()
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
        rstd = 1.0 / math.sqrt(state[3, i] / state[0, i] + job.eps * scale * scale)
        norm[0, j], norm[1, j], norm[2, j], norm[3, j] = state[1, i], state[2, i] * rstd, rstd, scale
        state[1, i] /= scale
        state[2, i] /= scale
        state[3, i] = state[3, i] / scale / scale


@_jit()
def _multiply_add(value: float, weight: float, bias: float) -> float:
    """Value * weight + bias, finite even if only the product is not."""
    y = value * weight + bias
    return y if abs(y) <= _LARGEST else 4.0 * (0.25 * value * weight + 0.25 * bias)


@_jit()
def _affine(n: int, work: Array, weight: Array, bias: Array, at: int, step: int) -> None:
    if step == 1:
        for i in range(n):
            work[_VALUE, i] = _multiply_add(work[_VALUE, i], weight[_index(at + i)], bias[_index(at + i)])
    else:
        w, b = weight[at], bias[at]
        for i in range(n):
            work[_VALUE, i] = _multiply_add(work[_VALUE, i], w, b)


@_jit()
def _store(n: int, work: Array, y: Array, at: int, step: int) -> None:
    if step == 1:
        for i in range(n):
            y[_index(at + i)] = work[_VALUE, i]
    else:
        for i in range(n):
            y[_index(at + i * step)] = work[_VALUE, i]


@_jit()
def _normalize(n: int, work: Array, is_run: bool) -> None:
    if is_run:
        mean, offset, rstd = work[_MEAN, 0], work[_OFFSET, 0], work[_RSTD, 0]
        for i in range(n):
            work[_VALUE, i] = (work[_VALUE, i] - mean) * rstd - offset
    else:
        for c in range(n):
            work[_VALUE, c] = (work[_VALUE, c] - work[_MEAN, c]) * work[_RSTD, c] - work[_OFFSET, c]


@_jit()
def _apply_block(job: Job, data: Data, unit: int, block: int, work: Array, norm: Array, at: int) -> None:
    row, end, inner, n = _extent(job, unit, block)
    for c in range(min(n, STRIP)):
        i = at if job.is_run else at + c
        work[_MEAN, c], work[_OFFSET, c] = norm[0, i], norm[1, i]
        work[_RSTD, c], work[_SCALE, c] = norm[2, i], norm[3, i]
    for r in range(row, end):
        x_row, y_row, affine_row = _locate(data.axes, r)
        for i in range(inner, inner + n, STRIP):
            part = min(STRIP, inner + n - i)
            _load(data.x, x_row + i * job.x_step, job.x_step, part, work)
            _normalize(part, work, job.is_run)
            _affine(part, work, data.weight, data.bias, affine_row + i * job.affine_step, job.affine_step)
            _store(part, work, data.y, y_row + i * job.y_step, job.y_step)


@_jit()
def merge_units(job: Job, data: Data, states: Array, norms: Array, units: int) -> None:
    """Merge the states of a unit's blocks into that of its first, and finish it."""
    work = np.empty((_WORK_ROWS, STRIP))
    for unit in range(units):
        first, columns = _statistics(job, unit)
        for block in range(1, job.blocks):
            _merge(states[0], first, states[block], first, columns)
        _finish(job, data, unit, work, states[0], first, norms, first)


@_jit()
def sweep(
    job: Job, data: Data, measure: bool, write: bool, states: Array, norms: Array, begin: int, end: int
) -> None:
    """Take the statistics of some blocks, or write their results, or both: then each block is a unit.

    What `states` or `norms` has no room for is not kept.
    """
    work = np.empty((_WORK_ROWS, STRIP))
    state_step, norm_step = min(states.shape[2], 1), min(norms.shape[1], 1)
    if state_step == 0:
        states = np.empty((1, 4, STRIP))
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
            if job.blocks == 1:
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
