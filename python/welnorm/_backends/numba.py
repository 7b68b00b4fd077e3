"""The Numba backend: what runs where there is no compiled extension.

This is its Python side: a problem becomes a `Job` of blocks, and threads share them out. The kernels are in
`_numba_kernels`.
"""

from __future__ import annotations

import functools
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
from numpy.typing import DTypeLike, NDArray

from .. import _problem
from .._problem import Array, Problem, State
from ._numba_kernels import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    STRIP,
    Data,
    Job,
    merge_units,
    parallel_sweep,
    sweep,
)
from ._pieces import quantize_in_pieces

_BLOCK = 16384  # elements of a block in the pattern run: at most 128 KiB, within L2
_ROWS = 256  # rows of a block in the pattern cols
_SERIAL_BYTES = 1 << 16  # less work than this does not pay for a second thread


def normalize(problem: Problem, want_state: bool) -> State | None:
    """See `welnorm._backends`."""
    if problem.scale is not None:
        quantize_in_pieces(problem, normalize)
        return None
    if problem.addends is not None:
        with np.errstate(all="ignore"):
            np.add(*problem.addends, out=problem.x)
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
        _launch(job, data, units, False, True, np.empty((1, 5, 0)), norms, threads)
    if out is not problem.out:
        problem.out[...] = out


def moments(x: Array, reduced: tuple[int, ...], mask: Array | None) -> State:
    """See `welnorm._backends`."""
    problem = Problem(x, x, reduced, (), None, None, 0.0, mask=mask)
    exact = _exact_statistics(problem)
    wide = _needs_scaling(exact, x.dtype == np.float64)
    if not np.any(wide):
        return exact
    scaled = _with_own_statistics(problem, want_state=True, write=False)
    assert scaled is not None
    return State(*(np.where(wide, b, a) for a, b in zip(exact, scaled, strict=True)))


def _exact_statistics(problem: Problem) -> State:
    """Sum in pairs; NaN, or too few digits, where squares leave the range."""
    job, data, units, _ = _make_job(problem, is_exact=True)
    shape = problem.statistics_shape
    states = np.empty((job.blocks, 5, math.prod(shape)))
    norms = np.empty((4, 0))
    with _team(problem.x.nbytes) as threads:
        _launch(job, data, units, True, False, states, norms, threads)
    merge_units(job, data, states, norms, units)
    return State(*(row.reshape(shape) for row in states[0]))


def _needs_scaling(state: State, is_double: bool) -> NDArray[np.bool_]:
    """Tell where squares left the range, or may have: M2 of a constant is 0, too."""
    in_range = np.isfinite(state.mean) & (state.m2 <= 2.0**1000)
    if is_double:
        in_range &= (state.m2 >= 2.0**-900) | (state.count == 1)
    return ~in_range & (state.count > 0)


def _with_own_statistics(problem: Problem, want_state: bool, write: bool) -> State | None:
    """Sweep over the data once where each unit is one block, else once to measure and once to write."""
    job, data, units, out = _make_job(problem)
    shape = problem.statistics_shape
    one_block = job.blocks == 1
    states = np.empty((job.blocks, 5, math.prod(shape) if want_state or not one_block else 0))
    norms = np.empty((4, 0 if one_block else math.prod(shape)))
    with _team(problem.x.nbytes) as threads:
        _launch(job, data, units, True, write and one_block, states, norms, threads)
        if not one_block:
            merge_units(job, data, states, norms, units)
            if write:
                _launch(job, data, units, False, True, states, norms, threads)
    if write and out is not problem.out:
        problem.out[...] = out
    return State(*(row.reshape(shape) for row in states[0])) if want_state else None


