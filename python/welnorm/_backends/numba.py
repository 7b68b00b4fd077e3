"""The Numba backend: what runs where there is no compiled extension.

This is its Python side: a problem becomes a `Job` of blocks, and threads share them out. The kernels are in
`_numba_kernels`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .. import _dtypes, _problem
from .._problem import Array, Problem, State
from ._numba_kernels import STRIP, Data, Job, merge_units, parallel_sweep, sweep

_BLOCK = 16384  # elements of a block in the pattern run: at most 128 KiB, within L2
_ROWS = 256  # rows of a block in the pattern cols
_SERIAL_BYTES = 1 << 16  # less work than this does not pay for a second thread


def normalize(problem: Problem, want_state: bool) -> State | None:
    """See `welnorm._backends`."""
    return _with_own_statistics(problem, want_state, write=True)


def apply(problem: Problem, mean: NDArray[np.float64], var: NDArray[np.float64]) -> None:
    """See `welnorm._backends`."""
    job, data, units, out = _make_job(problem)
    with np.errstate(all="ignore"):
        # in quarters, so that x - mean does not overflow where the result does not
        scale = np.where(np.abs(mean) > 2.0**960, 0.25, 1.0)
        rstd = 1.0 / (np.sqrt(var + problem.eps) * scale)
        norms = np.stack([row.ravel() for row in (mean * scale, np.zeros_like(rstd), rstd, scale)])
    with _team(problem.x.nbytes) as threads:
        _launch(job, data, units, False, True, np.empty((1, 4, 0)), norms, threads)
    if out is not problem.out:
        problem.out[...] = out


def moments(x: Array, reduced: tuple[int, ...]) -> State:
    """See `welnorm._backends`."""
    state = _with_own_statistics(Problem(x, x, reduced, (), None, None, 0.0), want_state=True, write=False)
    assert state is not None
    return state


def _with_own_statistics(problem: Problem, want_state: bool, write: bool) -> State | None:
    """Sweep over the data once where each unit is one block, else once to measure and once to write."""
    job, data, units, out = _make_job(problem)
    shape = problem.statistics_shape
    one_block = job.blocks == 1
    states = np.empty((job.blocks, 4, math.prod(shape) if want_state or not one_block else 0))
    norms = np.empty((4, 0 if one_block else math.prod(shape)))
    with _team(problem.x.nbytes) as threads:
        _launch(job, data, units, True, write and one_block, states, norms, threads)
        if not one_block:
            merge_units(job, data, states, norms, units)
            if write:
                _launch(job, data, units, False, True, states, norms, threads)
    if write and out is not problem.out:
        problem.out[...] = out
    if not want_state:
        return None
    mean, mean_lo, m2 = (row.reshape(shape) for row in states[0, 1:])
    return State(float(states[0, 0, 0]), mean, mean_lo, m2)


def _make_job(problem: Problem) -> tuple[Job, Data, int, Array]:
    """Return the job, its number of units, and what it writes: `out`, or a stand-in for odd strides."""
    x, out, reduced, affine = problem.x, problem.out, problem.reduced, problem.affine
    layout = _problem.layout(x, out, reduced, affine)
    if layout.inner > 1 or not (_is_plain(x) and _is_plain(out)):
        x, out = x.copy(order="C"), np.empty(out.shape, out.dtype)
        layout = _problem.layout(x, out, reduced, affine)
    axes = layout.axes // np.array([1, x.itemsize, out.itemsize, 1])
    outer, rows, inner = np.split(axes, [layout.outer, layout.outer + layout.reduced])
    outer_count, row_count, inner_count = (math.prod(group[:, 0].tolist()) for group in (outer, rows, inner))
    _, x_step, y_step, affine_step = inner[0].tolist() if layout.inner else (1, 1, 1, 0)

    is_run = layout.pattern == "run"
    block_inner, block_rows = (_BLOCK, max(1, _BLOCK // inner_count)) if is_run else (STRIP, _ROWS)
    across = -(-inner_count // block_inner)
    strips, segments = (1, across) if is_run else (across, 1)
    compute = _dtypes.COMPUTE[x.dtype]
    size = math.prod(x.shape[axis] for axis in affine)
    data = Data(
        x=_read_only(_memory(x)),
        y=_memory(out if out.flags.writeable else np.empty(0, out.dtype)),  # moments write nothing
        weight=_read_only(np.ones(size, compute) if problem.weight is None else problem.weight),
        bias=_read_only(np.zeros(size, compute) if problem.bias is None else problem.bias),
        axes=axes[: layout.outer + layout.reduced],
    )
    job = Job(
        row_count=row_count,
        inner_count=inner_count,
        x_step=x_step,
        y_step=y_step,
        affine_step=affine_step,
        is_run=is_run,
        strips=strips,
        blocks=-(-row_count // block_rows) * segments,
        segments=segments,
        block_rows=block_rows,
        block_inner=block_inner,
        is_double=x.dtype == np.float64,
        eps=problem.eps,
    )
    return job, data, outer_count * strips, out


def _is_plain(array: Array) -> bool:
    whole = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return whole and array.flags.aligned


def _memory(array: Array) -> Array:
    reach = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    return as_strided(array, (1 + reach // array.itemsize,), (array.itemsize,))


def _read_only(array: Array) -> Array:
    """Make a vector of one Numba type, whether or not the array is aligned and can be written to."""
    vector = np.require(array, requirements="A").reshape(-1).view()
    vector.flags.writeable = False
    return vector


_parallel_lock = threading.Lock()
_forked = False


_compiler_lock: Any = global_compiler_lock


def _after_fork() -> None:
    global _forked
    _forked = True
    _compiler_lock.release()


# A fork waits for a thread that is compiling: its child would find Numba's lock taken for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_compiler_lock.acquire,
        after_in_parent=_compiler_lock.release,
        after_in_child=_after_fork,
    )


@contextmanager
def _team(work_bytes: int) -> Iterator[int]:
    """Reserve threads for parallel launches, and say how many.

    One in a forked child, which Numba's OpenMP layer would kill; and one while another thread runs parallel
    code, as the process dies if Numba's workqueue layer is entered twice.
    """
    from .. import _threads

    config: Any = numba.config
    limit = min(_threads.get_num_threads(), config.NUMBA_NUM_THREADS)
    if limit == 1 or work_bytes < _SERIAL_BYTES or _forked or not _parallel_lock.acquire(blocking=False):
        yield 1
        return
    try:
        before = numba.get_num_threads()
        numba.set_num_threads(limit)
        try:
            yield limit
        finally:
            numba.set_num_threads(before)
    finally:
        _parallel_lock.release()


def _launch(
    job: Job, data: Data, units: int, measure: bool, write: bool, states: Array, norms: Array, threads: int
) -> None:
    """Share out all blocks among threads; see `sweep`."""
    tasks = units * job.blocks
    if min(threads, tasks) == 1:
        sweep(job, data, measure, write, states, norms, 0, tasks)
    else:
        parallel_sweep(job, data, measure, write, states, norms, tasks, min(threads, tasks))
