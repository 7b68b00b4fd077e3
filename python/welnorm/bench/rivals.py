"""The rivals, each called the way its users call it; imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from .cases import EPS, MOMENTUM
from .contenders import Contender, Task, UnavailableError, builds

_BATCH_NORMS = ("batch_norm_training", "batch_norm_inference")


# NumPy: the obvious code.


@builds("numpy", "layer_norm")
def _numpy_layer_norm(task: Task) -> Contender:
    a = task.arrays

    def call() -> Any:
        mean = a.x.mean(axis=-1, keepdims=True)
        var = a.x.var(axis=-1, keepdims=True)
        return (a.x - mean) / np.sqrt(var + EPS) * a.weight + a.bias

    return Contender("numpy", call)


@builds("numpy", *_BATCH_NORMS)
def _numpy_batch_norm(task: Task) -> Contender:
    a, axis = task.arrays, task.case.axis % task.arrays.x.ndim
    others = tuple(i for i in range(a.x.ndim) if i != axis)
    along_channels = [1] * a.x.ndim
    along_channels[axis] = -1
    weight, bias = a.weight.reshape(along_channels), a.bias.reshape(along_channels)
    running_mean, running_var = a.running_mean.copy(), a.running_var.copy()
    count = a.x.size // a.weight.size

    def training() -> Any:
        mean = a.x.mean(axis=others, keepdims=True)
        var = a.x.var(axis=others, keepdims=True)
        running_mean[:] += MOMENTUM * (mean.ravel() - running_mean)
        running_var[:] += MOMENTUM * (var.ravel() * (count / (count - 1)) - running_var)
        return (a.x - mean) / np.sqrt(var + EPS) * weight + bias

    def inference() -> Any:
        scale = weight / np.sqrt(running_var.reshape(along_channels) + EPS)
        return (a.x - running_mean.reshape(along_channels)) * scale + bias

    return Contender("numpy", training if task.case.op == "batch_norm_training" else inference)


# Numba: hand-written kernels into a warm output.


@builds("numba", "layer_norm", *_BATCH_NORMS)
def _numba(task: Task) -> Contender:
    import numba

    from . import numba_kernels as kernels

    if numba.get_num_threads() < task.threads:
        raise UnavailableError(f"numba has only {numba.get_num_threads()} of {task.threads} threads")
    a, case = task.arrays, task.case
    out = np.empty_like(a.x)
    # The kernels see channels first as (N, C, S) and channels last as (rows, C).
    shape = (-1, case.shape[-1]) if case.axis == -1 or a.x.ndim == 2 else (*case.shape[:2], -1)
    x2, out2 = a.x.reshape(shape), out.reshape(shape)
    kernel = kernels.compiled(case.op, len(shape) == 2, a.x.size >= kernels.WORTH_THREADS)
    running = () if case.op == "layer_norm" else (a.running_mean.copy(), a.running_var.copy())
    momentum = (MOMENTUM,) if case.op == "batch_norm_training" else ()
    arguments = (x2, *running, a.weight, a.bias, *momentum, EPS, out2)

    def call() -> Any:
        kernel(*arguments)
        return out

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


@builds("torch", "layer_norm")
def _torch_layer_norm(task: Task) -> Contender:
    import torch

    x, weight, bias = (torch.from_numpy(a) for a in (task.arrays.x, task.arrays.weight, task.arrays.bias))
    layer_norm, shape = torch.nn.functional.layer_norm, tuple(weight.shape)
    return Contender("torch", lambda: layer_norm(x, shape, weight, bias, EPS), torch.inference_mode)


@builds("torch", *_BATCH_NORMS)
def _torch_batch_norm(task: Task) -> Contender:
    import torch

    a, case = task.arrays, task.case
    x = torch.from_numpy(a.x)
    if case.axis == -1:  # channels last is a stride order in PyTorch: the same memory, seen as NCHW
        x = x.movedim(-1, 1)
    mean, var = torch.from_numpy(a.running_mean.copy()), torch.from_numpy(a.running_var.copy())
    weight, bias = torch.from_numpy(a.weight), torch.from_numpy(a.bias)
    batch_norm, training = torch.nn.functional.batch_norm, case.op == "batch_norm_training"

    def channels_first() -> Any:
        return batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS)

    def channels_last() -> Any:
        return channels_first().movedim(1, -1)

    return Contender("torch", channels_last if case.axis == -1 else channels_first, torch.inference_mode)


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


# ONNX Runtime: a session of one node, the parameters being constants of the model.


@builds("onnxruntime", "layer_norm", "batch_norm_inference")
def _onnxruntime(task: Task) -> Contender:
    import onnxruntime
    from onnx import helper, numpy_helper

    a, case = task.arrays, task.case
    constants = {"weight": a.weight, "bias": a.bias}
    if case.op == "layer_norm":
        node = helper.make_node("LayerNormalization", ["x", *constants], ["y"], axis=-1, epsilon=EPS)
    else:
        if case.axis == -1 and a.x.ndim > 2:
            raise UnavailableError("its BatchNormalization takes channels first only")
        constants |= {"mean": a.running_mean, "var": a.running_var}
        node = helper.make_node("BatchNormalization", ["x", *constants], ["y"], epsilon=EPS)

    dtype = helper.np_dtype_to_tensor_dtype(a.x.dtype)
    graph = helper.make_graph(
        [node],
        case.op,
        [helper.make_tensor_value_info("x", dtype, case.shape)],
        [helper.make_tensor_value_info("y", dtype, case.shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # Versions old enough for every ONNX Runtime that knows the operator.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": a.x}
    return Contender("onnxruntime", lambda: session.run(None, feed)[0])


@builds("onnxruntime", "batch_norm_training")
def _onnxruntime_training(task: Task) -> Contender:
    raise UnavailableError("is for inference only")


#: How to limit the threads of a rival, for those that have one setting for the whole process.
THREAD_LIMITS: Mapping[str, Callable[[int], AbstractContextManager[None]]] = MappingProxyType(
    {"numba": _numba_threads, "torch": _torch_threads}
)
