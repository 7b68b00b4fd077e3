"""The rivals that compile a graph first: ONNX Runtime, OpenVINO and JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .cases import ADDS, GROUPS, MOMENTUM, NORMS, RMS_NORMS
from .contenders import Contender, Task, UnavailableError, builds

_INFERENCE = tuple(op for op in NORMS if op != "batch_norm_training")


# ONNX Runtime: a session of one node, and one for an activation, the parameters being constants of the model.
# OpenVINO: the same model.


@builds("onnxruntime", *_INFERENCE)
def _onnxruntime(task: Task) -> Contender:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph, NotImplemented

    a, case = task.arrays, task.case
    _check_onnx(task)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_onnx_model(task), options, providers=["CPUExecutionProvider"])
    except (InvalidGraph, NotImplemented):
        raise UnavailableError(f"has no {case.op} of {case.dtype} on CPUs") from None
    if case.op in ADDS:
        both = {"x": a.x, "residual": a.residual}
        return Contender("onnxruntime", lambda: session.run(None, both))
    feed = {"x": a.x}
    return Contender("onnxruntime", lambda: session.run(None, feed)[0])


def _check_onnx(task: Task) -> None:
    if task.case.dtype == "bfloat16":
        raise UnavailableError("takes no bfloat16 from NumPy")
    if task.case.layout == "nhwc":
        raise UnavailableError("its operators take channels first only")


@builds("openvino", *_INFERENCE)
def _openvino(task: Task) -> Contender:
    import openvino

    a, case = task.arrays, task.case
    _check_onnx(task)
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": task.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        compiled = core.compile_model(core.read_model(_onnx_model(task)), "CPU", settings)
    except RuntimeError as failure:  # operators that it does not know
        raise UnavailableError(
            f"has no {case.op} of {case.dtype}: {str(failure).splitlines()[0][:60]}"
        ) from None
    inputs = [a.x, a.residual] if case.op in ADDS else [a.x]

    def call() -> Any:
        results = compiled(inputs, share_inputs=True, share_outputs=True)  # into memory of its own
        return (results[0], results[1]) if case.op in ADDS else results[0]

    return Contender("openvino", call)


@builds("openvino", "batch_norm_training")
def _openvino_training(task: Task) -> Contender:
    raise UnavailableError("is for inference only")


def _onnx_model(task: Task) -> bytes:
    """Return a model of the case."""
    from onnx import helper, numpy_helper

    a, case = task.arrays, task.case
    constants = {"weight": a.weight, "bias": a.bias}
    inputs, outputs = ["x"], ["y"]
    attributes: dict[str, Any] = {"epsilon": case.eps}
    domain = ""
    # Versions old enough for every ONNX Runtime that knows the operator.
    opset, ir_version = 17, 8
    if case.op in ADDS:
        inputs.append("residual")
        outputs = ["y", "", "", "h"]
        domain = "com.microsoft"
        operator = "SkipLayerNormalization"
        if case.op == "add_rms_norm":
            operator = "SkipSimplifiedLayerNormalization"
            del constants["bias"]
    elif case.norm == "rms_norm":
        # What its transformer optimizer makes. ONNX's own RMSNormalization runs as its parts, node by node.
        operator = "SimplifiedLayerNormalization"
        attributes["axis"] = -1
        del constants["bias"]
    elif case.norm == "layer_norm":
        operator = "LayerNormalization"
        attributes["axis"] = -1
    elif case.norm == "group_norm":
        operator, opset, ir_version = "GroupNormalization", 21, 10
        attributes["num_groups"] = GROUPS
    elif case.norm == "instance_norm":
        operator = "InstanceNormalization"
    else:
        operator = "BatchNormalization"
        constants |= {"mean": a.running_mean, "var": a.running_var}
    nodes = [helper.make_node(operator, [*inputs, *constants], outputs, domain=domain, **attributes)]
    if case.activation == "gelu":
        opset, ir_version = 20, 9
    if case.activation:
        nodes.append(helper.make_node(case.activation.capitalize(), ["y"], ["z"]))
        outputs = ["z"]

    dtype = helper.np_dtype_to_tensor_dtype(a.x.dtype)
    graph = helper.make_graph(
        nodes,
        case.op,
        [helper.make_tensor_value_info(name, dtype, case.shape) for name in inputs],
        [helper.make_tensor_value_info(name, dtype, case.shape) for name in outputs if name],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()
    return model


@builds("onnxruntime", "batch_norm_training")
def _onnxruntime_training(task: Task) -> Contender:
    raise UnavailableError("is for inference only")


# JAX: the obvious code under jax.jit. XLA takes all CPUs of the process.


@builds("jax", *NORMS)
def _jax(task: Task) -> Contender:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = import_module("jax")
    a, case = task.arrays, task.case
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpus != task.threads:
        raise UnavailableError("takes all CPUs of the process")
    if case.dtype == "float64":
        raise UnavailableError("has float64 only if the whole process sets it so")
    call = jax.jit(_jax_norm(task))
    device = jax.devices("cpu")[0]
    arrays = [
        a.x,
        *([a.residual] if case.op in ADDS else []),
        a.weight,
        a.bias,
        a.running_mean,
        a.running_var,
    ]
    on_device = [jax.device_put(array, device) for array in arrays]

    def blocking() -> Any:
        return jax.block_until_ready(call(*on_device))

    def results() -> Any:
        made = blocking()
        return made[0] if case.norm == "batch_norm_training" else made

    return Contender("jax", results, as_array=lambda y: np.asarray(y, dtype=a.x.dtype))


def _jax_norm(task: Task) -> Callable[..., Any]:
    """Return the norm of the case as a function of its arrays; training returns running statistics, too."""
    jax: Any = import_module("jax")
    jnp = jax.numpy

    case, eps, ndim = task.case, task.case.eps, task.arrays.x.ndim
    axis = case.axis % ndim if isinstance(case.axis, int) else ndim - 1
    positions = tuple(i for i in range(1, ndim) if i != axis)
    along_channels = tuple(-1 if i == axis else 1 for i in range(ndim))
    activation = {None: lambda y: y, "relu": jax.nn.relu, "gelu": lambda y: jax.nn.gelu(y, approximate=False)}

    def normalize(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
        wide = x.astype(jnp.float32)
        mean = wide.mean(axes, keepdims=True)
        var = jnp.square(wide - mean).mean(axes, keepdims=True)
        return (wide - mean) * jax.lax.rsqrt(var + eps), mean, var

    def rows(x: Any, weight: Any, bias: Any) -> Any:
        if case.norm in RMS_NORMS:
            wide = x.astype(jnp.float32)
            return wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps) * weight
        return normalize(x, (-1,))[0] * weight + bias

    def grouped(x: Any) -> Any:
        if axis == 1:
            groups = x.reshape(x.shape[0], GROUPS, -1)
            return normalize(groups, (2,))[0].reshape(x.shape)
        groups = x.reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
        return normalize(groups, (1, 3))[0].reshape(x.shape)

    def norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        if case.layout == "rows":
            return activation[case.activation](rows(x, weight, bias)).astype(x.dtype)
        w, b, m, v = (p.reshape(along_channels) for p in (weight, bias, mean, var))
        if case.norm == "batch_norm_training":
            y, of_batch, var_of_batch = normalize(x, (0, *positions))
            count = x.size // weight.size
            new = m + MOMENTUM * (of_batch - m), v + MOMENTUM * (var_of_batch * (count / (count - 1)) - v)
            return (y * w + b).astype(x.dtype), new
        if case.norm == "batch_norm_inference":
            y = (x - m) * jax.lax.rsqrt(v + eps)
        else:
            y = normalize(x, positions)[0] if case.norm == "instance_norm" else grouped(x)
        return activation[case.activation](y * w + b).astype(x.dtype)

    if case.op in ADDS:
        return lambda x, residual, *rest: (norm(x + residual, *rest), x + residual)
    return norm
