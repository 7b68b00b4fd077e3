"""Who is measured: for a case, one call without arguments for each implementation that is present.

To add an op: its layouts in `cases.LAYOUTS`, its formula in `reference`, and here and in `rivals` one
function for each implementation, registered with `builds`. One without is reported as missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import welnorm as wn

from .cases import EPS, MOMENTUM
from .reference import Reference, WrongResultError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cases import Arrays, Case

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """One implementation, ready to be timed: each `call` returns the result."""

    name: str
    call: Call
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Missing:
    """An implementation that cannot be measured here, and why."""

    name: str
    reason: str


class UnavailableError(Exception):
    """An implementation cannot take part; the message is the reason shown in the report."""


@dataclass(frozen=True)
class Task:
    """What a builder gets: the case, its inputs, and how many threads to use."""

    case: Case
    arrays: Arrays
    threads: int


Builder = Callable[[Task], Contender]

#: Builders by implementation and op, filled by `builds`.
_BUILDERS: dict[tuple[str, str], Builder] = {}

#: In the order of the report. `welnorm` makes a new output each call, `welnorm-out` writes into a warm one.
IMPLEMENTATIONS = ("welnorm", "welnorm-out", "welnorm-numba", "numba", "numpy", "torch", "onnxruntime")
OURS = ("welnorm", "welnorm-out")
RIVALS = IMPLEMENTATIONS[len(OURS) :]


def builds(implementation: str, *ops: str) -> Callable[[Builder], Builder]:
    """Register a function that makes the contender of an implementation for some ops."""

    def register(builder: Builder) -> Builder:
        for op in ops:
            _BUILDERS[implementation, op] = builder
        return builder

    return register


def make_contenders(
    case: Case, arrays: Arrays, threads: int, names: Iterable[str] = IMPLEMENTATIONS
) -> list[Contender | Missing]:
    """Make and check the contenders of a case.

    Parameters
    ----------
    case : Case
        What to compute.
    arrays : Arrays
        Its inputs.
    threads : int
        Threads each contender uses; see also `same_threads`.
    names : iterable of str
        Which implementations, in this order.

    Returns
    -------
    list of Contender or Missing
        One for each name. A rival that is not installed, or computes something else, is a `Missing`.

    Raises
    ------
    ValueError
        If a name is unknown.
    WrongResultError
        If welnorm itself is grossly wrong.
    """
    names = tuple(names)
    if unknown := [name for name in names if name not in IMPLEMENTATIONS]:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {unknown[0]!r}")
    task = Task(case, arrays, threads)
    reference = Reference(case, arrays)
    return [_prepare(task, reference, name) for name in names]


def _prepare(task: Task, reference: Reference, name: str) -> Contender | Missing:
    try:
        made = _builder(name, task.case.op)(task)
        with made.context():
            error = reference.error(made.call())
    except UnavailableError as unavailable:
        return Missing(name, str(unavailable))
    except ModuleNotFoundError as missing:
        return Missing(name, "not installed" if missing.name == name else f"{missing.name} is not installed")
    except Exception as failure:
        if name in OURS:
            raise
        return Missing(name, _reason(failure))
    return Contender(name, made.call, made.context, error, made.note)


def _builder(name: str, op: str) -> Builder:
    from . import rivals  # noqa: F401  registers the builders of the rivals

    try:
        return _BUILDERS[name, op]
    except KeyError:
        raise UnavailableError(f"has no {op}") from None


def _reason(failure: Exception) -> str:
    if isinstance(failure, WrongResultError):
        return f"wrong result: {failure}"
    lines = str(failure).splitlines()
    return f"{type(failure).__name__}: {lines[0][:120]}" if lines else type(failure).__name__


def same_threads(threads: int, names: Iterable[str] = IMPLEMENTATIONS) -> AbstractContextManager[object]:
    """Limit welnorm, and the rivals in `names` that are installed, to `threads` threads."""
    from .rivals import THREAD_LIMITS

    limits = ExitStack()
    limits.enter_context(wn.num_threads(threads))
    for name in names:
        if name in THREAD_LIMITS:
            limits.enter_context(THREAD_LIMITS[name](threads))
    return limits


def _welnorm_call(task: Task) -> Callable[..., Any]:
    """Return welnorm's function for the case with everything given but `out`."""
    case, a = task.case, task.arrays
    if case.op == "layer_norm":
        return partial(wn.layer_norm, a.x, a.weight, a.bias, eps=EPS)
    return partial(
        wn.batch_norm,
        a.x,
        a.running_mean.copy(),
        a.running_var.copy(),
        a.weight,
        a.bias,
        training=case.op == "batch_norm_training",
        momentum=MOMENTUM,
        eps=EPS,
        axis=case.axis,
    )


@builds("welnorm", "layer_norm")
def _welnorm_layer_norm(task: Task) -> Contender:
    # Written out, because a partial adds a noticeable part of the time of the smallest calls.
    layer_norm, x, weight, bias = wn.layer_norm, task.arrays.x, task.arrays.weight, task.arrays.bias
    return Contender("welnorm", lambda: layer_norm(x, weight, bias))


@builds("welnorm-out", "layer_norm")
def _welnorm_layer_norm_out(task: Task) -> Contender:
    layer_norm, x, weight, bias = wn.layer_norm, task.arrays.x, task.arrays.weight, task.arrays.bias
    out = np.empty_like(x)
    return Contender("welnorm-out", lambda: layer_norm(x, weight, bias, out=out))


@builds("welnorm", "batch_norm_training", "batch_norm_inference")
def _welnorm_batch_norm(task: Task) -> Contender:
    return Contender("welnorm", _welnorm_call(task))


@builds("welnorm-out", "batch_norm_training", "batch_norm_inference")
def _welnorm_batch_norm_out(task: Task) -> Contender:
    return Contender("welnorm-out", partial(_welnorm_call(task), out=np.empty_like(task.arrays.x)))


@builds("welnorm-numba", "layer_norm", "batch_norm_training", "batch_norm_inference")
def _welnorm_numba(task: Task) -> Contender:
    if "numba" not in wn.available_backends():
        raise UnavailableError("the numba backend is not available here")
    return Contender("welnorm-numba", _welnorm_call(task), lambda: wn.backend("numba"))
