"""The compiled backend: hands a problem's layout and pointers to the drivers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _c, _dtypes
from .._problem import ACTIVATIONS, Array, Layout, Problem, State, layout, statistics_shape
from ._pieces import quantize_in_pieces

set_fast_lane = _c.set_fast_lane

_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}


def normalize(problem: Problem, want_state: bool) -> State | None:
    """See `welnorm._backends`."""
    if problem.addends is not None and not _is_plain(problem.x, *problem.addends):
        with np.errstate(all="ignore"):
            np.add(*problem.addends, out=problem.x)
        problem = problem._replace(addends=None)
    if problem.scale is not None:
        axes = _layout(problem)
        if axes.pattern == "cols" or axes.inner > 1:
            quantize_in_pieces(problem, normalize)
            return None
    state = _empty_state(problem.x, problem.reduced) if want_state else None
    _run(problem, state=state)
    return state


def apply(problem: Problem, mean: NDArray[np.float64], var: NDArray[np.float64]) -> None:
    """See `welnorm._backends`."""
    _run(problem, given=(np.ascontiguousarray(mean), np.ascontiguousarray(var)))


def moments(x: Array, reduced: tuple[int, ...], mask: Array | None) -> State:
    """See `welnorm._backends`."""
    problem = Problem(x, x, reduced, (), None, None, 0.0, mask=mask)
    state = _empty_state(x, reduced)
    _run(problem, state=state, writes=False, exact=True)
    # Exact sums have float64's range only, and no inf. What left it is for the driver that scales.
    least = 2.0**-900 if x.dtype == np.float64 else 0.0
    known = (state.m2 >= least) | (state.count <= 1)
    unsure = ~(np.isfinite(state.mean) & (state.m2 < 2.0**1000) & known)
    if np.any(unsure):
        scaled = _empty_state(x, reduced)
        _run(problem, state=scaled, writes=False)
        for array, other in zip(state, scaled, strict=True):
            np.copyto(array, other, where=unsure)
    return state


def _layout(problem: Problem) -> Layout:
    return layout(problem.x, problem.out, problem.reduced, problem.affine, problem.mask, group_columns=True)


def _run(
    problem: Problem,
    *,
    given: tuple[Array, Array] | None = None,
    state: State | None = None,
    writes: bool = True,
    exact: bool = False,
) -> None:
    x, out = problem.x, problem.out
    dtype = _dtypes.INDEX[x.dtype]
    pattern, outer, reduced, inner, group, axes = _layout(problem)
    _c.run(
        pattern,
        outer,
        reduced,
        inner,
        group,
        axes,
        dtype,
        dtype if problem.scale is not None else _dtypes.INDEX[out.dtype],
        x,
        out if writes else None,
        problem.weight,
        problem.bias,
        problem.eps,
        problem.centred,
        _ACTIVATION[problem.activation],
        problem.mask,
        problem.addends,
        problem.scale,
        problem.scale_is_given,
        given,
        None if state is None else tuple(state),
        exact,
    )


def _is_plain(*arrays: Array) -> bool:
    return all(array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _empty_state(x: NDArray[Any], reduced: tuple[int, ...]) -> State:
    shape = statistics_shape(x.shape, reduced)
    return State(*(np.empty(shape) for _ in State._fields))
