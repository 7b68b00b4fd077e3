"""The rivals, each called the way its users call it; imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from .cases import ADDS, BLOCK, GROUPS, MOMENTUM, MOVES, NORMS, RMS_NORMS
from .contenders import Call, Contender, Task, UnavailableError, builds

_LAYER_NORMS = ("layer_norm", "add_layer_norm")


# NumPy: the obvious code. 16-bit data is widened first, for NumPy is slow and loses too much in 16 bits.


@builds("numpy", *NORMS)
def _numpy(task: Task) -> Contender:
    a, case = task.arrays, task.case
    normalize, activation = _numpy_norm(task), activate(case.activation)

    def norm(x: Any) -> Any:
        return activation(normalize(_wide(x))).astype(a.x.dtype, copy=False)

    def add_and_norm() -> Any:
        h = a.x + a.residual
        return norm(h), h

    return Contender("numpy", add_and_norm if case.op in ADDS else partial(norm, a.x))


def _wide(values: Any) -> Any:
    return values.astype(np.float32) if values.itemsize == 2 else values


def _numpy_norm(task: Task) -> Callable[[Any], Any]:
    """Return the norm of the case as a function of x."""
    a, case, eps = task.arrays, task.case, task.case.eps
    weight, bias = _wide(a.weight), _wide(a.bias)

    def rms_norm(x: Any) -> Any:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight

    def layer_norm(x: Any) -> Any:
        mean = x.mean(axis=-1, keepdims=True)
        var = x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(var + eps) * weight + bias

    if case.norm in RMS_NORMS:
        return rms_norm
    if case.norm in _LAYER_NORMS:
        return layer_norm

    assert isinstance(case.axis, int)
    axis, count = case.axis % a.x.ndim, a.x.size // a.weight.size
    positions = tuple(i for i in range(1, a.x.ndim) if i != axis)
    along_channels = [1] * a.x.ndim
    along_channels[axis] = -1
    weight, bias = weight.reshape(along_channels), bias.reshape(along_channels)
    running_mean, running_var = np.array(_wide(a.running_mean)), np.array(_wide(a.running_var))

    def training(x: Any) -> Any:
        mean = x.mean(axis=(0, *positions), keepdims=True)
        var = x.var(axis=(0, *positions), keepdims=True)
        running_mean[:] += MOMENTUM * (mean.ravel() - running_mean)
        running_var[:] += MOMENTUM * (var.ravel() * (count / (count - 1)) - running_var)
        return (x - mean) / np.sqrt(var + eps) * weight + bias

    def inference(x: Any) -> Any:
        scale = weight / np.sqrt(running_var.reshape(along_channels) + eps)
        return (x - running_mean.reshape(along_channels)) * scale + bias

    def instance_norm(x: Any) -> Any:
        mean = x.mean(axis=positions, keepdims=True)
        var = x.var(axis=positions, keepdims=True)
        return (x - mean) / np.sqrt(var + eps) * weight + bias

    batch, channels = a.x.shape[0], case.channels
    grouped = (batch, GROUPS, -1) if axis == 1 else (batch, -1, GROUPS, channels // GROUPS)
    in_group = (2,) if axis == 1 else (1, 3)

    def group_norm(x: Any) -> Any:
        groups = x.reshape(grouped)
        mean = groups.mean(axis=in_group, keepdims=True)
        var = groups.var(axis=in_group, keepdims=True)
        return ((groups - mean) / np.sqrt(var + eps)).reshape(x.shape) * weight + bias

    return {
        "batch_norm_training": training,
        "batch_norm_inference": inference,
        "instance_norm": instance_norm,
        "group_norm": group_norm,
    }[case.norm]


def activate(activation: str | None) -> Callable[[Any], Any]:
    """Return what a NumPy user does to an array for an activation, in place; gelu needs SciPy."""
    if activation is None:
        return lambda y: y
    if activation == "relu":
        return lambda y: np.maximum(y, 0, out=y)
    from scipy.special import erf  # type: ignore[import-untyped, unused-ignore]

    def gelu(y: Any) -> Any:
        y *= (0.5 * (1 + erf(_wide(y) * 0.5**0.5))).astype(y.dtype, copy=False)
        return y

    return gelu


@builds("numpy", *MOVES)
def _numpy_move(task: Task) -> Contender:
    x, shape = task.arrays.x, task.case.result_shape

    def to_blocked() -> Any:
        return np.ascontiguousarray(np.moveaxis(x.reshape(*shape[:2], BLOCK, *shape[2:-1]), 2, -1))

    def from_blocked() -> Any:
        return np.moveaxis(x, -1, 2).reshape(shape)

    return Contender("numpy", to_blocked if task.case.op == "to_blocked" else from_blocked)


# Numba: hand-written kernels into a warm output.


@builds("numba", *NORMS)
def _numba(task: Task) -> Contender:
    import numba

    from . import numba_kernels as kernels

    if numba.get_num_threads() < task.threads:
        raise UnavailableError(f"numba has only {numba.get_num_threads()} of {task.threads} threads")
    a, case = task.arrays, task.case
    if a.x.itemsize == 2:
        raise UnavailableError("has no 16-bit floats on CPUs")
    # The kernels see channels first as (N, C, S) and channels last as (rows, C).
    shape = (-1, case.shape[-1]) if case.axis == -1 or a.x.ndim == 2 else (*case.shape[:2], -1)
    if (case.norm, len(shape)) in (("group_norm", 2), ("instance_norm", 2)):
        raise UnavailableError("the kernel written by hand takes channels first only")
    kernel = kernels.compiled(case.op, len(shape) == 2, a.x.size >= kernels.WORTH_THREADS)
    outputs = (np.empty_like(a.x), np.empty_like(a.x)) if case.op in ADDS else (np.empty_like(a.x),)
    arguments: list[Any] = [a.x.reshape(shape)]
    if case.op in ADDS:
        arguments.append(a.residual.reshape(shape))
    if case.norm.startswith("batch_norm"):
        arguments += [a.running_mean.copy(), a.running_var.copy()]
    arguments += [a.weight] if case.norm in RMS_NORMS else [a.weight, a.bias]
    if case.norm == "batch_norm_training":
        arguments.append(MOMENTUM)
    elif case.norm == "group_norm":
        arguments.append(GROUPS)
    elif case.norm == "instance_norm":
        arguments.append(case.channels)
    arguments += [case.eps, *(out.reshape(shape) for out in outputs)]

    def call() -> Any:
        kernel(*arguments)
        return outputs

    return Contender("numba", call)


@contextmanager
def _numba_threads(threads: int) -> Iterator[None]:
    try:
        import numba
    except ImportError:
        yield
        return
    before = numba.get_num_threads()
    with suppress(ValueError):  # more than numba was started with: its contender reports that
        numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


# PyTorch: eager functions on tensors that share the arrays' memory.


def _tensor(array: Any) -> Any:
    """Return the tensor of an array's memory; bfloat16 goes by way of its bits."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> Any:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@builds("torch", *NORMS)
