"""The compiled backend: hands a problem's layout and pointers to the drivers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _c, _dtypes
from .._problem import Problem, State, layout, statistics_shape

set_fast_lane = _c.set_fast_lane

# The drivers read float64 addresses: their own arrays are always contiguous and of that dtype.
_NONE = (None, None, None)


def normalize(problem: Problem, want_state: bool) -> State | None:
    """See `welnorm._backends`."""
    state = _empty_state(problem.x, problem.reduced) if want_state else None
    _run(problem, (None, None), _NONE if state is None else state[1:])
    return state


def apply(problem: Problem, mean: NDArray[np.float64], var: NDArray[np.float64]) -> None:
    """See `welnorm._backends`."""
    _run(problem, (np.ascontiguousarray(mean), np.ascontiguousarray(var)), _NONE)


def moments(x: NDArray[Any], reduced: tuple[int, ...]) -> State:
    """See `welnorm._backends`."""
    state = _empty_state(x, reduced)
    index = _dtypes.INDEX[x.dtype]
    _c.run(*layout(x, x, reduced, ()), index, index, x, None, None, None, 0.0, None, None, *state[1:])
    return state


def _run(problem: Problem, given: tuple[Any, Any], state: tuple[Any, Any, Any]) -> None:
    x, out = problem.x, problem.out
    _c.run(
        *layout(x, out, problem.reduced, problem.affine),
        _dtypes.INDEX[x.dtype],
        _dtypes.INDEX[out.dtype],
        x,
        out,
        problem.weight,
        problem.bias,
        problem.eps,
        *given,
        *state,
    )


def _empty_state(x: NDArray[Any], reduced: tuple[int, ...]) -> State:
    shape = statistics_shape(x.shape, reduced)
    count = float(math.prod(x.shape[axis] for axis in reduced))
    return State(count, np.empty(shape), np.empty(shape), np.empty(shape))