def _make_job(problem: Problem, is_exact: bool = False) -> tuple[Job, Data, int, Array]:
    """Return the job, its number of units, and what it writes: `out`, or a stand-in for odd strides."""
    x, out, reduced, affine = problem.x, problem.out, problem.reduced, problem.affine
    mask = _plain_mask(problem)
    layout = _problem.layout(x, out, reduced, affine, mask)
    if layout.inner > 1 or not (_is_plain(x) and _is_plain(out)):
        x, out = x.copy(order="C"), np.empty(out.shape, out.dtype)
        layout = _problem.layout(x, out, reduced, affine, mask)
    axes = layout.axes // np.array([1, x.itemsize, out.itemsize, 1, 1])
    outer, rows, inner = np.split(axes, [layout.outer, layout.outer + layout.reduced])
    outer_count, row_count, inner_count = (math.prod(group[:, 0].tolist()) for group in (outer, rows, inner))
    _, x_step, y_step, affine_step, mask_step = inner[0].tolist() if layout.inner else (1, 1, 1, 0, 0)

    is_run = layout.pattern == "run"
    block_inner, block_rows = (_BLOCK, max(1, _BLOCK // inner_count)) if is_run else (STRIP, _ROWS)
    across = -(-inner_count // block_inner)
    strips, segments = (1, across) if is_run else (across, 1)
    size = math.prod(x.shape[axis] for axis in affine)
    data = Data(
        x=_memory(x),
        # moments write nothing
        y=_memory(out, writeable=True) if out.flags.writeable else np.empty(0, np.uint8),
        weight=_float64_vector(np.ones(size) if problem.weight is None else problem.weight),
        bias=_float64_vector(np.zeros(size) if problem.bias is None else problem.bias),
        mask=_NO_MASK if mask is None else _memory(mask),
        widened=_widened(x.dtype) if x.itemsize == 2 else _NOT_WIDENED,
        axes=axes[: layout.outer + layout.reduced],
    )
    job = Job(
        row_count=row_count,
        inner_count=inner_count,
        x_step=x_step,
        y_step=y_step,
        affine_step=affine_step,
        mask_step=mask_step,
        is_run=is_run,
        strips=strips,
        blocks=-(-row_count // block_rows) * segments,
        segments=segments,
        block_rows=block_rows,
        block_inner=block_inner,
        x_type=_type_of(x),
        y_type=_type_of(out),
        is_double=x.dtype == np.float64,
        is_centred=problem.centred,
        is_exact=is_exact,
        activation=_problem.ACTIVATIONS.index(problem.activation),
        eps=problem.eps,
    )
    return job, data, outer_count * strips, out


def _is_plain(array: Array) -> bool:
    whole = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return whole and array.flags.aligned


def _plain_mask(problem: Problem) -> Array | None:
    """Return the mask, or a copy where it takes more than a start and a step along the inner axes.

    What is broadcast stays so if a row counts as a whole: the pattern depends on it.
    """
    mask = problem.mask
    if mask is None:
        return None
    own = mask[tuple(slice(1) if stride == 0 else slice(None) for stride in mask.strides)]
    if not _is_plain(own):
        mask = np.broadcast_to(own.copy(order="C"), mask.shape)
    layout = _problem.layout(mask, mask, problem.reduced, problem.affine, mask)
    return mask.copy(order="C") if layout.pattern == "run" and layout.inner > 1 else mask


def _type_of(array: Array) -> int:
    if array.itemsize == 2:
        return FLOAT16 if array.dtype == np.float16 else BFLOAT16
    return FLOAT64 if array.dtype == np.float64 else FLOAT32


def _memory(array: Array, writeable: bool = False) -> Array:
    """Return the memory that an array with plain strides lies in, as bytes."""
    reach = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    length = 1 + reach // array.itemsize
    return as_strided(array, (length,), (array.itemsize,), writeable=writeable).view(np.uint8)


def _nothing(dtype: DTypeLike) -> Array:
    vector = np.empty(0, dtype)
    vector.flags.writeable = False
    return vector


_NO_MASK, _NOT_WIDENED = _nothing(np.uint8), _nothing(np.float32)


def _float64_vector(array: Array) -> Array:
    vector = np.require(array, np.float64, "A").reshape(-1).view()
    vector.flags.writeable = False
    return vector


@functools.cache
def _widened(dtype: np.dtype[Any]) -> Array:
    """Return what all bit patterns of a 16-bit type stand for."""
    with np.errstate(all="ignore"):
        table = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    table.flags.writeable = False
    return table


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
        limit = _threads_to_be_had(limit)
        before = numba.get_num_threads()
        numba.set_num_threads(limit)
        try:
            yield limit
        finally:
            numba.set_num_threads(before)
    finally:
        _parallel_lock.release()


_teams = threading.local()


def _threads_to_be_had(wanted: int) -> int:
    """Return how many threads, up to `wanted`, can exist at once: libgomp ends the process if one cannot.

    It keeps a team of threads for each thread that leads one, so they are tried out where that is to grow.
    See src/threads.c.
    """
    size: int = getattr(_teams, "size", 1)
    if wanted > size:
        _teams.size = size = 1 + _create_probes(wanted - 1)
    return min(wanted, size)


def _create_probes(wanted: int) -> int:
    """Create threads, all of them waiting at the gate, until no more can be had; return how many."""
    gate = threading.Event()
    probes: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            probe = threading.Thread(target=gate.wait, daemon=True)
            probe.start()
            probes.append(probe)
    except (RuntimeError, MemoryError):
        pass
    finally:
        gate.set()
        for probe in probes:
            probe.join()
    return len(probes)


def _launch(
    job: Job, data: Data, units: int, measure: bool, write: bool, states: Array, norms: Array, threads: int
) -> None:
    """Share out all blocks among threads; see `sweep`."""
    tasks = units * job.blocks
    if min(threads, tasks) == 1:
        sweep(job, data, measure, write, states, norms, 0, tasks)
    else:
        parallel_sweep(job, data, measure, write, states, norms, tasks, min(threads, tasks))
