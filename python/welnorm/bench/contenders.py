"""Who is measured: for a case, one call without arguments for each implementation that is present.

To add an op: its layouts in `cases.LAYOUTS`, its formula in `reference`, and here and in `rivals` one
function for each implementation, registered with `builds`. One without is reported as missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import welnorm as wn

from .cases import ACTIVATIONS, ADDS, GROUPS, MOMENTUM, MOVES, NORMS, OPS, RMS_NORMS
from .reference import Reference, WrongResultError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cases import Arrays, Case

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """One implementation, ready to be timed: each `call` returns the result, or a pair of them.

    `as_array` makes an array of the case's layout of a result; it is used for the check and not timed.
    """

    name: str
    call: Call
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    error: float | None = None
    note: str = ""
    as_array: Callable[[Any], Any] = np.asarray


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

#: In the order of the report. `welnorm` makes a new output each call, `welnorm-out` writes into a warm one;
#: `welnorm-two-steps` does what a fused op does in two calls, both with warm outputs.
IMPLEMENTATIONS = (
    "welnorm",
    "welnorm-out",
    "welnorm-two-steps",
    "welnorm-numba",
    "numba",
    "numpy",
    "torch",
    "onnxruntime",
    "openvino",
    "jax",
)
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
        made = _builder(name, task.case)(task)
        with made.context():
            results = made.call()
            results = results if isinstance(results, (tuple, list)) else (results,)
            error = reference.error(*map(made.as_array, results))
    except UnavailableError as unavailable:
        return Missing(name, str(unavailable))
    except ModuleNotFoundError as missing:
        return Missing(name, "not installed" if missing.name == name else f"{missing.name} is not installed")
    except Exception as failure:
        if name in OURS:
            raise
        return Missing(name, _reason(failure))
    return replace(made, name=name, error=error)


def _builder(name: str, case: Case) -> Builder:
    from . import compiled_rivals, rivals  # noqa: F401  register the builders of the rivals

    if case.layout == "nchw16c" and case.op not in MOVES and not name.startswith("welnorm"):
        raise UnavailableError("has no blocked layout")
    try:
        return _BUILDERS[name, case.op]
    except KeyError:
        raise UnavailableError(f"has no {case.op}") from None


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
    """Return welnorm's function for the case with everything given but outputs."""
    case, a = task.case, task.arrays
    if case.op in MOVES:
        return partial(getattr(wn, case.op), a.x)
    data = (a.x, a.residual) if case.op in ADDS else (a.x,)
    extra: dict[str, Any] = {"eps": case.eps}
    if case.activation:
        extra["activation"] = case.activation
    if case.layout != "rows":
        extra["axis"] = case.axis

    if case.norm in RMS_NORMS:
        return partial(getattr(wn, case.norm), *data, a.weight, **extra)
    if case.norm == "group_norm":
        return partial(wn.group_norm, a.x, GROUPS, a.weight, a.bias, **extra)
    if not case.norm.startswith("batch_norm"):
        return partial(getattr(wn, case.norm), *data, a.weight, a.bias, **extra)
    buffers = (a.running_mean.copy(), a.running_var.copy())
    extra |= {"training": case.norm == "batch_norm_training", "momentum": MOMENTUM}
    return partial(wn.batch_norm, a.x, *buffers, a.weight, a.bias, **extra)


@builds("welnorm", *OPS)
def _welnorm(task: Task) -> Contender:
    call = _welnorm_call(task)
    # Written out where calls may be tiny: a partial with keywords would add a noticeable part of their time.
    x, weight, bias = task.arrays.x, task.arrays.weight, task.arrays.bias
    if task.case.op == "layer_norm":
        layer_norm = wn.layer_norm
        call = lambda: layer_norm(x, weight, bias)  # noqa: E731
    elif task.case.op == "rms_norm":
        rms_norm = wn.rms_norm
        call = lambda: rms_norm(x, weight)  # noqa: E731
    return Contender("welnorm", call)


@builds("welnorm-out", *NORMS)
def _welnorm_out(task: Task) -> Contender:
    x, weight, bias = task.arrays.x, task.arrays.weight, task.arrays.bias
    out = wn.aligned_empty(x.shape, x.dtype)
    if task.case.op == "layer_norm":
        layer_norm = wn.layer_norm
        return Contender("welnorm-out", lambda: layer_norm(x, weight, bias, out=out))
    if task.case.op == "rms_norm":
        rms_norm = wn.rms_norm
        return Contender("welnorm-out", lambda: rms_norm(x, weight, out=out))
    outputs = (
        {"out": out, "sum_out": wn.aligned_empty(x.shape, x.dtype)} if task.case.op in ADDS else {"out": out}
    )
    return Contender("welnorm-out", partial(_welnorm_call(task), **outputs))


@builds("welnorm-out", *MOVES)
def _welnorm_out_of_moves(task: Task) -> Contender:
    raise UnavailableError("a move always makes a new array")


@builds("welnorm-numba", *NORMS)
def _welnorm_numba(task: Task) -> Contender:
    if "numba" not in wn.available_backends():
        raise UnavailableError("the numba backend is not available here")
    return Contender("welnorm-numba", _welnorm_call(task), lambda: wn.backend("numba"))


@builds("welnorm-two-steps", *ADDS)
def _two_steps_of_adds(task: Task) -> Contender:
    x, residual, weight = task.arrays.x, task.arrays.residual, task.arrays.weight
    h, y, eps = np.empty_like(x), np.empty_like(x), task.case.eps
    if task.case.op == "add_rms_norm":
        norm = partial(wn.rms_norm, h, weight, eps=eps, out=y)
    else:
        norm = partial(wn.layer_norm, h, weight, task.arrays.bias, eps=eps, out=y)

    def call() -> Any:
        np.add(x, residual, out=h)
        return norm(), h

    return Contender("welnorm-two-steps", call)


@builds("welnorm-two-steps", *ACTIVATIONS)
def _two_steps_of_activations(task: Task) -> Contender:
    from .rivals import activate

    case = replace(task.case, op=task.case.norm)
    norm = partial(_welnorm_call(replace(task, case=case)), out=np.empty_like(task.arrays.x))
    activation = activate(task.case.activation)
    return Contender("welnorm-two-steps", lambda: activation(norm()))


@builds("welnorm-two-steps", *(op for op in OPS if op not in ADDS and op not in ACTIVATIONS))
def _one_step(task: Task) -> Contender:
    raise UnavailableError("it is one step")