def _torch(task: Task) -> Contender:
    import torch

    case = task.case
    x, residual = _tensor(task.arrays.x), _tensor(task.arrays.residual)
    channels_last = case.layout == "nhwc"
    if channels_last:  # a stride order in PyTorch: the same memory, seen as NCHW
        x = x.movedim(-1, 1)
    norm = _torch_norm(task)

    def add_and_norm() -> Any:
        h = x + residual
        return norm(h), h

    call: Call = partial(norm, x)
    if case.op in ADDS:
        call = add_and_norm
    elif case.activation:
        activation = getattr(torch.nn.functional, case.activation)
        call = lambda: activation(norm(x))  # noqa: E731

    def as_array(tensor: Any) -> Any:
        return _array(tensor.movedim(1, -1) if channels_last else tensor)

    return Contender("torch", call, torch.inference_mode, as_array=as_array)


def _torch_norm(task: Task) -> Callable[[Any], Any]:
    """Return the norm of the case as a function of a tensor."""
    from torch.nn import functional

    a, eps, norm = task.arrays, task.case.eps, task.case.norm
    weight, bias = _tensor(a.weight), _tensor(a.bias)
    mean, var = _tensor(a.running_mean.copy()), _tensor(a.running_var.copy())
    layer_norm, rms_norm, shape = functional.layer_norm, functional.rms_norm, tuple(weight.shape)
    if norm in _LAYER_NORMS:
        return lambda x: layer_norm(x, shape, weight, bias, eps)
    if norm in RMS_NORMS:
        return lambda x: rms_norm(x, shape, weight, eps)
    if norm == "group_norm":
        return lambda x: functional.group_norm(x, GROUPS, weight, bias, eps)
    if norm == "instance_norm":
        return lambda x: functional.instance_norm(x, weight=weight, bias=bias, eps=eps)
    batch_norm, training = functional.batch_norm, norm == "batch_norm_training"
    return lambda x: batch_norm(x, mean, var, weight, bias, training, MOMENTUM, eps)


@builds("torch", *MOVES)
def _torch_move(task: Task) -> Contender:
    import torch

    x = _tensor(task.arrays.x)

    def to_blocked() -> Any:
        return x.unflatten(1, (-1, BLOCK)).movedim(2, -1).contiguous()

    def from_blocked() -> Any:
        return x.movedim(-1, 2).flatten(1, 2)

    call = to_blocked if task.case.op == "to_blocked" else from_blocked
    return Contender("torch", call, torch.inference_mode, as_array=_array)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


#: How to limit the threads of a rival, for those that have one setting for the whole process.
THREAD_LIMITS: Mapping[str, Callable[[int], AbstractContextManager[None]]] = MappingProxyType(
    {"numba": _numba_threads, "torch": _torch_threads}
)
